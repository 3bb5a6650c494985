//! What a stage has made stands in `out/` as soon as it is durable, and not only when the stage ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use loramill_engine::out::restore::restore;
use loramill_engine::run::events::{Event, Observer, StageState};

use crate::bed::{Bed, Heard};
use crate::collecting::wait_for_the_second_epoch;
use crate::kinds::KINDS;
use crate::processes::child;

const TRAIN: &str = "  learn: { images: photos, log: LOG }\n  draw: { lora: learn, prompts: [a, b], log: LOG }";
const WAITING: &str = "  learn: { images: photos, wait_at: 3, log: LOG }\n  draw: { lora: learn, prompts: [a, b], log: LOG }";

/// The names of the files below a folder of `out/`, sorted.
fn shown(bed: &Bed, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bed.at("out").join(folder)) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs in the meantime what `look` does once `line` was written down, then asks for an interruption.
fn looking_in(bed: &Bed, line: &str, look: impl FnOnce()) -> Vec<Event> {
    let heard = Heard::default();
    let before = bed.log().iter().filter(|l| *l == line).count();
    thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        let looked = catch_unwind(AssertUnwindSafe(|| {
            wait_until(|| bed.log().iter().filter(|l| *l == line).count() > before);
            look();
        }));
        // Whatever was seen: the run waits for it.
        bed.requests.interrupt();
        running.join().expect("no panic").expect("the run itself does not fail");
        looked.unwrap_or_else(|panic| resume_unwind(panic));
    });
    heard.into_events()
}

fn wait_until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

fn said(events: &[Event]) -> Vec<String> {
    let said = |event: &Event| match event {
        Event::Said { message, .. } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(said).collect()
}

#[test]
fn a_checkpoint_its_drawings_and_their_sheet_stand_in_out_while_training_goes_on() {
    let bed = Bed::new(WAITING);
    let events = looking_in(&bed, "grid of 2", || {
        wait_until(|| shown(&bed, "draw") == ["e002-0.txt", "e002-1.txt", "grid.txt"]);
        assert_eq!(shown(&bed, "learn"), ["e002.txt"]);
        assert_eq!(fs::read_to_string(bed.at("out/draw/grid.txt")).unwrap(), "2 drawings");
        assert!(!bed.at("pipeline.lock").exists(), "nothing has ended");
    });
    let places = |event: &Event| match event {
        Event::Checkpoint { files, .. } | Event::Shown { files, .. } => Some(files.clone()),
        _ => None,
    };
    let told: Vec<PathBuf> = events.iter().filter_map(places).flatten().collect();
    assert_eq!(told, [bed.load().out().join("learn/e002.txt"), bed.load().out().join("draw/grid.txt")]);
}

#[test]
fn a_killed_run_leaves_in_out_what_it_published_and_the_next_one_goes_on() {
    let bed = Bed::new(WAITING);
    let mut running = child(&bed);
    wait_until(|| shown(&bed, "draw") == ["e002-0.txt", "e002-1.txt", "grid.txt"]);
    wait_for_the_second_epoch(&bed);
    running.kill().expect("it is our child");
    running.wait().expect("it has ended");
    assert_eq!(shown(&bed, "learn"), ["e002.txt"]);
    assert!(!bed.at("pipeline.lock").exists());
    bed.stages(TRAIN);
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok());
    assert_eq!(did, ["draw e004-0", "draw e004-1", "grid of 3", "grid of 4", "learn 3", "learn 4", "save 4"]);
    assert_eq!(said(&events), Vec::<String>::new(), "what the killed run showed is no change of the user's");
    assert_eq!(shown(&bed, "draw"), ["e002-0.txt", "e002-1.txt", "e004-0.txt", "e004-1.txt", "grid.txt"]);
    let undisturbed = Bed::new(TRAIN);
    undisturbed.run();
    assert_eq!(bed.lock().to_text(), undisturbed.lock().to_text());
}

#[test]
fn an_output_that_a_kill_kept_from_out_is_shown_when_the_run_goes_on() {
    let mut bed = Bed::new(WAITING);
    looking_in(&bed, "grid of 2", || {});
    fs::remove_dir_all(bed.at("out")).unwrap();
    bed.requests = Default::default();
    let heard = Heard::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        wait_until(|| shown(&bed, "learn") == ["e002.txt"]);
        bed.requests.interrupt();
        running.join().expect("no panic").expect("the run itself does not fail");
    });
}

#[test]
fn the_first_output_of_a_new_result_takes_the_place_of_all_of_the_old_one_and_that_is_said() {
    let bed = Bed::new(TRAIN);
    bed.run();
    let before = bed.lock();
    bed.stages(&WAITING.replace("wait_at: 3", "wait_at: 3, rate: 2"));
    let events = looking_in(&bed, "grid of 2", || {
        wait_until(|| shown(&bed, "draw") == ["e002-0.txt", "e002-1.txt", "grid.txt"]);
        // Side by side with those of the old training nobody could tell them apart.
        assert_eq!(shown(&bed, "learn"), ["e002.txt"]);
        assert!(fs::read_to_string(bed.at("out/learn/e002.txt")).unwrap().ends_with("x2 at 2"));
    });
    let said = said(&events);
    assert!(said.iter().any(|line| line.starts_with("`out/learn` holds what this run makes from here on; 1 file")), "{said:?}");
    assert_eq!(bed.lock().to_text(), before.to_text(), "the lock names the old result until the new one is whole");
    restore(&bed.cache(), &bed.at("out"), &before, Some(&bed.load()), KINDS).unwrap();
    assert_eq!(shown(&bed, "learn"), ["e002.txt", "e004.txt"]);
    assert!(fs::read_to_string(bed.at("out/learn/e002.txt")).unwrap().ends_with("x2 at 1"));
}

#[test]
fn with_a_setting_what_is_made_so_far_stands_in_a_folder_of_its_own() {
    let mut bed = Bed::new(TRAIN);
    bed.run();
    let before = shown(&bed, "learn");
    bed.stages(WAITING);
    bed.settings = vec!["learn.rate=2".to_string()];
    let digest = || {
        let entries = fs::read_dir(bed.at("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name.starts_with('@')).collect::<Vec<_>>()
    };
    looking_in(&bed, "grid of 2", || {
        wait_until(|| digest().len() == 1);
        let folder = digest().remove(0);
        wait_until(|| shown(&bed, &format!("{folder}/draw")) == ["e002-0.txt", "e002-1.txt", "grid.txt"]);
        assert_eq!(shown(&bed, &format!("{folder}/learn")), ["e002.txt"]);
    });
    assert_eq!(shown(&bed, "learn"), before);
}

#[test]
fn variants_and_stages_that_keep_nothing_show_at_once_too() {
    let stages = "  learn: { images: photos, wait_at: 3, keep: false, matrix: { rate: [1, 2] }, log: LOG }\n  \
                  draw: { lora: learn, prompts: [a], log: LOG }";
    let bed = Bed::new(stages);
    looking_in(&bed, "grid of 1", || {
        wait_until(|| shown(&bed, "draw/rate=1") == ["e002-0.txt", "grid.txt"]);
        assert_eq!(shown(&bed, "learn/rate=1"), ["e002.txt"]);
    });
}

#[test]
fn a_file_that_a_person_changed_or_removed_meanwhile_is_kept_or_comes_back_as_at_any_time() {
    let bed = Bed::new(&TRAIN.replace("images: photos", "images: photos, epochs: 6, wait_at: 5"));
    let heard = Heard::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        wait_until(|| shown(&bed, "draw").len() == 5);
        bed.write("out/draw/e002-0.txt", "mine");
        fs::remove_file(bed.at("out/draw/e002-1.txt")).unwrap();
        bed.requests.stop();
        running.join().expect("no panic").expect("the run itself does not fail");
    });
    let said = said(&heard.into_events());
    assert!(said.iter().any(|line| line.starts_with("you changed out/draw/e002-0.txt: your version is now")), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("you removed out/draw/e002-1.txt")), "{said:?}");
    assert_eq!(fs::read_to_string(bed.at("out/.yours/draw/e002-0.txt")).unwrap(), "mine");
    assert!(shown(&bed, "draw").contains(&"e002-1.txt".to_string()));
}

#[test]
fn pictures_that_are_drawn_one_by_one_are_shown_one_by_one() {
    let mut bed = Bed::new(&TRAIN.replace("[a, b]", "[a, impossible]"));
    bed.targets = vec!["learn"];
    bed.run();
    bed.targets = Vec::new();
    let (_, record, _) = bed.run_all();
    assert_eq!(record.stage("draw").unwrap().state, StageState::Failed);
    assert_eq!(shown(&bed, "draw"), ["e002-0.txt"]);
}

#[test]
fn a_sheet_is_not_taken_away_while_a_further_drawing_is_made() {
    let bed = Bed::new(TRAIN);
    bed.run();
    bed.stages(&TRAIN.replace("[a, b]", "[a, b, c, impossible]"));
    let (_, record, events) = bed.run_all();
    assert_eq!(record.stage("draw").unwrap().state, StageState::Failed);
    assert_eq!(fs::read_to_string(bed.at("out/draw/grid.txt")).unwrap(), "5 drawings");
    assert_eq!(said(&events), Vec::<String>::new(), "nothing went");
}

#[test]
fn where_out_cannot_be_written_training_goes_on_and_the_stage_fails_when_it_ends() {
    let bed = Bed::new(TRAIN);
    bed.write("out/learn", "in the way");
    let (did, record, events) = bed.run_all();
    assert!(did.contains(&"save 4".to_string()), "{did:?}");
    assert_eq!(record.stage("learn").unwrap().state, StageState::Failed);
    assert!(said(&events).iter().any(|line| line.starts_with("what there is so far could not be shown: ")));
    fs::remove_file(bed.at("out/learn")).unwrap();
    assert_eq!(bed.run_all().0, Vec::<String>::new(), "nothing is learned or drawn twice");
    assert_eq!(shown(&bed, "learn"), ["e002.txt", "e004.txt"]);
}

/// Hears of the end of `first` late, while the run goes on.
struct Slow(Heard);

impl Observer for Slow {
    fn event(&self, event: Event) {
        if matches!(&event, Event::StageFinished { stage, .. } if stage == "first") {
            thread::sleep(Duration::from_millis(200));
        }
        self.0.event(event);
    }
}

#[test]
fn the_end_of_a_stage_is_told_before_the_start_of_one_that_reads_it() {
    let bed = Bed::new(
        "  first: { kind: echo, images: photos, log: LOG }\n  beside: { kind: echo, images: photos, suffix: B, delay: 20, log: LOG }\n  \
         next: { kind: cut, images: first, log: LOG }",
    );
    let slow = Slow(Heard::default());
    assert!(bed.try_run(&slow).expect("the run itself does not fail").is_ok());
    let events = slow.0.into_events();
    let ended = events.iter().position(|event| matches!(event, Event::StageFinished { stage, .. } if stage == "first"));
    let started = events.iter().position(|event| matches!(event, Event::StageStarted { stage, .. } if stage == "next"));
    assert!(ended.expect("it ended") < started.expect("it started"), "{events:?}");
}
