//! Texts that people edit between two runs.

use std::fs;

use loramill_engine::decide::lost_texts;
use loramill_engine::decide::plan::PlannedState;
use loramill_engine::edits::Provenance;
use loramill_engine::explain::text_status::text_status;
use loramill_engine::graph::selection::Selection;
use loramill_engine::graph::stage_id::StageId;
use loramill_engine::run::caption_edits::CaptionEdits;
use loramill_engine::run::control::StopRequests;
use loramill_engine::run::events::{Silent, StageState};
use loramill_engine::run::on_demand::Directed;
use loramill_engine::run::run_context::RunOptions;

use crate::bed::Bed;

const STAGES: &str = "  caption: { images: photos, log: LOG }\n  echo: { images: caption, log: LOG }\n  \
                      learn: { images: echo, epochs: 2, log: LOG }";

#[test]
fn the_machines_texts_lie_beside_the_pipeline_and_a_second_run_does_nothing() {
    let bed = Bed::new(STAGES);
    assert_eq!(bed.run().len(), 3 + 3 + 3);
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "a text two\n");
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
    assert!(bed.lock().edits["caption"].contains_key("two"));
    assert!(!bed.at("out/caption").exists(), "a text has one place");
}

#[test]
fn an_edited_text_reruns_only_what_reads_it() {
    let bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/two.txt", "what I see  \r\n");
    assert_eq!(bed.reasons("learn"), ["1 of 3 captions edited: two"]);
    assert_eq!(bed.plan().stage("caption").unwrap().state, PlannedState::Fresh);
    assert_eq!(bed.run(), ["learn 1", "learn 2", "save 2"], "no image stage, no captioner");
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "what I see  \r\n", "not a byte of it is touched");
    assert!(bed.says("learn", "e002").contains("what I see"));
    assert!(bed.run().is_empty());
    // Space at the end of a line means nothing.
    bed.write("captions/two.txt", "what I see\n\n");
    assert!(bed.run().is_empty());
}

#[test]
fn the_captioner_is_not_asked_for_an_edited_item_and_never_wins_over_it() {
    let mut bed = Bed::new(STAGES);
    bed.write("captions/two.txt", "mine");
    assert_eq!(bed.plan().stage("caption").unwrap().dirty, ["one", "three"]);
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("caption")).collect::<Vec<_>>(), ["caption one", "caption three"]);
    bed.stages(&STAGES.replace("caption: { images: photos", "caption: { images: photos, prefix: \"the \""));
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("caption")).collect::<Vec<_>>(), ["caption one", "caption three"]);
    bed.force = vec![("caption", "")];
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(bed.at("captions/one.txt")).unwrap(), "the text one\n");
    let status = &text_status(&bed.load(), &bed.cache()).unwrap()[0];
    let by_people = status.of(Provenance::Edited).chain(status.of(Provenance::Stale)).count();
    assert_eq!((status.by_machine(), by_people), (2, 1), "{status:?}");
}

#[test]
fn the_text_of_a_skipped_photo_stays_with_it_and_is_no_orphan() {
    let bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/two.txt", "mine");
    bed.write("captions/two-flip.txt", "mine, turned");
    bed.run();
    bed.file("skip: [two]", STAGES);
    // Another photo with the same contents does not take the text of the one that is left out.
    bed.write("images/four.png", "text two");
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("captions/four.txt")).unwrap(), "a text two\n");
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "mine");
    let status = &text_status(&bed.load(), &bed.cache()).unwrap()[0];
    assert_eq!(status.of(Provenance::Orphan).count(), 0, "{status:?}");
    assert!(bed.lock().edits["caption"].contains_key("two"), "what the machine said of it is still known");
    bed.file("", STAGES);
    bed.run();
    assert!(bed.says("learn", "e002").contains("mine"));
}

#[test]
fn deleting_a_text_means_to_write_it_again() {
    let bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/two.txt", "mine");
    bed.run();
    fs::remove_file(bed.at("captions/two.txt")).unwrap();
    assert!(bed.run().is_empty(), "the machine's text and what was learned from it are in the cache");
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "a text two\n");
}

#[test]
fn rows_of_texts_that_the_lock_lost_come_back_with_the_next_run() {
    for lost in ["stage caption ", "edit caption/one ", "edit ", ""] {
        let bed = Bed::new(STAGES);
        bed.write("captions/two.txt", "mine");
        bed.run();
        let whole = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
        // As after a kill between the record of the stage and its row.
        let left: String = whole.lines().filter(|row| !row.starts_with(lost)).map(|row| format!("{row}\n")).collect();
        assert!(left.len() < whole.len(), "{lost}");
        bed.write("pipeline.lock", &left);
        assert!(bed.run().is_empty(), "{lost}");
        assert_eq!(fs::read_to_string(bed.at("pipeline.lock")).unwrap(), whole, "{lost}");
        bed.stages(&STAGES.replace("caption: { images: photos", "caption: { images: photos, prefix: \"the \""));
        bed.run();
        let says = |name: &str| fs::read_to_string(bed.at(&format!("captions/{name}.txt"))).unwrap();
        assert_eq!((says("one").as_str(), says("two").as_str()), ("the text one\n", "mine"), "{lost}");
    }
}

#[test]
fn a_text_with_conflict_markers_fails_its_item() {
    let mut bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/two.txt", "<<<<<<< HEAD\nmine\n=======\nyours\n>>>>>>> theirs\n");
    bed.keep_going = true;
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty(), "{did:?}");
    assert!(!record.is_ok());
    let note = record.stage("caption").unwrap().note.clone().unwrap();
    assert!(note.starts_with("two: ") && note.contains("conflict"), "{note}");
    bed.write("captions/two.txt", "ours");
    bed.keep_going = false;
    assert_eq!(bed.run(), ["learn 1", "learn 2", "save 2"]);
}

#[test]
fn a_renamed_photo_takes_its_text_along() {
    let bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/two.txt", "mine");
    bed.run();
    fs::rename(bed.at("images/two.png"), bed.at("images/zwei.png")).unwrap();
    assert!(bed.run().is_empty());
    assert_eq!(fs::read_to_string(bed.at("captions/zwei.txt")).unwrap(), "mine");
    assert!(!bed.at("captions/two.txt").exists());
    assert!(bed.run().is_empty());
}

#[test]
fn texts_that_were_written_before_a_failure_are_the_machines_afterwards() {
    let stages = "  echo: { images: photos, log: LOG }\n  caption: { images: echo, log: LOG }";
    let mut bed = Bed::new(stages);
    bed.write("images/two.png", "broken");
    bed.keep_going = true;
    assert!(!bed.run_all().1.is_ok());
    assert_eq!(fs::read_to_string(bed.at("captions/one.txt")).unwrap(), "a text one\n");
    bed.write("images/two.png", "text two");
    bed.stages(&stages.replace("caption: { images: echo", "caption: { images: echo, prefix: \"the \""));
    bed.run();
    for item in ["one", "two", "three"] {
        assert_eq!(fs::read_to_string(bed.at(&format!("captions/{item}.txt"))).unwrap(), format!("the text {item}\n"));
    }
}

#[test]
fn after_a_lost_lock_the_next_run_says_again_which_texts_are_the_machines() {
    let bed = Bed::new(STAGES);
    bed.run();
    let lock = bed.lock();
    fs::remove_file(bed.at("pipeline.lock")).unwrap();
    assert!(bed.run().is_empty());
    assert_eq!(bed.lock(), lock);
    bed.stages(&STAGES.replace("caption: { images: photos", "caption: { images: photos, prefix: \"the \""));
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "the text two\n");
}

#[test]
fn a_first_run_with_set_reads_texts_of_people_and_leaves_their_files_alone() {
    let mut bed = Bed::new(STAGES);
    for item in ["one", "two", "three"] {
        bed.write(&format!("captions/{item}.txt"), &format!("mine of {item}\r\n"));
    }
    bed.settings = vec!["learn.epochs=1".to_string()];
    let did = bed.run();
    assert!(did.contains(&"learn 1".to_string()) && !did.iter().any(|line| line.starts_with("caption")), "{did:?}");
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "mine of two\r\n");
    assert!(!bed.at("pipeline.lock").exists());
    bed.settings.clear();
    bed.run();
    assert!(bed.says("learn", "e002").contains("mine of two"));
}

/// After a run with two texts of a person.
fn used() -> Bed {
    let bed = Bed::new(STAGES);
    bed.run();
    bed.write("captions/one.txt", "mine of one");
    bed.write("captions/two.txt", "mine of two");
    bed.run();
    bed
}

fn desk<T>(bed: &Bed, work: impl FnOnce(&CaptionEdits<'_>, StageId) -> T) -> T {
    let (pipeline, cache) = (bed.load(), bed.cache());
    let options = RunOptions { selection: Selection::default(), keep_going: false, jobs: 1, device: "cpu".to_string() };
    let requests = StopRequests::default();
    let directed = Directed { options: &options, observer: &Silent, requests: &requests };
    let caption = pipeline.stages.ids().find(|&id| pipeline.stages[id].stage.editable().is_some()).unwrap();
    work(&CaptionEdits { pipeline: &pipeline, cache: &cache, directed }, caption)
}

fn says(bed: &Bed, path: &str) -> String {
    fs::read_to_string(bed.at(path)).unwrap()
}

/// Nothing runs, nothing is written, and it is said.
fn stops(bed: &Bed, words: &[&str]) {
    let lock = fs::read(bed.at("pipeline.lock")).unwrap();
    let plan = bed.plan();
    let caption = plan.stages.iter().find(|stage| stage.kind == "caption").unwrap();
    assert!(!plan.is_fresh() && caption.dirty.is_empty(), "{caption:?}");
    let glance = lost_texts::glance(&bed.load()).unwrap();
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && !record.is_ok(), "{did:?} {record:?}");
    let failed = record.stages.iter().find(|stage| stage.state == StageState::Failed).unwrap().note.clone().unwrap();
    for said in [failed, caption.reasons[0].to_string(), glance[0].to_string()] {
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    assert_eq!(fs::read(bed.at("pipeline.lock")).unwrap(), lock);
}

#[test]
fn without_the_folder_of_used_texts_nothing_is_trained_until_they_are_restored() {
    let bed = used();
    fs::remove_dir_all(bed.at("captions")).unwrap();
    stops(&bed, &["2 texts that people wrote are gone from `captions/`: one, two", "edits restore", "edits drop --gone"]);
    assert!(!bed.at("captions").exists(), "no machine's text is written");
    let status = &text_status(&bed.load(), &bed.cache()).unwrap()[0];
    assert_eq!((status.lost.as_ref().unwrap().texts.len(), status.by_machine()), (2, 1));
    let restored = desk(&bed, |desk, id| desk.restore(id)).unwrap();
    assert_eq!(restored.len(), 2);
    assert_eq!(says(&bed, "captions/one.txt"), "mine of one\n");
    assert!(bed.run().is_empty(), "all is as it was");
    assert_eq!(says(&bed, "captions/three.txt"), "a text three\n");
    assert!(desk(&bed, |desk, id| desk.restore(id)).unwrap().is_empty());
}

#[test]
fn without_the_folder_of_used_texts_the_machines_count_once_a_person_says_so() {
    let bed = used();
    fs::rename(bed.at("captions"), bed.at("captions-old")).unwrap();
    stops(&bed, &["one, two"]);
    let unread = lost_texts::unread_folders(&bed.load()).unwrap();
    assert!(unread[0].contains("`captions-old/` holds 3 texts that no stage reads"), "{unread:?}");
    let lost = desk(&bed, |desk, id| desk.give_up(id)).unwrap().unwrap();
    assert_eq!(lost.texts.len(), 2);
    bed.run();
    assert_eq!(says(&bed, "captions/two.txt"), "a text two\n");
    assert_eq!(says(&bed, "captions-old/two.txt"), "mine of two", "nobody touched it");
    assert!(bed.run().is_empty());
    // What lies there counts again when the folder is put back, and would be missed again.
    fs::remove_dir_all(bed.at("captions")).unwrap();
    fs::rename(bed.at("captions-old"), bed.at("captions")).unwrap();
    bed.run();
    assert!(bed.says("learn", "e002").contains("mine of two"));
    fs::remove_dir_all(bed.at("captions")).unwrap();
    stops(&bed, &["one, two"]);
}

const RENAMED: &str = "  texts: { kind: caption, images: photos, log: LOG }\n  echo: { images: texts, log: LOG }\n  \
                       learn: { images: echo, epochs: 2, log: LOG }";

#[test]
fn a_renamed_stage_takes_its_texts_along_when_a_person_says_so() {
    let bed = used();
    bed.write("captions/three-flip.txt", "three in a mirror");
    bed.run();
    bed.stages(RENAMED);
    stops(&bed, &["3 texts that people wrote in `captions/` for a stage `caption`", "brings them to `captions-texts/`"]);
    assert!(!bed.at("captions-texts").exists());
    // The way back.
    bed.stages(STAGES);
    assert!(bed.run().is_empty());
    bed.stages(RENAMED);
    let restored = desk(&bed, |desk, id| desk.restore(id)).unwrap();
    assert_eq!(restored.len(), 3, "{restored:?}");
    assert!(bed.run().is_empty(), "the texts are the same, whatever the stage is called");
    assert_eq!(says(&bed, "captions-texts/one.txt"), "mine of one");
    assert_eq!(says(&bed, "captions-texts/three-flip.txt"), "three in a mirror");
    assert!(!bed.at("captions").exists() && !bed.lock().edits.contains_key("caption"));
}

#[test]
fn folders_in_which_no_text_lay_stay_when_the_texts_move() {
    let bed = used();
    bed.stages(RENAMED);
    fs::create_dir_all(bed.at("captions/empty/deeper")).unwrap();
    desk(&bed, |desk, id| desk.restore(id)).unwrap();
    assert!(bed.at("captions/empty/deeper").is_dir() && !bed.at("captions/one.txt").exists());
}

#[test]
fn a_renamed_stage_whose_folder_is_gone_too_gets_what_runs_used() {
    let bed = used();
    bed.stages(RENAMED);
    fs::remove_dir_all(bed.at("captions")).unwrap();
    stops(&bed, &["2 texts", "`caption`"]);
    desk(&bed, |desk, id| desk.restore(id)).unwrap();
    assert_eq!(says(&bed, "captions-texts/two.txt"), "mine of two\n");
    assert!(bed.run().is_empty());
}

#[test]
fn a_renamed_stage_leaves_the_texts_where_they_are_when_a_person_gives_them_up() {
    let bed = used();
    bed.stages(RENAMED);
    desk(&bed, |desk, id| desk.give_up(id)).unwrap().unwrap();
    bed.run();
    assert_eq!(
        (says(&bed, "captions-texts/two.txt"), says(&bed, "captions/two.txt")),
        ("a text two\n".into(), "mine of two".into())
    );
    let unread = lost_texts::unread_folders(&bed.load()).unwrap();
    assert!(unread[0].starts_with("`captions/` holds 3 texts that no stage reads"), "{unread:?}");
}

#[test]
fn with_set_or_by_force_no_machines_text_takes_the_place_of_a_lost_one_either() {
    let mut bed = used();
    fs::remove_dir_all(bed.at("captions")).unwrap();
    bed.settings = vec!["learn.epochs=1".to_string()];
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && !record.is_ok(), "{did:?}");
    bed.settings.clear();
    bed.force = vec![("caption", "")];
    bed.keep_going = true;
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && !record.is_ok(), "{did:?}");
}

#[test]
fn photos_that_changed_places_train_with_their_own_texts() {
    let bed = used();
    fs::rename(bed.at("images/one.png"), bed.at("images/x")).unwrap();
    fs::rename(bed.at("images/two.png"), bed.at("images/one.png")).unwrap();
    fs::rename(bed.at("images/x"), bed.at("images/two.png")).unwrap();
    assert!(bed.run().is_empty(), "the same pictures with the same texts");
    assert_eq!((says(&bed, "captions/one.txt"), says(&bed, "captions/two.txt")), ("mine of two".into(), "mine of one".into()));
}
