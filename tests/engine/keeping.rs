//! Stages that do not keep their outputs: when these go from the cache, and how they come back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use loramill_engine::decide::plan::PlannedState;
use loramill_engine::out::restore::{RestoredStage, restore};
use loramill_engine::run::events::{Event, StageState};

use crate::bed::Bed;
use crate::collecting::DELETE;
use crate::kinds::KINDS;
use crate::processes::child;

/// `echo` is built for others only, and keeps nothing.
const LINE: &str =
    "  echo: { images: photos, suffix: A, keep: false, default: false, log: LOG }\n  cut: { images: echo, log: LOG }";
const ECHO: [&str; 3] = ["echo one", "echo three", "echo two"];
const CUT: [&str; 3] = ["cut one", "cut three", "cut two"];
const AGAIN: &str = "made again for `cut`: its outputs were not kept";

/// How many outputs of a stage are in the cache.
fn kept(bed: &Bed, stage: &str) -> usize {
    let cache = bed.cache();
    bed.digests(stage).iter().filter(|((_, field), digest)| is_made(field) && cache.path(digest).exists()).count()
}

/// Fields that the kinds of the tests make; others pass through.
fn is_made(field: &str) -> bool {
    matches!(field, "image" | "lora")
}

fn said(events: &[Event]) -> Vec<String> {
    let said = |event: &Event| match event {
        Event::Said { message, .. } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(said).collect()
}

/// At rest: a plan finds everything fresh, a run does nothing and says nothing, and nothing is damaged.
fn assert_at_rest(bed: &Bed) {
    assert!(bed.plan().is_fresh(), "{:?}", bed.plan());
    let (did, record, events) = bed.run_all();
    assert!(did.is_empty() && record.did_nothing(), "{did:?} {record:?}");
    assert_eq!(said(&events), Vec::<String>::new());
    assert_eq!(bed.damage(), []);
}

fn with_letters(stages: &str, letters: u64) -> String {
    stages.replace("cut: { images: echo", &format!("cut: {{ images: echo, letters: {letters}"))
}

#[test]
fn outputs_that_are_not_kept_go_when_they_have_been_read_and_out_shows_them_still() {
    let bed = Bed::new(LINE);
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok());
    assert_eq!(did, [CUT, ECHO].concat());
    assert_eq!(said(&events), ["evicted 3 images, 29 B, which `cut` has read; out/echo has them still"]);
    assert_eq!((kept(&bed, "echo"), kept(&bed, "cut")), (0, 3));
    assert_eq!(fs::read_to_string(bed.at("out/echo/two.txt")).unwrap(), "text twoA");
    assert_at_rest(&bed);
}

#[test]
fn a_reader_that_must_run_takes_from_out_what_was_not_kept() {
    for default in ["default: false", "default: true"] {
        let stages = LINE.replace("default: false", default);
        let bed = Bed::new(&stages);
        bed.run();
        bed.stages(&with_letters(&stages, 7));
        assert_eq!(bed.plan().stage("echo").unwrap().state, PlannedState::Fresh);
        assert_eq!(bed.run(), CUT);
        assert_eq!(bed.says("cut", "two"), "text tw");
        assert_eq!(kept(&bed, "echo"), 0);
        assert_at_rest(&bed);
    }
}

#[test]
fn without_out_only_what_is_needed_is_made_again_and_once() {
    let mut bed = Bed::new(LINE);
    bed.run();
    fs::remove_dir_all(bed.at("out/echo")).unwrap();
    assert_at_rest(&bed);
    assert!(!bed.at("out/echo").exists(), "what was cleared away does not come back");

    bed.force = vec![("cut", "two")];
    let plan = bed.plan();
    let echo = plan.stage("echo").unwrap();
    assert_eq!((echo.state, echo.items.fresh, echo.items.dirty), (PlannedState::Dirty, 2, 1));
    assert_eq!(echo.dirty, ["two"]);
    assert_eq!(bed.reasons("echo"), [AGAIN]);
    let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["echo", "cut"]);
    assert_eq!(plan.to_json()["stages"][0]["reasons"][0]["text"], AGAIN);
    let (did, record, events) = bed.run_all();
    assert_eq!(did, ["cut two", "echo two"]);
    let echo = record.stage("echo").unwrap();
    assert_eq!((echo.state, echo.counts.ran, echo.counts.cached), (StageState::Ran, 1, 2));
    assert_eq!(said(&events), ["evicted 1 image, 9 B, which `cut` has read"]);
    bed.force.clear();
    assert_at_rest(&bed);
}

#[test]
fn two_readers_at_once_make_it_again_once() {
    let readers = format!("{LINE}\n  gather: {{ images: echo, log: LOG }}");
    let mut bed = Bed::new(&readers);
    bed.run();
    assert_eq!(kept(&bed, "echo"), 0);
    fs::remove_dir_all(bed.at("out")).unwrap();
    bed.force = vec![("cut", ""), ("gather", "")];
    let planned = bed.plan();
    assert_eq!(planned.stage("echo").unwrap().items.dirty, 3);
    assert_eq!(bed.run(), [&CUT[..], &ECHO[..], &["gather"]].concat());
    bed.force.clear();
    assert_at_rest(&bed);
}

#[test]
fn what_is_not_kept_is_made_again_through_several_stages() {
    let stages = "  echo: { images: photos, suffix: A, keep: false, default: false, log: LOG }\n  \
                  cut: { images: echo, letters: 7, keep: false, default: false, log: LOG }\n  gather: { images: cut, log: LOG }\n  \
                  last: { kind: cut, images: gather, letters: 5, log: LOG }";
    let mut bed = Bed::new(stages);
    bed.run();
    assert_eq!((kept(&bed, "echo"), kept(&bed, "cut"), kept(&bed, "gather")), (0, 0, 1));
    fs::remove_dir_all(bed.at("out")).unwrap();
    bed.force = vec![("gather", "")];
    let dirty: Vec<usize> = bed.plan().stages.iter().map(|stage| stage.items.dirty).collect();
    assert_eq!(dirty, [3, 3, 1, 0]);
    assert_eq!(bed.reasons("cut"), ["made again for `gather`: its outputs were not kept"]);
    assert_eq!(bed.reasons("echo"), [AGAIN]);
    assert_eq!(bed.run(), [&CUT[..], &ECHO[..], &["gather"]].concat());
    bed.force.clear();
    assert_at_rest(&bed);
}

#[test]
fn a_stage_that_runs_as_a_whole_is_made_again_too() {
    let stages =
        "  gather: { images: photos, keep: false, default: false, log: LOG }\n  cut: { images: gather, letters: 6, log: LOG }";
    let bed = Bed::new(stages);
    assert_eq!(bed.run(), ["cut all", "gather"]);
    assert_eq!(kept(&bed, "gather"), 0);
    let longer = stages.replace("letters: 6", "letters: 7");
    bed.stages(&longer);
    assert_eq!(bed.run(), ["cut all"], "from out/");
    fs::remove_dir_all(bed.at("out")).unwrap();
    bed.stages(&longer.replace("letters: 7", "letters: 8"));
    assert_eq!(bed.reasons("gather"), [AGAIN]);
    assert_eq!(bed.plan().stage("gather").unwrap().dirty, ["gather"]);
    assert_eq!(bed.run(), ["cut all", "gather"]);
    assert_eq!(kept(&bed, "gather"), 0);
    assert_at_rest(&bed);

    // Checkpoints, of which one is read.
    let stages =
        "  learn: { images: photos, keep: false, default: false, log: LOG }\n  draw: { lora: learn@4, prompts: [a], log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    assert_eq!(kept(&bed, "learn"), 0);
    fs::remove_dir_all(bed.at("out")).unwrap();
    bed.stages(&stages.replace("[a]", "[a, b]"));
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("learn")).count(), 4);
    assert_eq!(did.iter().filter(|line| line.starts_with("draw")).count(), 1);
    assert_at_rest(&bed);
}

#[test]
fn a_stage_that_somebody_asks_for_is_shown() {
    let mut bed = Bed::new(LINE);
    bed.run();
    bed.targets = vec!["echo"];
    assert_at_rest(&bed);
    fs::remove_dir_all(bed.at("out/echo")).unwrap();
    assert_eq!(bed.plan().stage("echo").unwrap().items.dirty, 3);
    assert_eq!(bed.run(), ECHO);
    assert_eq!(fs::read_to_string(bed.at("out/echo/one.txt")).unwrap(), "text oneA");
    assert_eq!(kept(&bed, "echo"), 3, "who reads it was not part of the run");
    assert_at_rest(&bed);
    bed.targets.clear();
    let (did, _, events) = bed.run_all();
    assert!(did.is_empty());
    assert_eq!(said(&events).len(), 1);
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);

    // One file of several.
    bed.targets = vec!["echo"];
    fs::remove_file(bed.at("out/echo/two.txt")).unwrap();
    assert_eq!(bed.run(), ["echo two"]);
    assert!(bed.at("out/echo/two.txt").exists());
}

#[test]
fn a_stage_that_nothing_reads_lets_go_of_what_out_shows() {
    let bed = Bed::new("  echo: { images: photos, suffix: A, keep: false, log: LOG }");
    let (_, _, events) = bed.run_all();
    assert_eq!(said(&events), ["evicted 3 images, 29 B, which nothing reads; out/echo has them still"]);
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);
    bed.write("images/two.png", "new two");
    assert_eq!(bed.run(), ["echo two"]);
    assert_eq!(fs::read_to_string(bed.at("out/echo/one.txt")).unwrap(), "text oneA");
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);
    // The name follows, though the contents are nowhere but in `out/`.
    fs::rename(bed.at("images/one.png"), bed.at("images/eins.png")).unwrap();
    assert!(bed.run().is_empty());
    assert_eq!(fs::read_to_string(bed.at("out/echo/eins.txt")).unwrap(), "text oneA");
    assert_at_rest(&bed);
}

#[test]
fn outputs_stay_while_a_reader_is_no_part_of_the_run() {
    let mut bed = Bed::new(&format!("{LINE}\n  gather: {{ images: echo, default: false, log: LOG }}"));
    bed.run();
    assert_eq!(kept(&bed, "echo"), 3);
    assert_at_rest(&bed);
    // Through a stage that passes on what it does not make.
    bed.stages(&format!("{LINE}\n  late: {{ kind: gather, images: cut, default: false, log: LOG }}"));
    bed.run();
    assert_eq!(kept(&bed, "echo"), 3);
    bed.targets = vec!["cut", "late"];
    bed.run();
    assert_eq!(kept(&bed, "echo"), 0);
}

#[test]
fn outputs_stay_after_a_run_that_failed_or_was_interrupted_and_with_settings() {
    let learn = format!("{LINE}\n  learn: {{ images: echo, AT, log: LOG }}");
    let mut bed = Bed::new(&learn.replace("AT", "fail_at: 2"));
    let (_, record, _) = bed.run_all();
    assert!(!record.is_ok());
    assert_eq!(kept(&bed, "echo"), 3);
    assert_eq!(bed.damage(), []);

    bed.stages(&learn.replace("AT", "rate: 2, wait_at: 2"));
    let flag = bed.requests.interrupt_flag();
    let record = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        bed.run_all().1
    });
    assert!(record.interrupted);
    assert_eq!(kept(&bed, "echo"), 3);
    flag.store(false, std::sync::atomic::Ordering::SeqCst);

    bed.stages(&learn.replace("AT", "epochs: 2"));
    bed.settings = vec!["learn.rate=3".to_string()];
    bed.run();
    assert_eq!(kept(&bed, "echo"), 3);
    bed.settings.clear();
    bed.run();
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);
    // With other settings the files of the file as it stands are good enough.
    bed.settings = vec!["cut.letters=7".to_string()];
    assert_eq!(bed.run(), CUT);
}

#[test]
fn an_object_that_another_stage_has_too_stays() {
    // `cut` gives the texts back as they are.
    let bed = Bed::new(&with_letters(LINE, 99));
    let (_, _, events) = bed.run_all();
    assert_eq!(said(&events), Vec::<String>::new());
    assert_eq!(kept(&bed, "cut"), 3);
    assert_at_rest(&bed);
}

#[test]
fn what_another_pipeline_rests_on_stays_as_long_as_its_run_goes_on() {
    let share = |bed: &Bed, other: &Bed| {
        fs::create_dir_all(bed.at("cache")).unwrap();
        symlink(bed.at("cache"), other.at("cache")).unwrap();
    };
    // Interrupted: the other one has noted what it rests on.
    let stages = "  echo: { images: photos, suffix: A, log: LOG }\n  learn: { images: echo, fail_at: 1, log: LOG }";
    let (bed, other) = (Bed::new(LINE), Bed::new(stages));
    share(&bed, &other);
    assert!(!other.run_all().1.is_ok());
    assert_eq!(bed.run(), CUT);
    assert_eq!(kept(&bed, "echo"), 3);
    other.stages(&stages.replace("fail_at: 1, ", ""));
    other.run();

    // Going on: its lock names them.
    let cache = other.cache();
    let running = cache.lock_pipeline(other.path(), &mut |_| false).unwrap().unwrap();
    bed.run();
    assert_eq!(kept(&bed, "echo"), 3);
    drop(running);
    bed.run();
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);
    assert_eq!(other.reasons("echo").len(), 1, "it keeps its own, and makes them again");
    other.run();
    assert_at_rest(&other);
}

#[test]
fn nothing_goes_while_another_process_collects() {
    let bed = Bed::new(LINE);
    let cache = bed.cache();
    let collector = cache.begin_collecting().unwrap();
    bed.run();
    assert_eq!(kept(&bed, "echo"), 3);
    drop(collector);
    assert!(bed.run().is_empty());
    assert_eq!(kept(&bed, "echo"), 0);
}

#[test]
fn a_kill_between_the_list_of_what_goes_and_its_going_loses_nothing() {
    let mut bed = Bed::new(LINE);
    bed.targets = vec!["echo"];
    bed.run();
    let going = bed.digests("echo").into_iter().filter(|((_, field), _)| is_made(field)).map(|(_, digest)| digest).collect();
    let cache = bed.cache();
    cache.begin_collecting().unwrap().exclusive().unwrap().write_evicted(&going).unwrap();
    assert_eq!(bed.damage(), []);
    bed.targets.clear();
    assert_eq!(bed.run(), CUT);
    assert_eq!(kept(&bed, "echo"), 0);
    assert_at_rest(&bed);
}

#[test]
fn killed_at_any_moment_the_next_run_gives_the_same_and_nothing_is_lost() {
    let stages = "  echo: { images: photos, suffix: A, delay: 3, keep: false, log: LOG }\n  \
                  learn: { images: echo, epochs: 4, delay: 5, keep: false, log: LOG }\n  draw: { lora: learn, prompts: [a], log: LOG }";
    let undisturbed = Bed::new(stages);
    undisturbed.run();
    let bed = Bed::new(stages);
    let mut killed = 0;
    for moment in (10..).step_by(7).take(24) {
        let mut child = child(&bed);
        thread::sleep(Duration::from_millis(moment));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(bed.damage().iter().filter(|problem| problem.damage.word() == "missing").count(), 0);
        if ended {
            break;
        }
        killed += 1;
    }
    assert!(killed >= 3, "only {killed} runs were killed before they ended");
    bed.run();
    assert_eq!(bed.lock().to_text(), undisturbed.lock().to_text());
    assert_eq!((kept(&bed, "echo"), kept(&bed, "learn"), kept(&bed, "draw")), (0, 0, 3));
    assert_at_rest(&bed);
}

#[test]
fn a_file_that_was_touched_is_taken_and_one_that_was_changed_is_not() {
    let bed = Bed::new(LINE);
    bed.run();
    let touched = fs::read(bed.at("out/echo/one.txt")).unwrap();
    fs::remove_file(bed.at("out/echo/one.txt")).unwrap();
    bed.write("out/echo/one.txt", std::str::from_utf8(&touched).unwrap());
    bed.write("out/echo/two.txt", "mine");
    bed.stages(&with_letters(LINE, 7));
    assert_eq!(bed.run(), [&CUT[..], &["echo two"]].concat());
    assert_eq!(bed.says("cut", "two"), "text tw");
    assert_eq!(fs::read_to_string(bed.at("out/.yours/echo/two.txt")).unwrap(), "mine");
    bed.run();
    assert_at_rest(&bed);
}

#[test]
fn a_removed_file_of_what_is_not_kept_is_not_told_to_come_back() {
    let bed = Bed::new(LINE);
    bed.run();
    fs::remove_file(bed.at("out/echo/two.txt")).unwrap();
    let (did, _, events) = bed.run_all();
    assert!(did.is_empty());
    assert_eq!(said(&events), Vec::<String>::new());
    assert!(!bed.at("out/echo/two.txt").exists() && bed.at("out/echo/one.txt").exists());
    assert_at_rest(&bed);
}

#[test]
fn what_comes_out_in_another_way_is_an_error_that_names_the_remedy() {
    let mut bed = Bed::new(LINE);
    bed.run();
    fs::remove_dir_all(bed.at("out")).unwrap();
    let foreign = with_letters(LINE, 7).replace("suffix: A", "suffix: A, accent: \"~\"");
    bed.stages(&foreign);
    let (_, record, _) = bed.run_all();
    assert!(!record.is_ok());
    let note = record.stage("cut").unwrap().note.clone().unwrap();
    assert!(note.contains("`echo`") && note.contains("`--force echo`"), "{note}");
    assert_eq!(bed.damage(), []);
    bed.force = vec![("echo", "")];
    bed.run();
    assert_eq!(bed.says("cut", "two"), "text tw");
    bed.force.clear();
    assert_at_rest(&bed);
}

#[test]
fn a_cleaned_or_restored_cache_knows_what_was_not_kept() {
    let bed = Bed::new(LINE);
    bed.run();
    assert_eq!(bed.collect(DELETE).freed().count, 0);
    assert_at_rest(&bed);
    let restored = |bed: &Bed, knows_file: bool| {
        let pipeline = knows_file.then(|| bed.load());
        restore(&bed.cache(), &bed.at("out"), &bed.lock(), pipeline.as_ref(), KINDS).unwrap()
    };
    for knows_file in [true, false] {
        let stages = restored(&bed, knows_file);
        assert!(stages.iter().all(RestoredStage::is_whole), "{stages:?}");
        assert!(bed.at("out/echo/two.txt").exists(), "the only copy stays");
    }
    fs::remove_file(bed.at("out/echo/two.txt")).unwrap();
    fs::remove_file(bed.at("out/cut/two.txt")).unwrap();
    let stages = restored(&bed, true);
    let echo = stages.iter().find(|stage| stage.name == "echo").unwrap();
    assert!(stages.iter().all(RestoredStage::is_whole));
    assert_eq!((echo.not_kept.as_slice(), echo.missing.len()), (&["two".to_string()][..], 0));
    assert!(bed.at("out/cut/two.txt").exists() && bed.at("out/echo/one.txt").exists());
    fs::remove_dir_all(bed.at("out")).unwrap();
    restored(&bed, true);
    assert!(bed.at("out/cut/two.txt").exists() && !bed.at("out/echo").exists());
    bed.stages(&with_letters(LINE, 7));
    assert_eq!(bed.run(), [CUT, ECHO].concat(), "also after the cache was cleaned");
    bed.collect(DELETE);
    assert_at_rest(&bed);
}

#[test]
fn what_a_grid_is_made_of_comes_back_for_it() {
    let stages = "  learn: { images: photos, log: LOG }\n  draw: { lora: learn, prompts: [a], keep: false, log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    let left: BTreeSet<String> = bed
        .digests("draw")
        .into_iter()
        .filter(|((_, field), digest)| is_made(field) && bed.cache().path(digest).exists())
        .map(|((item, _), _)| item)
        .collect();
    assert_eq!(left, BTreeSet::from(["grid".to_string()]), "it would take all to make it again");
    bed.stages(&stages.replace("[a]", "[a, b]"));
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("draw")).count(), 2);
    assert_at_rest(&bed);
}

#[test]
fn a_variant_lets_go_of_its_own() {
    let stages = "  echo: { images: photos, matrix: { suffix: [A, B] }, keep: false, default: false, log: LOG }\n  \
                  cut: { images: \"echo[suffix=A]\", letters: 9, log: LOG }\n  gather: { images: \"echo[*]\", log: LOG }";
    let bed = Bed::new(stages);
    let (_, record, events) = bed.run_all();
    assert!(record.is_ok());
    // The texts that `cut` gives back as they are stay.
    assert_eq!(said(&events).len(), 2, "{events:?}");
    assert!(bed.at("out/echo/suffix=A/two.txt").exists());
    assert_at_rest(&bed);
    bed.stages(&stages.replace("letters: 9", "letters: 6"));
    assert_eq!(bed.run(), CUT);
    assert_at_rest(&bed);
}

#[test]
fn what_people_edit_is_always_kept() {
    let bed = Bed::new(LINE);
    bed.stages("  caption: { images: photos, keep: false, log: LOG }");
    let problems = bed.problems();
    assert!(problems.len() == 1 && problems[0].contains("people edit"), "{problems:?}");
    bed.stages("  caption: { images: photos, keep: true, log: LOG }");
    bed.run();
}
