//! The cases that take milliseconds, as tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::hostile::attempt::{Limits, attempt, command};
use crate::hostile::case::Case;
use crate::hostile::ground::{Ground, Templates};
use crate::hostile::{KNOWN_FAILURES, all};

/// More than the bench allows, because the other tests take their share of the machine; and what the process of all tests holds counts as
/// memory of a process which it starts.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), memory: u64::MAX };

/// So many cases at once: one that waits for something that never comes holds up no other.
const THREADS: usize = 8;

/// The families whose cases pass but for those that are listed; the bench tries the others too.
const FAMILIES: &[&str] = &[
    "bombs",
    "cache",
    "git",
    "jpeg",
    "links and pipes",
    "lock",
    "lora",
    "names",
    "photo folders",
    "pickle calls",
    "pickle damage",
    "png",
    "safetensors",
    "webp",
    "yaml",
    "zip",
];

/// What is wrong with what came of a case, one line each; the other lines of one that fails are left out.
fn failures(case: &Case, templates: &Arc<Templates>) -> Vec<String> {
    let mut found = Vec::new();
    for line in case.light_lines() {
        if !found.is_empty() {
            break;
        }
        let ground = Ground::new(templates);
        let starting = |ground: &Ground| command(&ground.project(), &ground.home(), &ground.tmp());
        let tried = attempt(case, &ground, line, LIMITS, starting, |_| Vec::new());
        found.extend(tried.failures.iter().map(|failure| format!("{}: `loramill {}`: {failure}", case.id(), line.join(" "))));
    }
    found
}

#[test]
fn no_hostile_file_or_folder_does_harm() {
    let known: BTreeSet<&str> = KNOWN_FAILURES.lines().collect();
    let blesses = std::env::var_os("LORAMILL_BLESS").is_some();
    let templates = Arc::new(Templates::new());
    let tried: Vec<Case> = all()
        .into_iter()
        .filter(|case| FAMILIES.contains(&case.family) && (blesses || !known.contains(case.id().as_str())))
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("threads of its own");
    let examine = |case: &Case| (case.id(), failures(case, &templates));
    let found: Vec<(String, Vec<String>)> = pool.install(|| tried.par_iter().with_max_len(1).map(examine).collect());
    let failed = || found.iter().filter(|(_, failures)| !failures.is_empty());
    if blesses {
        let list: String = failed().map(|(id, _)| format!("{id}\n")).collect();
        std::fs::write("tests/hostile/known_failures.txt", list).expect("the list can be written");
        return;
    }
    let failures: Vec<&str> = failed().flat_map(|(_, failures)| failures).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn there_are_more_than_600_cases_and_each_has_a_name_of_its_own() {
    let cases = all();
    assert!(cases.len() >= 600, "{} cases", cases.len());
    let names: BTreeSet<String> = cases.iter().map(Case::id).collect();
    assert_eq!(names.len(), cases.len());
    assert!(names.iter().all(|name| !name.contains('\n')));
    let unknown: Vec<&str> = KNOWN_FAILURES.lines().filter(|known| !names.contains(*known)).collect();
    assert!(unknown.is_empty(), "known failures of no case: {unknown:?}");
    assert!(cases.iter().all(|case| !case.lines.is_empty()));
}
