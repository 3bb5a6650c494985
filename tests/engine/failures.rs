//! What a failure stops and what it does not.

use std::fs;

use loramill_engine::run::events::{Event, StageState};

use crate::bed::{Bed, Heard};

const MAP: &str = "  echo: { images: photos, log: LOG }\n  cut: { images: echo, log: LOG }\n  gather: { images: cut, log: LOG }\n  \
                   other: { kind: cut, images: photos, letters: 9, log: LOG }";

fn failed_items(events: &[Event]) -> Vec<(String, String)> {
    let failed = |event: &Event| match event {
        Event::ItemFinished { item, error: Some(error), .. } => Some((item.clone(), error.clone())),
        _ => None,
    };
    events.iter().filter_map(failed).collect()
}

#[test]
fn with_keep_going_good_items_go_on_and_whole_stages_are_blocked() {
    let mut bed = Bed::new(MAP);
    bed.write("images/two.png", "broken");
    bed.keep_going = true;
    let (did, record, events) = bed.run_all();
    assert!(!record.is_ok());
    assert_eq!(did, ["cut one", "cut one", "cut three", "cut three", "cut two", "echo one", "echo three"]);
    assert_eq!(failed_items(&events), [("two".to_string(), "the text is broken".to_string())]);
    let state = |stage: &str| record.stage(stage).unwrap().state;
    assert_eq!(state("echo"), StageState::Failed);
    assert_eq!(state("cut"), StageState::Blocked);
    assert_eq!(state("gather"), StageState::Blocked);
    assert_eq!(state("other"), StageState::Ran);
    assert_eq!(bed.lock().stages.keys().collect::<Vec<_>>(), ["other"], "no row for what is not complete");

    // Repaired: only what is missing runs.
    bed.write("images/two.png", "text two");
    assert_eq!(bed.run(), ["cut two", "cut two", "echo two", "gather"]);
}

#[test]
fn a_photo_that_is_skipped_blocks_nothing_however_broken_it_is() {
    let bed = Bed::new(MAP);
    bed.write("images/two.png", "broken");
    // Neither hashed nor opened: a pointer, and a name that another photo has.
    bed.write("images/three.png", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    bed.write("images/three.jpg", "text");
    bed.file("skip: [two, thr*]", MAP);
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok(), "{events:?}");
    assert_eq!(did, ["cut one", "cut one", "echo one", "gather"]);
    bed.file("skip: ['*']", MAP);
    let problem = format!("{:#}", bed.try_run(&Heard::default()).unwrap_err());
    assert!(problem.contains("`skip:` leaves out all 3 photos of input `photos`"), "{problem}");
}

#[test]
fn without_keep_going_a_failure_ends_the_run_and_keeps_the_old_row() {
    let bed = Bed::new("  echo: { images: photos, log: LOG }\n  gather: { images: echo, log: LOG }");
    bed.run();
    let lock = fs::read(bed.at("pipeline.lock")).unwrap();
    bed.write("images/two.png", "broken");
    let (did, record, events) = bed.run_all();
    assert!(did.is_empty());
    assert_eq!(record.stage("echo").unwrap().state, StageState::Failed);
    assert_eq!(record.stage("gather").unwrap().state, StageState::Blocked);
    assert_eq!(failed_items(&events).len(), 1);
    assert_eq!(fs::read(bed.at("pipeline.lock")).unwrap(), lock);
    assert_eq!(bed.plan().stage("echo").unwrap().dirty, ["two"], "a failure is no result");
}

#[test]
fn a_panic_in_a_stage_is_an_error_of_its_item() {
    let mut bed = Bed::new(MAP);
    bed.write("images/two.png", "panic");
    bed.keep_going = true;
    let (_, record, events) = bed.run_all();
    assert_eq!(record.stage("echo").unwrap().state, StageState::Failed);
    let failed = failed_items(&events);
    assert_eq!(failed.len(), 1);
    assert!(failed[0].1.contains("the text makes it panic") && failed[0].1.contains("kinds.rs"), "{failed:?}");
}

#[test]
fn an_input_that_changes_under_a_stage_discards_the_result() {
    let bed = Bed::new("  learn: { images: photos, base: base, wait_at: 2, log: LOG }");
    let heard = Heard::default();
    let record = std::thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        while !bed.log().iter().any(|line| line == "learn 1") {
            std::thread::yield_now();
        }
        bed.write("base.safetensors", "a base that somebody wrote meanwhile");
        bed.requests.save_now();
        running.join().expect("no panic").expect("the run itself does not fail")
    });
    let learn = record.stage("learn").unwrap();
    assert_eq!(learn.state, StageState::Failed);
    assert!(learn.note.as_ref().unwrap().contains("base.safetensors` was changed"), "{learn:?}");
    assert!(!bed.at("pipeline.lock").exists());
}
