//! When a file counts as changed: whatever its times say, and whatever happens to it while it is read.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use loramill_engine::cache::Cache;
use loramill_engine::cache::digest::Digest;
use loramill_engine::run::events::StageState;

use crate::bed::{Bed, Heard};

const MAP: &str = "  echo: { images: photos, log: LOG }\n  cut: { images: echo, letters: 9, log: LOG }";

/// Every file that is older than this is remembered by its times.
const SETTLED: Duration = Duration::from_millis(60);

fn set_modified(path: &Path, time: SystemTime) {
    File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// Of the same size as what is there.
fn rewrite(path: &Path, text: &str) {
    assert_eq!(fs::metadata(path).unwrap().len(), text.len() as u64);
    fs::write(path, text).unwrap();
}

#[test]
fn a_file_that_is_touched_to_any_time_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for time in [now - hour, now + hour, SystemTime::UNIX_EPOCH, now + 100_000 * hour] {
        set_modified(&bed.at("images/two.png"), time);
        assert!(bed.plan().is_fresh(), "{time:?}");
        assert!(bed.run().is_empty(), "{time:?}");
    }
}

#[test]
fn an_edit_of_the_same_size_right_after_a_run_is_seen() {
    let bed = Bed::new(MAP);
    bed.run();
    for number in 0..20 {
        // At once, within the tick of the file system's clock in which the run read it.
        rewrite(&bed.at("images/one.png"), &format!("t{number:07}"));
        let did = bed.run();
        assert!(did.contains(&"echo one".to_string()), "edit {number} was not seen: {did:?}");
    }
}

#[test]
fn an_edit_of_the_same_size_whose_time_was_set_back_is_seen() {
    let bed = Bed::new(MAP);
    let path = bed.at("images/two.png");
    for settled in [true, false] {
        bed.run();
        if settled {
            thread::sleep(SETTLED);
            bed.run();
        }
        let before = modified(&path);
        rewrite(&path, if settled { "text ii." } else { "text iii" });
        set_modified(&path, before);
        assert_eq!(bed.plan().stage("echo").unwrap().dirty, ["two"], "settled: {settled}");
        assert_eq!(bed.run(), ["cut two", "echo two"], "settled: {settled}");
    }
}

#[test]
fn an_edit_is_seen_though_the_clock_was_wrong_when_it_was_made() {
    let bed = Bed::new(MAP);
    let path = bed.at("images/two.png");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for (number, (first, second)) in
        [(now + hour, now + hour), (now + hour, now - hour), (now - hour, now - hour), (now, now - hour)].into_iter().enumerate()
    {
        set_modified(&path, first);
        thread::sleep(SETTLED);
        bed.run();
        rewrite(&path, &format!("text {number:03}"));
        set_modified(&path, second);
        assert_eq!(bed.run(), ["cut two", "echo two"], "{first:?}, then {second:?}");
        assert!(bed.run().is_empty());
    }
}

#[test]
fn a_photo_that_changes_before_a_stage_reads_it_is_not_taken_for_the_old_one() {
    // Both take their time, and one thread does their works: some photo is read long after it was hashed.
    let mut bed = Bed::new(
        "  echo: { images: photos, delay: 60, log: LOG }\n  late: { kind: echo, images: photos, suffix: L, delay: 60, log: LOG }",
    );
    bed.jobs = 1;
    let heard = Heard::default();
    let record = thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        while bed.log().is_empty() {
            thread::yield_now();
        }
        // Whichever stage comes to it: what it would read is not what was hashed.
        bed.write("images/one.png", "text ONE");
        bed.write("images/two.png", "text TWO");
        bed.write("images/three.png", "text THREE");
        running.join().expect("no panic").expect("the run itself does not fail")
    });
    assert!(!record.is_ok());
    let notes: Vec<&String> = record.stages.iter().filter_map(|stage| stage.note.as_ref()).collect();
    assert!(notes.iter().any(|note| note.contains("was changed while the run was reading it: run again")), "{notes:?}");
    bed.run();
    assert_eq!(bed.says("echo", "two"), "text TWO");
    assert_eq!(bed.says("late", "two"), "text TWOL");
    assert_eq!(bed.damage(), []);
}

#[test]
fn a_large_input_that_changes_under_a_stage_discards_its_result() {
    const LARGE: u64 = (64 << 20) + 1;
    let bed = Bed::new("  learn: { images: photos, base: base, epochs: 2, save_every: 2, wait_at: 1, fail_at: 0, log: LOG }");
    let base = File::create(bed.at("base.safetensors")).unwrap();
    base.set_len(LARGE).unwrap();
    let heard = Heard::default();
    let record = thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&heard));
        while !bed.requests.is_heard() {
            thread::yield_now();
        }
        // In the middle, and to the same size and time.
        let before = base.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&base, b"changed", LARGE / 2).unwrap();
        base.set_modified(before).unwrap();
        bed.requests.stop();
        running.join().expect("no panic").expect("the run itself does not fail")
    });
    let learn = record.stage("learn").unwrap();
    assert_eq!(learn.state, StageState::Failed, "{learn:?}");
    assert!(learn.note.as_ref().unwrap().contains("base.safetensors` was changed while the stage was reading it"), "{learn:?}");
    assert!(!bed.at("pipeline.lock").exists());
}

#[test]
fn a_file_that_is_cut_short_while_it_is_hashed_is_hashed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = (Cache::open(&folder.path().join("cache")).unwrap(), folder.path().join("model"));
    let whole: Vec<u8> = (0..9 << 20).map(|i: u32| (i * 7 + i / 251) as u8).collect();
    fs::write(&path, &whole).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            for round in 0..40 {
                file.set_len(whole.len() as u64 / (round % 5 + 2)).unwrap();
                thread::yield_now();
                fs::write(&path, &whole).unwrap();
                thread::sleep(Duration::from_millis(round % 3));
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            // Never a crash, never an error, and no size beyond the file's.
            let (_, size) = cache.digest_file(&path).unwrap();
            assert!(size <= whole.len() as u64);
        }
    });
    for settled in [false, true] {
        if settled {
            thread::sleep(SETTLED);
        }
        assert_eq!(cache.digest_file(&path).unwrap(), (Digest::of(&whole), whole.len() as u64));
    }
}
