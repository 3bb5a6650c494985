//! Which stages and items run when the user says which.

use loramill_engine::decide::plan::PlannedState;
use loramill_engine::run::events::{Event, StageState};

use crate::bed::Bed;

const MAP: &str = "  echo: { images: photos, log: LOG }\n  cut: { images: echo, log: LOG }\n  gather: { images: cut, log: LOG }";

fn messages(events: &[Event]) -> Vec<String> {
    let said = |event: &Event| match event {
        Event::Said { message, .. } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(said).collect()
}

#[test]
fn a_stage_that_is_left_out_gives_what_it_gave_last() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.write("images/two.png", "new two");
    bed.stages(&MAP.replace("cut: { images: echo", "cut: { images: echo, letters: 5"));
    bed.only = vec!["cut"];
    bed.targets = vec!["cut"];
    let plan = bed.plan();
    let echo = plan.stage("echo").unwrap();
    assert_eq!((echo.state, echo.is_kept, echo.items.dirty), (PlannedState::Fresh, true, 0));
    assert_eq!(plan.to_json()["stages"][0]["kept"], true);
    let lock = bed.lock();
    let (did, record, _) = bed.run_all();
    assert_eq!(did, ["cut one", "cut three", "cut two"]);
    assert_eq!(bed.says("cut", "two"), "text ", "of what was there");
    let echo = record.stage("echo").unwrap();
    assert_eq!(echo.state, StageState::Cached);
    assert_eq!(echo.note.as_deref(), Some("left as it was; 1 of 3 images changed: two"));
    assert_eq!(bed.lock().stages["echo"], lock.stages["echo"], "its row is as it was");
    bed.only = Vec::new();
    bed.targets = Vec::new();
    assert_eq!(bed.run(), ["cut two", "echo two", "gather"], "and a whole run does what is missing");
}

#[test]
fn a_stage_that_is_left_out_and_has_no_result_blocks_what_reads_it() {
    let mut bed = Bed::new(MAP);
    bed.only = vec!["cut"];
    bed.targets = vec!["cut"];
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && !record.is_ok());
    let note = record.stage("echo").unwrap().note.clone().unwrap();
    assert_eq!(note, "this run leaves `echo` out, and it has no result to take; never ran");
    assert_eq!(record.stage("cut").unwrap().state, StageState::Blocked);
}

#[test]
fn texts_of_people_are_never_taken_as_they_were() {
    let mut bed = Bed::new("  caption: { images: photos, log: LOG }\n  learn: { images: caption, epochs: 1, log: LOG }");
    bed.run();
    bed.only = vec!["learn"];
    bed.targets = vec!["learn"];
    bed.write("captions/two.txt", "mine");
    assert_eq!(bed.run(), ["learn 1", "save 1"], "nothing is missing: the text was read");
    assert!(bed.says("learn", "e001").contains("mine"));
    bed.write("captions/one.txt", "mine too");
    bed.write("images/four.png", "text four");
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && record.stage("learn").unwrap().state == StageState::Blocked, "{record:?}");
}

#[test]
fn what_lies_between_two_stages_that_run_stays_as_it_was() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.only = vec!["echo", "gather"];
    bed.write("images/two.png", "new two");
    assert_eq!(bed.run_all().0, ["echo two"], "what lies between is as it was, and so is what reads that");
}

#[test]
fn items_that_match_are_forced_and_what_comes_out_the_same_ends_there() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.force = vec![("echo", "t*")];
    assert_eq!(bed.plan().stage("echo").unwrap().dirty, ["three", "two"]);
    assert_eq!(bed.reasons("echo"), ["forced"]);
    assert_eq!(bed.run(), ["echo three", "echo two"]);
    bed.force = vec![("echo", "nothing*")];
    let (did, record, _) = bed.run_all();
    let note = record.stage("echo").unwrap().note.clone().unwrap();
    assert!(did.is_empty() && note.contains("`nothing*` matches none of its items, such as `one`"), "{note}");
}

#[test]
fn a_new_item_runs_beside_those_that_are_forced() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.write("images/four.png", "text four");
    bed.force = vec![("echo", "two")];
    assert_eq!(bed.run(), ["cut four", "echo four", "echo two", "gather"]);
}

#[test]
fn a_forced_text_of_a_person_stays() {
    let mut bed = Bed::new("  caption: { images: photos, log: LOG }");
    bed.run();
    bed.write("captions/two.txt", "mine");
    bed.force = vec![("caption", "t*")];
    assert_eq!(bed.run(), ["caption three"]);
    assert_eq!(std::fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "mine");
}

#[test]
fn drawings_that_are_forced_are_drawn_once_while_a_training_goes_on() {
    let mut bed = Bed::new("  learn: { images: photos, log: LOG }\n  draw: { lora: learn, prompts: [a], log: LOG }");
    bed.force = vec![("draw", "")];
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("draw")).collect::<Vec<_>>(), ["draw e002-0", "draw e004-0"]);
}

#[test]
fn a_failure_that_passes_is_tried_again_and_each_attempt_is_said() {
    let bed = Bed::new("  echo: { images: photos, busy: 2, retry: 2, log: LOG }");
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok(), "{record:?}");
    assert_eq!(did.iter().filter(|line| line.starts_with("echo")).count(), 3);
    let mut said = messages(&events);
    said.sort();
    assert_eq!(said.len(), 6, "{said:?}");
    assert_eq!(said[0], "one: the device is busy; attempt 2 of 3");
    assert_eq!(said[1], "one: the device is busy; attempt 3 of 3");
    // It is in no key.
    bed.stages("  echo: { images: photos, log: LOG }");
    assert!(bed.run().is_empty());
}

#[test]
fn without_retry_and_after_the_last_attempt_a_failure_is_one() {
    let bed = Bed::new("  echo: { images: photos, busy: 2, log: LOG }");
    let (_, record, _) = bed.run_all();
    assert_eq!(record.stage("echo").unwrap().state, StageState::Failed);
    let mut bed = Bed::new("  echo: { images: photos, busy: 9, retry: 1, log: LOG }");
    bed.keep_going = true;
    let (_, record, events) = bed.run_all();
    let failed = record.stage("echo").unwrap();
    assert_eq!((failed.state, failed.counts.failed, messages(&events).len()), (StageState::Failed, 3, 3));
    assert!(failed.note.as_ref().unwrap().contains("after 2 attempts: the device is busy"), "{failed:?}");
}

#[test]
fn a_failure_that_stays_is_not_tried_again() {
    let bed = Bed::new("  echo: { images: photos, retry: 5, log: LOG }");
    bed.write("images/two.png", "broken");
    let (_, record, events) = bed.run_all();
    assert_eq!(record.stage("echo").unwrap().state, StageState::Failed);
    assert!(messages(&events).is_empty(), "{events:?}");
}

#[test]
fn a_training_that_is_tried_again_goes_on_where_it_failed() {
    let bed = Bed::new("  learn: { images: photos, busy_at: 3, retry: 1, log: LOG }");
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok(), "{record:?}");
    assert_eq!(did, ["busy 3", "learn 1", "learn 2", "learn 3", "learn 4", "save 2", "save 4"]);
    assert_eq!(messages(&events), ["the device is busy; attempt 2 of 2"]);
}
