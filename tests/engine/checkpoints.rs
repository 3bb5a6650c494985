//! What a stage publishes before it ends, who runs on it, and how it goes on after an interruption.

use std::thread;

use loramill_engine::run::events::{Event, StageState};

use crate::bed::{Bed, Heard};

const TRAIN: &str = "  learn: { images: photos, log: LOG }\n  draw: { lora: learn, prompts: [a, b], log: LOG }";

/// Waits until `line` was written down.
fn wait_for(bed: &Bed, line: &str) {
    while !bed.log().iter().any(|l| l == line) {
        thread::yield_now();
    }
}

#[test]
fn drawings_are_made_between_two_epochs() {
    let bed = Bed::new(TRAIN);
    let (_, record, _) = bed.run_all();
    assert!(record.is_ok());
    assert_eq!(
        bed.log(),
        [
            "learn 1",
            "learn 2",
            "save 2",
            "draw e002-0",
            "draw e002-1",
            "grid of 2",
            "learn 3",
            "learn 4",
            "save 4",
            "draw e004-0",
            "draw e004-1",
            "grid of 4"
        ]
    );
    let draw = record.stage("draw").unwrap();
    assert_eq!((draw.state, draw.counts.total, draw.counts.ran, draw.counts.cached), (StageState::Ran, 4, 4, 0));
    assert!(bed.run().is_empty());
}

#[test]
fn a_drawing_is_the_same_whether_drawn_between_epochs_or_later() {
    let at_once = Bed::new(TRAIN);
    at_once.run();
    let mut later = Bed::new(TRAIN);
    later.targets = vec!["learn"];
    later.run();
    later.targets = Vec::new();
    assert_eq!(later.run(), ["draw e002-0", "draw e002-1", "draw e004-0", "draw e004-1", "grid of 4"]);
    assert_eq!(at_once.digests("draw"), later.digests("draw"));
}

#[test]
fn a_further_prompt_redraws_nothing_and_trains_nothing() {
    let bed = Bed::new(TRAIN);
    bed.run();
    bed.stages(&TRAIN.replace("[a, b]", "[a, b, c]"));
    assert_eq!(bed.run(), ["draw e002-2", "draw e004-2", "grid of 5", "grid of 6"]);
}

#[test]
fn a_selected_checkpoint_is_drawn_as_soon_as_it_is_there() {
    let bed = Bed::new(&TRAIN.replace("lora: learn", "lora: learn@2"));
    bed.run();
    assert_eq!(
        bed.log(),
        ["learn 1", "learn 2", "save 2", "draw e002-0", "draw e002-1", "grid of 2", "learn 3", "learn 4", "save 4"]
    );
}

#[test]
fn the_last_checkpoint_is_known_at_the_end() {
    let bed = Bed::new(&TRAIN.replace("lora: learn", "lora: learn@last"));
    bed.run();
    assert_eq!(bed.log()[4..], ["learn 4", "save 4", "draw e004-0", "draw e004-1", "grid of 2"]);
}

#[test]
fn without_a_pick_the_consumer_waits_and_the_run_is_fine() {
    let bed = Bed::new(&TRAIN.replace("lora: learn", "lora: learn@pick"));
    let (_, record, _) = bed.run_all();
    assert!(record.is_ok());
    let draw = record.stage("draw").unwrap();
    assert_eq!((draw.state, draw.waits_for_user), (StageState::Blocked, true));
    assert!(draw.note.as_ref().unwrap().contains("pick:"), "{draw:?}");
    bed.file("pick: 4", &TRAIN.replace("lora: learn", "lora: learn@pick"));
    assert_eq!(bed.run(), ["draw e004-0", "draw e004-1", "grid of 2"]);
}

#[test]
fn a_checkpoint_that_will_never_be_saved_is_a_problem_of_the_file() {
    let bed = Bed::new(&TRAIN.replace("lora: learn", "lora: learn@3"));
    assert_eq!(bed.problems(), ["`learn` saves nothing after epoch 3"]);
    bed.file("pick: 5", &TRAIN.replace("lora: learn", "lora: learn@pick"));
    assert_eq!(bed.problems(), ["`learn` saves nothing after epoch 5"]);
    bed.stages(&TRAIN.replace("lora: learn", "lora: \"learn@[2, 6]\"").replace("log: LOG }\n", "log: LOG, epochs: 6 }\n"));
    bed.load();
    // What nothing picks is no matter.
    bed.file("pick: 5", TRAIN);
    bed.load();
}

#[test]
fn if_training_fails_what_was_published_stays() {
    let bed = Bed::new(&TRAIN.replace("images: photos", "images: photos, fail_at: 3"));
    let (_, record, _) = bed.run_all();
    assert_eq!(record.stage("learn").unwrap().state, StageState::Failed);
    assert_eq!(record.stage("draw").unwrap().state, StageState::Blocked);
    assert_eq!(bed.log()[2..], ["save 2", "draw e002-0", "draw e002-1", "grid of 2"]);
    bed.stages(TRAIN);
    assert_eq!(bed.run(), ["draw e004-0", "draw e004-1", "grid of 3", "grid of 4", "learn 3", "learn 4", "save 4"]);
}

#[test]
fn an_interrupted_run_goes_on_and_gives_what_an_undisturbed_one_gives() {
    let bed = Bed::new(&TRAIN.replace("images: photos", "images: photos, wait_at: 3"));
    let heard = Heard::default();
    let record = thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        wait_for(&bed, "draw e002-1");
        bed.requests.interrupt();
        running.join().expect("no panic").expect("the run itself does not fail")
    });
    assert!(record.interrupted && !record.is_ok());
    assert_eq!(record.stage("learn").unwrap().state, StageState::Interrupted);
    assert!(!bed.at("pipeline.lock").exists());

    let mut bed = bed;
    bed.requests = Default::default();
    bed.stages(TRAIN);
    assert_eq!(bed.reasons("learn"), ["goes on where it was interrupted, after epoch 2 of 4, with 1 published"]);
    assert_eq!(bed.run(), ["draw e004-0", "draw e004-1", "grid of 3", "grid of 4", "learn 3", "learn 4", "save 4"]);
    let undisturbed = Bed::new(TRAIN);
    undisturbed.run();
    for stage in ["learn", "draw"] {
        assert_eq!(bed.digests(stage), undisturbed.digests(stage));
    }
    assert_eq!(bed.lock().to_text(), undisturbed.lock().to_text());
}

#[test]
fn a_stage_that_is_stopped_is_done_and_says_how_far_it_came() {
    let bed = Bed::new(&TRAIN.replace("images: photos", "images: photos, wait_at: 3"));
    let heard = Heard::default();
    let record = thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        wait_for(&bed, "draw e002-1");
        bed.requests.stop();
        running.join().expect("no panic").expect("the run itself does not fail")
    });
    assert!(record.is_ok(), "{record:?}");
    assert_eq!(record.stage("learn").unwrap().note.as_deref(), Some("stopped at epoch 3 of 4"));
    assert_eq!(bed.items("learn").iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["e002", "e003"]);
    let (did, record, events) = bed.run_all();
    assert!(did.is_empty() && record.did_nothing(), "{did:?}");
    let words =
        |event: &Event| matches!(event, Event::StageFinished { note: Some(note), .. } if note == "stopped at epoch 3 of 4");
    assert!(events.iter().any(words), "the next run still says so");
}

#[test]
fn a_sample_that_fails_does_not_end_the_training() {
    let bed = Bed::new(&TRAIN.replace("[a, b]", "[a, impossible]"));
    let (_, record, _) = bed.run_all();
    assert_eq!(record.stage("learn").unwrap().state, StageState::Ran);
    assert_eq!(record.stage("draw").unwrap().state, StageState::Failed);
    assert!(bed.log().contains(&"save 4".to_string()));
}

#[test]
fn skipped_photos_are_left_out_from_the_first_stage_on_and_in_no_items_key() {
    let stages = "  echo: { images: photos, log: LOG }\n  learn: { images: echo, log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    bed.file("skip: [tw*]", stages);
    assert_eq!(bed.run(), ["learn 1", "learn 2", "learn 3", "learn 4", "save 2", "save 4"]);
    let names: Vec<String> = bed.items("echo").into_iter().map(|item| item.name).collect();
    assert_eq!(names, ["one", "three"]);
    bed.file("", stages);
    assert!(bed.run().is_empty(), "everything is in the cache");
    assert_eq!(bed.items("echo").len(), 3);
}
