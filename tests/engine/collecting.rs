//! What is deleted from a cache, what is not, and what happens when somebody runs a pipeline meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use loramill_engine::gc::collect::CollectOptions;

use crate::bed::{Bed, Heard};
use crate::processes::child;

const MAP: &str = "  echo: { images: photos, suffix: A, log: LOG }\n  cut: { images: echo, letters: 99, log: LOG }";
const LOOK: CollectOptions<'_> =
    CollectOptions { delete: false, history: true, unfinished: None, max_size: None, forgotten: &[] };
pub const DELETE: CollectOptions<'_> = CollectOptions { delete: true, ..LOOK };

/// The pipeline with another text.
fn with(text: &str) -> String {
    MAP.replace("suffix: A", &format!("suffix: {text}"))
}

/// What would have to run if the pipeline were that with this text.
fn missing(bed: &Bed, text: &str) -> usize {
    bed.stages(&with(text));
    bed.plan().stages.iter().map(|stage| stage.dirty.len()).sum()
}

#[test]
fn looking_deletes_nothing_and_deleting_keeps_what_the_lock_names() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.stages(&with("B"));
    bed.run();
    let objects = || bed.cache().stored_objects().unwrap().objects;
    let before = objects();
    let looked = bed.collect(LOOK);
    assert_eq!(objects(), before);
    assert!(!looked.deleted);
    // Three texts of `echo`; `cut` has given them back as they are, which is no work of its own. Two lists.
    let by_kind: Vec<(&str, usize)> = looked.garbage.iter().map(|(kind, part)| (kind.as_str(), part.count)).collect();
    assert_eq!(by_kind, [("", 2), ("echo", 3)]);
    assert!(looked.freed().seconds > 0.0);

    let deleted = bed.collect(DELETE);
    assert!(deleted.deleted);
    assert_eq!(deleted.garbage.keys().collect::<Vec<_>>(), looked.garbage.keys().collect::<Vec<_>>());
    let gone: u64 = before.iter().map(|o| o.size).sum::<u64>() - objects().iter().map(|o| o.size).sum::<u64>();
    assert_eq!(gone, looked.freed().bytes);
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
    assert_eq!(bed.damage(), []);
    assert_eq!(missing(&bed, "A"), 3, "the old results are gone");
    assert_eq!(bed.collect(DELETE).freed().count, 0);
}

#[test]
fn commits_stashes_and_reflogs_keep_what_their_locks_name() {
    let bed = Bed::new(MAP);
    bed.write(".gitignore", "cache/\nout/\nlog\n");
    bed.git(&["init", "-q", "-b", "main"]);
    let run = |text: &str| {
        bed.stages(&with(text));
        bed.run();
    };
    run("committed");
    bed.git(&["add", "-A"]);
    bed.git(&["commit", "-qm", "1"]);
    run("undone");
    bed.git(&["commit", "-qam", "2"]);
    bed.git(&["reset", "-q", "--hard", "HEAD^"]);
    run("stashed");
    bed.git(&["stash", "-q"]);
    run("forgotten");
    run("staged");
    bed.git(&["add", "-A"]);
    run("now");
    let collected = bed.collect(DELETE);
    assert_eq!(collected.problems, []);
    assert_eq!(collected.repositories.len(), 1);
    for text in ["committed", "undone", "stashed", "staged", "now"] {
        assert_eq!(missing(&bed, text), 0, "{text}");
    }
    assert_eq!(missing(&bed, "forgotten"), 3);
    bed.stages(&with("now"));

    bed.collect(CollectOptions { history: false, ..DELETE });
    assert_eq!(missing(&bed, "now"), 0);
    assert_eq!(missing(&bed, "committed"), 3);
}

#[test]
fn a_repository_that_cannot_be_read_stops_all_deleting() {
    let (bed, other) = (Bed::new(MAP), Bed::new(&with("other")));
    // One cache for both.
    fs::create_dir_all(bed.at("cache")).unwrap();
    symlink(bed.at("cache"), other.at("cache")).unwrap();
    other.run();
    bed.run();
    assert_eq!(bed.collect(LOOK).garbage.len(), 0);
    assert_eq!(bed.collect(LOOK).repositories.len(), 2);

    // Unplugged: the folder is not there, or there and empty.
    let (place, away) = (other.path().to_path_buf(), other.path().with_extension("away"));
    fs::rename(&place, &away).unwrap();
    for is_mount_point in [false, true] {
        if is_mount_point {
            fs::create_dir(&place).unwrap();
        }
        let collected = bed.collect(DELETE);
        assert!(!collected.deleted);
        assert_eq!(collected.problems.len(), 1);
        let text = &collected.problems[0].text;
        assert!(text.contains(place.to_str().unwrap()) && text.contains("--forget"), "{text}");
    }
    fs::remove_dir(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    assert!(other.plan().is_fresh(), "nothing of it was deleted");

    // A repository that git cannot read.
    other.git(&["init", "-q"]);
    fs::write(other.at(".git/HEAD"), "nonsense").unwrap();
    let collected = bed.collect(DELETE);
    assert!(!collected.deleted && collected.problems[0].text.contains("git"), "{:?}", collected.problems);
    fs::remove_dir_all(other.at(".git")).unwrap();

    // A work tree of a repository that is somewhere else.
    other.write(".gitignore", "cache\nout/\nlog\n");
    other.git(&["init", "-q", "-b", "main"]);
    other.git(&["add", "-A"]);
    other.git(&["commit", "-qm", "1"]);
    let tree = other.path().with_extension("tree");
    other.git(&["worktree", "add", "-q", "--detach", tree.to_str().unwrap()]);
    assert!(bed.collect(LOOK).problems.is_empty());
    fs::remove_dir_all(&tree).unwrap();
    let collected = bed.collect(DELETE);
    assert!(!collected.deleted && collected.problems[0].text.contains("worktree prune"), "{:?}", collected.problems);
    other.git(&["worktree", "prune"]);
    assert!(bed.collect(DELETE).deleted);

    let cache = bed.cache();
    assert!(cache.forget_root(&fs::canonicalize(&place).unwrap()).unwrap());
    assert!(bed.collect(DELETE).freed().count > 0);
    assert!(bed.plan().is_fresh());
}

const TRAIN: &str = "  learn: { images: photos, wait_at: 3, log: LOG }\n  draw: { lora: learn, prompts: [a, b], log: LOG }";

/// Waits until the training has seen two epochs, published what it learned and had it drawn.
pub fn wait_for_the_second_epoch(bed: &Bed) {
    let is_there = |key| fs::read(bed.at("cache/state").join(key).join("epoch")).is_ok_and(|epoch| epoch == b"2");
    let states = || fs::read_dir(bed.at("cache/state")).into_iter().flatten().map(|state| state.unwrap().file_name());
    wait_until("the second epoch", || states().any(is_there));
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_a_run_has_made_and_not_yet_recorded_as_a_whole_stays() {
    let bed = Bed::new(TRAIN);
    let mut all = Vec::new();
    thread::scope(|scope| {
        let run = scope.spawn(|| bed.try_run(&Heard::default()).unwrap());
        wait_for_the_second_epoch(&bed);
        for options in [DELETE, CollectOptions { max_size: Some(0), ..DELETE }] {
            all.push(bed.collect(options));
        }
        bed.requests.stop();
        assert!(run.join().unwrap().is_ok());
    });
    for collected in all {
        // Nothing of it was named by a lock file: a checkpoint, its two drawings and a sheet of them.
        assert!(collected.deleted && collected.unfinished.count == 4, "{collected:?}");
        assert_eq!((collected.freed().count, collected.states.count), (0, 1), "{collected:?}");
    }
    assert!(bed.plan().is_fresh());
    assert_eq!(bed.items("draw").len(), 4 + 1);
    assert_eq!(bed.damage(), []);
}

#[test]
fn results_found_under_their_keys_stay_while_the_rest_is_made() {
    // The last run finds the results of two texts, which no lock names, and takes its time for the third.
    let bed = Bed::new("  echo: { images: photos, delay: 300, log: LOG }");
    bed.run();
    bed.stages("  cut: { images: photos, log: LOG }");
    bed.run();
    bed.write("images/two.png", "another text");
    bed.stages("  echo: { images: photos, delay: 300, log: LOG }");
    thread::scope(|scope| {
        let run = scope.spawn(|| bed.try_run(&Heard::default()).unwrap());
        wait_until("two notes", || bed.cache().noted().unwrap().iter().any(|noted| noted.digests.len() >= 2));
        assert!(bed.collect(DELETE).deleted);
        assert!(run.join().unwrap().is_ok());
    });
    assert!(bed.plan().is_fresh());
    assert_eq!(bed.log().iter().filter(|line| line.starts_with("echo")).count(), 4, "{:?}", bed.log());
}

#[test]
fn what_an_interrupted_run_made_is_kept_until_the_next_has_ended() {
    let bed = Bed::new(TRAIN);
    thread::scope(|scope| {
        let run = scope.spawn(|| bed.try_run(&Heard::default()).unwrap());
        wait_for_the_second_epoch(&bed);
        bed.requests.interrupt();
        assert!(run.join().unwrap().interrupted);
    });
    let kept = bed.collect(DELETE);
    assert!(kept.deleted && kept.oldest_unfinished.is_some());
    let mut bed = bed;
    bed.requests = Default::default();
    bed.stages(&TRAIN.replace("wait_at: 3", "wait_at: 0"));
    assert_eq!(bed.run(), ["draw e004-0", "draw e004-1", "grid of 3", "grid of 4", "learn 3", "learn 4", "save 4"]);
    assert!(bed.cache().noted().unwrap().is_empty(), "the lock names all of it now");
}

#[test]
fn an_unfinished_training_goes_only_if_that_is_asked_for() {
    for has_state in [true, false] {
        let bed = Bed::new("  learn: { images: photos, fail_at: 4, log: LOG }");
        assert!(!bed.run_all().1.is_ok());
        if !has_state {
            fs::remove_dir_all(bed.at("cache/state")).unwrap();
        }
        let states = usize::from(has_state);
        // It is given up for another.
        bed.stages("  learn: { images: photos, rate: 2.0, log: LOG }");
        bed.run();
        let kept = bed.collect(DELETE);
        assert_eq!((kept.states.count, kept.unfinished.count, kept.freed().count), (states, 1, 0), "{kept:?}");
        let days = |days: u64| CollectOptions { unfinished: Some(Duration::from_secs(days * 86400)), ..DELETE };
        assert_eq!(bed.collect(days(1)).freed().count, 0);
        let gone = bed.collect(days(0));
        assert_eq!((gone.old_states.count, gone.states.count), (states, 0));
        assert_eq!(gone.garbage.values().map(|part| part.count).sum::<usize>(), 1, "the checkpoint it had published");
        assert!(bed.plan().is_fresh());
        assert_eq!(bed.damage(), []);
    }
}

#[test]
fn the_state_of_a_training_that_has_ended_stays_as_long_as_a_work_tree_names_its_result() {
    let bed = Bed::new("  learn: { images: photos, log: LOG }");
    bed.run();
    let key = bed.items("learn")[0].key;
    fs::write(bed.cache().state_folder(&key).unwrap().join("1.state"), "moments").unwrap();
    assert_eq!(bed.collect(DELETE).states.count, 1);
    bed.stages("  learn: { images: photos, rate: 2.0, log: LOG }");
    bed.run();
    let collected = bed.collect(DELETE);
    assert_eq!((collected.states.count, collected.old_states.count, collected.old_states.bytes), (0, 1, 7));
    assert!(bed.cache().stored_states().unwrap().is_empty());
}

#[test]
fn results_with_other_settings_stay_until_the_next_run_of_everything() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.settings = vec!["echo.suffix=X".to_string()];
    bed.run();
    assert_eq!(bed.collect(DELETE).freed().count, 0);
    assert!(bed.plan().is_fresh());
    bed.settings.clear();
    bed.run();
    assert!(bed.collect(DELETE).freed().count > 0);
}

#[test]
fn runs_of_single_stages_leave_nothing_behind_that_would_be_kept_for_ever() {
    let mut bed = Bed::new(MAP);
    bed.targets = vec!["echo"];
    for text in ["A", "B"] {
        bed.stages(&with(text));
        bed.run();
    }
    assert!(bed.collect(DELETE).freed().count > 0);
    assert!(bed.plan().is_fresh());
}

#[test]
fn a_cache_that_nobody_is_known_to_use_is_not_emptied() {
    let bed = Bed::new(MAP);
    bed.run();
    fs::remove_dir_all(bed.at("cache/roots")).unwrap();
    assert!(bed.collect(LOOK).problems.is_empty(), "this folder has a lock file itself");
    fs::remove_file(bed.at("pipeline.lock")).unwrap();
    let collected = bed.collect(DELETE);
    assert!(!collected.deleted && collected.problems[0].text.contains("no repository"), "{collected:?}");
}

#[test]
fn the_machines_texts_stay_known_though_people_wrote_others() {
    let bed = Bed::new("  caption: { images: photos, log: LOG }\n  echo: { images: caption, log: LOG }");
    bed.run();
    bed.write("captions/two.txt", "what I see\n");
    bed.run();
    assert_eq!(bed.damage(), []);
    bed.collect(DELETE);
    // The machine's own text comes back, and is known as its own.
    bed.write("captions/two.txt", "a text two\n");
    assert!(bed.run().is_empty());
    fs::remove_file(bed.at("captions/two.txt")).unwrap();
    assert!(bed.run().is_empty(), "{:?}", bed.log());
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "a text two\n");
}

#[test]
fn down_to_a_size_the_bulky_goes_first_and_the_precious_last() {
    let bed = Bed::new(
        "  echo: { images: photos, suffix: A, log: LOG }\n  cut: { images: echo, letters: 4, log: LOG }\n  \
         learn: { images: photos, epochs: 2, log: LOG }",
    );
    bed.run();
    let to = |bytes: u64| CollectOptions { max_size: Some(bytes), ..LOOK };
    let total = bed.collect(LOOK).total;
    let kinds = |bytes: u64| bed.collect(to(bytes)).evicted.into_keys().collect::<Vec<_>>();
    assert!(kinds(total).is_empty());
    assert_eq!(kinds(total - 1), ["echo"]);
    assert_eq!(kinds(total - 31), ["cut", "echo"]);
    assert_eq!(kinds(0), ["cut", "echo", "learn"]);

    let collected = bed.collect(CollectOptions { max_size: Some(total - 1), ..DELETE });
    assert_eq!(collected.evicted["echo"].count, 1, "no more than it takes");
    assert_eq!(bed.damage(), [], "what was evicted on purpose is no loss");
    assert_eq!(bed.collect(LOOK).freed().count, 0);
    let did = bed.run();
    assert_eq!(did.len(), 1, "{did:?}");
    assert!(did[0].starts_with("echo "), "{did:?}");
    assert!(bed.plan().is_fresh());
    assert_eq!(bed.cache().evicted().unwrap().len(), 1);
    bed.collect(DELETE);
    assert!(bed.cache().evicted().unwrap().is_empty(), "it is here again");
    bed.collect(CollectOptions { max_size: Some(0), ..DELETE });
    assert_eq!(bed.damage(), []);
    assert_eq!(bed.run().len(), 3 + 3 + 2 + 1);
}

#[test]
fn runs_in_other_processes_lose_nothing_while_somebody_collects() {
    const STAGES: &str = "  echo: { images: photos, suffix: A, delay: 15, log: LOG }\n  \
                          learn: { images: echo, epochs: 4, delay: 15, log: LOG }\n  \
                          draw: { lora: learn, prompts: [a, b], delay: 15, log: LOG }";
    let bed = Bed::new(STAGES);
    let mut collected = 0;
    let mut freed = 0;
    for round in 0..12 {
        // Back and forth, so that what is named by nothing is found again, in part.
        let text = ["A", "B"][round % 2];
        bed.stages(&STAGES.replace("suffix: A", &format!("suffix: {text}")));
        bed.write("images/two.png", &format!("text {}", round / 3));
        let evicts = round % 4 == 3;
        let mut child = child(&bed);
        while child.try_wait().unwrap().is_none() {
            let max_size = evicts.then_some(0);
            let outcome = bed.collect(CollectOptions { max_size, ..DELETE });
            assert!(outcome.deleted, "{:?}", outcome.problems);
            collected += 1;
            freed += outcome.freed().count;
        }
        assert!(child.wait().unwrap().success(), "round {round}");
        if !evicts {
            assert!(bed.plan().is_fresh(), "round {round}: {:?}", bed.plan());
        }
        assert_eq!(bed.damage(), [], "round {round}");
    }
    assert!(collected >= 24, "only {collected} times something was collected while a pipeline ran");
    assert!(freed > 0);
}

#[test]
fn a_killed_run_goes_on_from_what_it_had_though_somebody_collects() {
    let stages = "  learn: { images: photos, epochs: 40, save_every: 1, delay: 10, log: LOG }\n  \
                  draw: { lora: learn, prompts: [a], log: LOG }";
    let bed = Bed::new(stages);
    let mut child = child(&bed);
    wait_until("the fifth drawing", || bed.log().contains(&"draw e005-0".to_string()));
    child.kill().unwrap();
    child.wait().unwrap();
    let collected = bed.collect(DELETE);
    assert!(collected.deleted && collected.unfinished.count >= 9, "{collected:?}");
    bed.run();
    for drawing in 1..=4 {
        let line = format!("draw e{drawing:03}-0");
        assert_eq!(bed.log().iter().filter(|l| **l == line).count(), 1, "{line}");
    }
    assert_eq!(bed.damage(), []);
}
