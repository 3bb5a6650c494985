//! The cases that take milliseconds, as tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::hostile::all;
use crate::hostile::attempt::{Limits, attempt, command};
use crate::hostile::case::Case;
use crate::hostile::ground::{Ground, Templates};

/// More than the bench allows, because the other tests take their share of the machine; and what the process of all tests holds counts as
/// memory of a process which it starts.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), memory: u64::MAX };

/// So many cases at once: one that waits for something that never comes holds up no other.
const THREADS: usize = 8;

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
    let templates = Arc::new(Templates::new());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("threads of its own");
    let examine = |case: &Case| failures(case, &templates);
    let found: Vec<String> = pool.install(|| all().par_iter().with_max_len(1).flat_map(examine).collect());
    assert!(found.is_empty(), "{} failures:\n{}", found.len(), found.join("\n"));
}

#[test]
fn there_are_more_than_600_cases_and_each_has_a_name_of_its_own() {
    let cases = all();
    assert!(cases.len() >= 600, "{} cases", cases.len());
    let names: BTreeSet<String> = cases.iter().map(Case::id).collect();
    assert_eq!(names.len(), cases.len());
    assert!(names.iter().all(|name| !name.contains('\n')));
    assert!(cases.iter().all(|case| !case.lines.is_empty()));
}
