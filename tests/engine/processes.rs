//! Several processes, and processes that are killed.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::Bed;

/// The folder of a pipeline that a child of a test runs.
const FOLDER: &str = "LORAMILL_TEST_RUNS";

const TRAIN: &str = "  echo: { images: photos, delay: 4, log: LOG }\n  learn: { images: echo, epochs: 6, delay: 8, log: LOG }\n  \
                     draw: { lora: learn, prompts: [a, b], delay: 4, log: LOG }";

/// Does nothing unless a test starts this binary once more, to run a pipeline in a process that can be killed.
#[test]
fn a_child_runs_the_pipeline_it_is_told() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let record = Bed::run_in(folder.as_ref()).expect("the run itself does not fail");
    assert!(record.is_ok(), "{record:?}");
}

pub fn child(bed: &Bed) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "processes::a_child_runs_the_pipeline_it_is_told", "--nocapture"])
        .env(FOLDER, bed.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts")
}

#[test]
fn killed_at_any_moment_the_next_run_goes_on_and_gives_the_same() {
    let undisturbed = Bed::new(TRAIN);
    undisturbed.run();
    let bed = Bed::new(TRAIN);
    let mut killed = 0;
    // Moments that are spread over the run, whatever the speed of the machine.
    for moment in (10..).step_by(9).take(24) {
        let mut child = child(&bed);
        thread::sleep(Duration::from_millis(moment));
        let ended = child.try_wait().expect("known").is_some();
        child.kill().expect("it is our child");
        child.wait().expect("it has ended");
        if ended {
            break;
        }
        killed += 1;
    }
    assert!(killed >= 3, "only {killed} runs were killed before they ended");
    bed.run();
    assert_eq!(bed.lock().to_text(), undisturbed.lock().to_text());
    for stage in ["echo", "learn", "draw"] {
        assert_eq!(bed.digests(stage), undisturbed.digests(stage));
    }
    let learned = bed.log().iter().filter(|line| line.starts_with("save ")).count();
    assert!(learned <= 3 + killed, "a killed run goes on, it does not start over: {learned} checkpoints");
}

#[test]
fn two_processes_with_one_pipeline_do_each_piece_once() {
    let bed = Bed::new(TRAIN);
    let children = [child(&bed), child(&bed)];
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    let mut did = bed.log();
    let count = did.len();
    did.sort();
    did.dedup();
    assert_eq!(did.len(), count, "{:?}", bed.log());
    assert_eq!(count, 3 + 6 + 3 + 6 + 3);
}

#[test]
fn two_pipelines_with_one_cache_do_each_piece_once() {
    let first = Bed::new(TRAIN);
    let second = Bed::new(TRAIN);
    // One cache, one log.
    std::os::unix::fs::symlink(first.at("cache"), second.at("cache")).expect("linked");
    std::fs::create_dir_all(first.at("cache")).expect("made");
    second.write("pipeline.yaml", &std::fs::read_to_string(first.at("pipeline.yaml")).expect("read"));
    let children = [child(&first), child(&second)];
    let started = Instant::now();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(first.log().len(), 3 + 6 + 3 + 6 + 3, "after {:?}: {:?}", started.elapsed(), first.log());
    assert_eq!(first.lock().to_text(), second.lock().to_text());
}
