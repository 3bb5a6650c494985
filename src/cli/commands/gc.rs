//! `loramill gc`: frees space in the cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::target::cache_folder::CacheArguments;
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::progress_line::duration;
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::Cache;
use crate::engine::cache::bytes::size;
use crate::engine::gc::collect::{Amount, CollectOptions, Collected, collect};
use crate::engine::kind::stage_kind::Worth;
use crate::stages::KINDS;

const DAY: u64 = 24 * 60 * 60;

/// Show what in the cache is no longer needed; with `--yes`, delete it
///
/// Keeps what any `pipeline.lock` names in the work trees, branches, tags, stashes and reflogs of every repository that uses the cache, and
/// the results of interrupted runs, which the next run resumes from.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub cache: CacheArguments,
    /// Delete; without it nothing is changed
    #[arg(short, long)]
    yes: bool,
    /// Evict until the cache is at most this size, `60G` or `500M`: also needed results that can be made again; merged models first, LoRAs and captions last
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Also delete results referenced only by old commits, stashes and reflogs
    #[arg(long)]
    no_history: bool,
    /// Also delete the results of interrupted runs and trainings that were not resumed for this many days
    #[arg(long, value_name = "DAYS")]
    unfinished: Option<u64>,
    /// Stop keeping the results of a repository that no longer exists
    #[arg(long, value_name = "DIR")]
    forget: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Without `--yes` this changes nothing and prints what it would delete and forget.
///
/// # Errors
/// `WrongArguments` if there is no cache here, or it does not know a folder of `--forget`. With `--yes`, if not all that must be
/// kept can be read: then nothing is deleted.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let cache = arguments.cache.open(global)?;
    let forgotten = roots_named(&cache, &arguments.forget)?;
    for root in &forgotten {
        if arguments.yes {
            cache.forget_root(root)?;
        }
        let done = if arguments.yes { "is forgotten" } else { "would be forgotten: `--yes` does it" };
        global.say(&format!("`{}` {done}", root.display()));
    }
    let options = CollectOptions {
        delete: arguments.yes,
        history: !arguments.no_history,
        unfinished: arguments.unfinished.map(|days| Duration::from_secs(days.saturating_mul(DAY))),
        max_size: arguments.max_size,
        forgotten: &forgotten,
    };
    let collected = collect(&cache, arguments.cache.folder(), &options, &worth)?;
    if arguments.json {
        print_json(&to_json(&cache, &collected))?;
    } else {
        print(&text(&cache, &collected, &options))?;
    }
    for problem in &collected.problems {
        global.say(&format!("warning: {}", problem.text));
    }
    if !collected.problems.is_empty() && options.delete {
        anyhow::bail!("nothing was deleted, because not all that must be kept is known");
    }
    Ok(ExitCode::SUCCESS)
}

fn worth(kind: &str) -> Worth {
    KINDS.iter().find(|known| known.name == kind).map_or(Worth::Usual, |kind| kind.worth)
}

/// The roots of the cache that the user names.
///
/// # Errors
/// `WrongArguments` for a folder that is none.
fn roots_named(cache: &Cache, named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let known = cache.roots()?;
    let root_named = |name: &PathBuf| {
        let full = std::path::absolute(name).with_context(|| format!("looking for `{}`", name.display()))?;
        if let Some(root) = known.iter().find(|root| **root == *name || **root == full) {
            return Ok(root.clone());
        }
        let listed: Vec<String> = known.iter().map(|root| format!("`{}`", root.display())).collect();
        let listed = if listed.is_empty() { "none does".to_string() } else { format!("these do: {}", listed.join(", ")) };
        Err(WrongArguments(format!("`{}` does not use this cache; {listed}", name.display())).into())
    };
    named.iter().map(root_named).collect()
}

/// `60G`, `1.5 TB`, `500MiB`, `4096`. Without an `i`, units are powers of 1000, as on the box of a disk.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write `60G` or `500M`");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024f64),
        None => (unit, 1000f64),
    };
    let power = match letter {
        "" if base == 1000.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    Ok((number * base.powi(power)) as u64)
}

fn text(cache: &Cache, collected: &Collected, options: &CollectOptions<'_>) -> String {
    let mut text = format!("{}: {}\n", cache.root().display(), size(collected.total));
    let mut rows = Rows::default();
    let used_by = match collected.repositories.as_slice() {
        [] => "named by lock files".to_string(),
        [one] => format!("named by the lock files of {}", shown(&one.path)),
        more => format!("named by the lock files of {}", counted_repositories(more.len())),
    };
    rows.add("kept", &used_by, collected.named);
    rows.add("", "made or used by runs that have not ended", collected.unfinished);
    rows.add("", "states of trainings", collected.states);
    let goes = if collected.deleted { "deleted" } else { "can go" };
    add_kinds(&mut rows, goes, &collected.garbage);
    add_kinds(&mut rows, if collected.deleted { "evicted" } else { "would be evicted" }, &collected.evicted);
    rows.add(goes, "old states of trainings", collected.old_states);
    rows.add(goes, "files displaced long ago", collected.old_displaced);
    text.push_str(&rows.to_text());

    let freed = collected.freed();
    let again =
        if freed.seconds > 0.0 { format!("; to make it again takes about {}", duration(freed.seconds)) } else { String::new() };
    let _ = match (freed.count, collected.deleted) {
        (0, _) => writeln!(text, "nothing to delete"),
        (_, true) => writeln!(text, "freed {}{again}", size(freed.bytes)),
        (_, false) => writeln!(text, "nothing is deleted yet: `--yes` frees {}{again}", size(freed.bytes)),
    };
    if collected.linked > 0 {
        let _ = writeln!(
            text,
            "{} of it are hard links shared with `out/` folders: their space is freed when they are deleted there too",
            size(collected.linked)
        );
    }
    let left = collected.total.saturating_sub(freed.bytes);
    if let Some(max_size) = options.max_size.filter(|max_size| left > *max_size) {
        let _ = writeln!(text, "{} remain, more than {}: nothing else can be made again", size(left), size(max_size));
    }
    if let (Some(age), None) = (collected.oldest_unfinished, options.unfinished) {
        let days = age.as_secs() / DAY;
        if days >= 14 {
            let _ = writeln!(
                text,
                "a run was interrupted {days} days ago and never resumed: `--unfinished {days}` deletes its results"
            );
        }
    }
    text
}

fn add_kinds(rows: &mut Rows, verb: &str, kinds: &BTreeMap<String, Amount>) {
    let mut kinds: Vec<(&String, &Amount)> = kinds.iter().collect();
    kinds.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    for (kind, amount) in kinds {
        rows.add(verb, if kind.is_empty() { "lists and texts" } else { kind }, *amount);
    }
}

fn counted_repositories(count: usize) -> String {
    if count == 1 { "1 repository".to_string() } else { format!("{count} repositories") }
}

/// Lines of four columns; a verb is said once.
#[derive(Default)]
struct Rows(Vec<(String, String, Amount)>);

impl Rows {
    fn add(&mut self, verb: &str, what: &str, amount: Amount) {
        let is_first = self.0.is_empty();
        if amount.count > 0 || is_first {
            self.0.push((verb.to_string(), what.to_string(), amount));
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self.0.iter().map(|(verb, _, _)| verb.chars().count()).max().unwrap_or_default();
        let mut said = "";
        for (verb, what, amount) in &self.0 {
            let shown = if verb == said { "" } else { verb };
            said = if verb.is_empty() { said } else { verb };
            let time = if amount.seconds > 0.0 { format!(", {}", duration(amount.seconds)) } else { String::new() };
            let _ =
                writeln!(text, "  {shown:<width$}  {:>8}  {what} ({}{time})", size(amount.bytes), counted(amount.count, "file"));
        }
        text
    }
}

/// The contract of `gc --json`. Sizes are bytes, times seconds.
fn to_json(cache: &Cache, collected: &Collected) -> serde_json::Value {
    let amount = |amount: Amount| json!({ "files": amount.count, "bytes": amount.bytes, "seconds": amount.seconds });
    let kinds = |kinds: &BTreeMap<String, Amount>| {
        let all = kinds.iter().map(|(kind, part)| {
            let mut value = amount(*part);
            value["kind"] = if kind.is_empty() { serde_json::Value::Null } else { kind.as_str().into() };
            value
        });
        all.collect::<serde_json::Value>()
    };
    let repositories = collected.repositories.iter().map(|repository| {
        json!({ "path": repository.path.display().to_string(), "history": repository.has_history, "locks": repository.locks })
    });
    let problems = collected.problems.iter();
    let problems = problems.map(|problem| json!({ "path": problem.path.display().to_string(), "text": problem.text }));
    let freed = collected.freed();
    json!({
        "cache": cache.root().display().to_string(),
        "bytes": collected.total,
        "deleted": collected.deleted,
        "freed": amount(freed),
        "recompute_seconds": freed.seconds,
        "kept": {
            "named": amount(collected.named),
            "unfinished": amount(collected.unfinished),
            "states": amount(collected.states),
        },
        "garbage": kinds(&collected.garbage),
        "evicted": kinds(&collected.evicted),
        "old_states": amount(collected.old_states),
        "old_displaced": amount(collected.old_displaced),
        "linked_bytes": collected.linked,
        "repositories": repositories.collect::<serde_json::Value>(),
        "problems": problems.collect::<serde_json::Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("4096", 4096),
            ("60G", 60_000_000_000),
            ("1.5 TB", 1_500_000_000_000),
            ("500MiB", 500 << 20),
            ("2ki", 2048),
            ("0", 0),
            ("7b", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "60X", "-1G", "60GG", "1.2.3G", "60 i"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
