//! Takes out of a diagnosis what tells whose computer it is: the home folder, the user's name, numbers of single cards.

use crate::computer::doctor::Diagnosis;
use crate::computer::machine::Machine;

/// Names that say nothing of a person.
const NOBODY: &[&str] = &["root", "user", "nobody"];

/// The diagnosis as it may be shown to strangers.
pub fn scrubbed(mut diagnosis: Diagnosis, machine: &Machine) -> Diagnosis {
    let secrets = Secrets::of(machine);
    let clean = |text: &mut String| *text = secrets.out_of(text);
    for check in &mut diagnosis.checks {
        clean(&mut check.summary);
        check.evidence.iter_mut().for_each(clean);
        check.fix.iter_mut().chain(&mut check.verify).for_each(clean);
    }
    for device in &mut diagnosis.devices {
        clean(&mut device.name);
        device.because.iter_mut().for_each(clean);
    }
    diagnosis.facts.iter_mut().for_each(|(_, value)| clean(value));
    diagnosis
}

/// What must not be told, with what stands for it; the longest first.
struct Secrets(Vec<(String, &'static str)>);

impl Secrets {
    fn of(machine: &Machine) -> Self {
        let mut secrets = Vec::new();
        let home = machine.environment.get("HOME").map(|home| home.trim_end_matches('/'));
        secrets.extend(home.filter(|home| home.len() > 1).map(|home| (home.to_string(), "~")));
        let named = ["USER", "LOGNAME"].into_iter().filter_map(|name| machine.environment.get(name));
        let names =
            machine.system.user.name.iter().chain(named).filter(|name| !name.is_empty() && !NOBODY.contains(&name.as_str()));
        secrets.extend(names.map(|name| (name.clone(), "USER")));
        let gpus = machine.nvidia.iter().flat_map(|nvidia| &nvidia.gpus).filter_map(|gpu| gpu.uuid.clone());
        secrets.extend(machine.amd.iter().filter_map(|gpu| gpu.uuid.clone()).chain(gpus).map(|uuid| (uuid, "GPU-…")));
        secrets.sort_by_key(|(secret, _)| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    fn out_of(&self, text: &str) -> String {
        self.0.iter().fold(text.to_string(), |text, (secret, instead)| replace_words(&text, secret, instead))
    }
}

/// Replaces `word` where it is not part of a longer one.
fn replace_words(text: &str, word: &str, instead: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric();
    let mut replaced = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        let stands_alone =
            !text[..at].chars().next_back().is_some_and(is_part) && !text[end..].chars().next().is_some_and(is_part);
        if stands_alone {
            replaced.push_str(&text[done..at]);
            replaced.push_str(instead);
            done = end;
        }
    }
    replaced + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_where_it_stands_alone() {
        let secrets = Secrets(vec![("/home/al".into(), "~"), ("al".into(), "USER")]);
        assert_eq!(
            secrets.out_of("/home/al/cache of al, all al-models, /media/al"),
            "~/cache of USER, all USER-models, /media/USER"
        );
        assert_eq!(secrets.out_of("/home/alice"), "/home/alice", "another one's");
    }
}
