//! Every input of the fuzzer's corpus, and every input that ever failed, tried again: `tests/fuzz/run` finds them.

mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use targets::{Ground, TARGETS};

const FOLDER: &str = "tests/fuzz";

/// In the order of their names.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    inputs
}

fn try_again(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let ground = Ground::new(crate::diagnostics::kinds::KINDS);
    let corpus = inputs(&Path::new(FOLDER).join("corpus").join(name));
    assert!(!corpus.is_empty() && corpus.len() <= 300, "{} inputs", corpus.len());
    for input in corpus.into_iter().chain(inputs(&Path::new(FOLDER).join("found").join(name))) {
        let bytes = fs::read(&input).expect("an input");
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| target(&ground, &bytes)));
        assert!(ended.is_ok(), "{} fails, see above", input.display());
        // Ten times of what fuzzing allows: the other tests take their share of the machine.
        assert!(began.elapsed() < Duration::from_secs(10), "{} takes {:?}", input.display(), began.elapsed());
    }
}

#[test]
fn pipeline_files() {
    try_again("pipeline");
}

#[test]
fn locks() {
    try_again("lock");
}

#[test]
fn record_logs() {
    try_again("records");
}

#[test]
fn other_files_of_a_cache() {
    try_again("forms");
}

#[test]
fn model_files() {
    try_again("model");
}
