//! `loramill watch` as a person uses it: with an editor, and Ctrl-C.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use loramill::engine::cache::Cache;
use loramill::engine::cache::locks::Claim;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{claim_items_of, command};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// So long an editor may think between two pieces of what it writes; longer than the quiet that is waited for.
const THOUGHT: Duration = Duration::from_millis(700);

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 32 }
  caption: { images: resize, model: sidecar }
";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images").join(name)
}

/// A pipeline with two photos and their texts.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    fs::create_dir(folder.path().join("images")).expect("made");
    for name in ["star-00.jpg", "star-01.png", "star-00.txt", "star-01.txt"] {
        fs::copy(example(name), folder.path().join("images").join(name)).expect("copied");
    }
    folder
}

/// What one run did: how many items of each stage ran.
type Ran = Vec<(String, u64)>;

struct Watch {
    child: Child,
    events: Receiver<Value>,
    runs: Vec<Ran>,
    /// Of the last change that was told.
    changed: Vec<String>,
    problem: Option<String>,
    folders: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A test that failed must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watch {
    /// Starts, and waits until it rests.
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut watch = Self::spawn(folder, arguments);
        watch.rest();
        watch
    }

    fn spawn(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = command(folder, &[&["watch", "--progress", "json"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).expect("JSON")).is_err() {
                    break;
                }
            }
        });
        Self { child, events, runs: Vec::new(), changed: Vec::new(), problem: None, folders: 0 }
    }

    /// Waits until a run says that it waits for what another process claims to be at.
    fn wait_in_a_run(&mut self) {
        let is_it = |event: &Value| event["text"].as_str().is_some_and(|text| text.contains("waiting for its result"));
        while !is_it(&self.events.recv_timeout(PATIENCE).expect("a run that waits")) {}
    }

    /// Waits until it waits for changes.
    fn rest(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut ran = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).unwrap_or_else(|_| panic!("it does not come to rest: {:?}", self.runs));
            match event["event"].as_str().expect("a name") {
                "run_started" => ran = Some(Ran::new()),
                "stage_finished" => {
                    let count = event["items"]["ran"].as_u64().expect("a number");
                    let stage = event["stage"].as_str().expect("a name").to_string();
                    ran.get_or_insert_default().push((stage, count));
                }
                "run_finished" => self.runs.extend(ran.take()),
                "changed" => {
                    let files = event["files"].as_array().expect("a list");
                    self.changed = files.iter().map(|file| file.as_str().expect("a path").to_string()).collect();
                }
                "problem" => self.problem = event["text"].as_str().map(str::to_string),
                "watching" => {
                    self.folders = event["folders"].as_u64().expect("a number");
                    return;
                }
                _ => {}
            }
        }
    }

    /// Stages of the last run of which something ran, with how many items.
    fn last(&self) -> Vec<(&str, u64)> {
        let last = self.runs.last().expect("a run");
        last.iter().filter(|(_, count)| *count > 0).map(|(stage, count)| (stage.as_str(), *count)).collect()
    }

    /// Presses Ctrl-C and gives the exit code.
    fn interrupt(mut self) -> Option<i32> {
        let process = Pid::from_child(&self.child);
        kill_process(process, Signal::INT).expect("it is there");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }
}

/// As most editors save: beside the file, then over it.
fn save_atomically(path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    fs::write(&beside, text).expect("written");
    fs::rename(&beside, path).expect("renamed");
}

#[test]
fn a_change_runs_what_depends_on_it_and_nothing_else() {
    let folder = folder();
    let folder = folder.path();
    let mut watch = Watch::start(folder, &[]);
    assert_eq!(watch.last(), [("crop", 2), ("resize", 2), ("caption", 2)]);
    // The folder of the pipeline, of the photos and, made by the run, of the captions.
    assert_eq!(watch.folders, 3);

    fs::write(folder.join("images/star-01.txt"), "another text").expect("written");
    watch.rest();
    assert_eq!((watch.last(), watch.changed.as_slice()), (vec![("caption", 1)], &["images/star-01.txt".to_string()][..]));
    assert_eq!(fs::read_to_string(folder.join("captions/star-01.txt")).expect("there"), "another text\n");

    fs::write(folder.join("captions/star-00.txt"), "by hand").expect("written");
    watch.rest();
    assert_eq!((watch.last(), watch.changed.as_slice()), (vec![], &["captions/star-00.txt".to_string()][..]));

    fs::create_dir(folder.join("images/more")).expect("made");
    fs::copy(example("star-02.png"), folder.join("images/more/star-02.png")).expect("copied");
    watch.rest();
    assert_eq!(watch.last(), [("crop", 1), ("resize", 1), ("caption", 1)]);
    // Also what changes below the new folder is heard.
    fs::copy(example("star-03.jpg"), folder.join("images/more/star-02.png")).expect("copied");
    watch.rest();
    assert_eq!((watch.last()[0], watch.changed.as_slice()), (("crop", 1), &["images/more/star-02.png".to_string()][..]));
    // What its own runs wrote made it run no more often.
    assert_eq!(watch.runs.len(), 5, "{:?}", watch.runs);
    assert_eq!(watch.interrupt(), Some(0));
}

#[cfg(feature = "nn")]
#[test]
fn a_change_opens_networks_for_what_depends_on_it() {
    let folder = folder();
    let folder = folder.path();
    fs::copy(example("../models/tiny-sd.safetensors"), folder.join("base.safetensors")).expect("copied");
    let train = "  train: { base: base, images: caption, epochs: 1, save_every: 1, batch_size: 2, network: { rank: 2 }, precision: fp32 }";
    let text = PIPELINE.replace("photos: images/ }", "photos: images/, base: base.safetensors }");
    fs::write(folder.join("pipeline.yaml"), format!("{text}{train}\n")).expect("written");
    let mut watch = Watch::start(folder, &["--keep-going", "--force", "crop"]);
    assert_eq!(watch.last(), [("crop", 2), ("resize", 2), ("caption", 2), ("train/latents", 2), ("train", 1)]);

    fs::write(folder.join("captions/star-00.txt"), "by hand").expect("written");
    watch.rest();
    assert_eq!(watch.last(), [("train", 1)], "nothing is forced any more");
    assert!(folder.join("out/train/e001.safetensors").is_file());
    assert_eq!(watch.runs.len(), 2, "{:?}", watch.runs);
    assert_eq!(watch.interrupt(), Some(0));
}

#[test]
fn a_file_that_is_written_in_pieces_makes_one_run_when_it_is_complete() {
    let folder = folder();
    let folder = folder.path();
    let mut watch = Watch::start(folder, &[]);
    let photo = fs::read(example("star-02.png")).expect("there");
    let mut file = File::create(folder.join("images/star-02.png")).expect("made");
    for piece in photo.chunks(photo.len().div_ceil(3)) {
        file.write_all(piece).expect("written");
        // The writer is slow; the watch must not take a pause for the end.
        thread::sleep(THOUGHT);
    }
    drop(file);
    watch.rest();
    assert_eq!(watch.last(), [("crop", 1), ("resize", 1), ("caption", 1)]);

    // An editor that keeps a text open while its owner thinks.
    let mut text = OpenOptions::new().write(true).truncate(true).open(folder.join("images/star-00.txt")).expect("opened");
    text.write_all(b"half a ").expect("written");
    thread::sleep(THOUGHT);
    text.write_all(b"sentence").expect("written");
    drop(text);
    watch.rest();
    assert_eq!(watch.last(), [("caption", 1)]);
    assert_eq!(fs::read_to_string(folder.join("captions/star-00.txt")).expect("there"), "half a sentence\n");
    assert_eq!(watch.runs.len(), 3, "{:?}", watch.runs);
}

#[test]
fn an_atomic_save_counts_and_the_files_of_editors_do_not() {
    let folder = folder();
    let folder = folder.path();
    let mut watch = Watch::start(folder, &[]);
    for name in ["images/.star-00.txt.swp", "images/4913", "captions/star-00.txt~", "captions/.#star-00.txt", "images/notes.md"] {
        fs::write(folder.join(name), "x").expect("written");
    }
    fs::remove_file(folder.join("images/4913")).expect("removed");
    save_atomically(&folder.join("images/star-00.txt"), "saved at once");
    watch.rest();
    assert_eq!((watch.last(), watch.changed.as_slice()), (vec![("caption", 1)], &["images/star-00.txt".to_string()][..]));
    assert_eq!(watch.runs.len(), 2);
}

#[test]
fn a_broken_file_is_told_and_waited_on_and_a_folder_that_is_gone_is_found_again() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("pipeline.yaml"), "stages: [").expect("written");
    let mut watch = Watch::start(folder, &[]);
    assert!(watch.runs.is_empty() && watch.problem.is_some());
    save_atomically(&folder.join("pipeline.yaml"), PIPELINE);
    watch.rest();
    assert_eq!((watch.runs.len(), watch.last().len()), (1, 3));
    watch.problem = None;
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("size: 32", "sise: 32")).expect("written");
    watch.rest();
    assert!(watch.problem.as_ref().is_some_and(|problem| problem.contains("did you mean `size`?")), "{:?}", watch.problem);
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("size: 32", "size: 16")).expect("written");
    watch.rest();
    assert_eq!(watch.last()[0], ("resize", 2));

    fs::rename(folder.join("images"), folder.join("elsewhere")).expect("moved");
    watch.rest();
    fs::create_dir(folder.join("images")).expect("made");
    fs::copy(example("star-05.jpg"), folder.join("images/star-05.jpg")).expect("copied");
    watch.rest();
    while watch.runs.last().is_none_or(|ran| ran.iter().all(|(_, count)| *count == 0)) || watch.last()[0] != ("crop", 1) {
        // The folder may have been noticed before the photo.
        watch.rest();
    }
    let runs = watch.runs.len();
    fs::copy(example("star-06.jpg"), folder.join("images/star-06.jpg")).expect("copied");
    watch.rest();
    assert_eq!((watch.runs.len(), watch.last()[0]), (runs + 1, ("crop", 1)));
    assert_eq!(watch.interrupt(), Some(0));
}

#[test]
fn a_wrong_target_ends_it_at_the_start_and_targets_and_settings_are_those_of_run() {
    let folder = folder();
    let folder = folder.path();
    for wrong in [&["watch", "filp"][..], &["watch", "nowhere/", "crop"]] {
        let output = command(folder, wrong).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let mut watch = Watch::start(folder, &["resize", "--force", "crop"]);
    assert_eq!(watch.last(), [("crop", 2), ("resize", 2)]);
    fs::copy(example("star-07.png"), folder.join("images/star-01.png")).expect("copied");
    watch.rest();
    assert_eq!(watch.last(), [("crop", 1), ("resize", 1)], "forced once");
}

#[test]
fn who_looks_once_a_second_sees_the_same() {
    let folder = folder();
    let folder = folder.path();
    let mut watch = Watch::start(folder, &["--poll"]);
    fs::write(folder.join("images/star-01.txt"), "another text, longer than the first").expect("written");
    watch.rest();
    assert_eq!(watch.last(), [("caption", 1)]);
    save_atomically(&folder.join("pipeline.yaml"), &PIPELINE.replace("size: 32", "size: 16"));
    watch.rest();
    assert_eq!(watch.last(), [("resize", 2)]);
    assert_eq!(watch.interrupt(), Some(0));
}

/// Claims to be at what a forced run of `crop` does, once everything has been made.
fn hold_crop(folder: &Path) -> (Cache, Claim) {
    assert!(command(folder, &["run", "-q"]).status().expect("the program starts").success());
    claim_items_of(folder, "crop")
}

#[test]
fn what_changes_during_a_run_makes_one_more_run_after_it() {
    let folder = folder();
    let folder = folder.path();
    let (_cache, held) = hold_crop(folder);
    let mut watch = Watch::spawn(folder, &["--force", "crop"]);
    watch.wait_in_a_run();
    for text in ["saved", "saved again", "saved a third time"] {
        save_atomically(&folder.join("images/star-01.txt"), text);
    }
    drop(held);
    watch.rest();
    assert_eq!((watch.runs.len(), watch.last()), (1, vec![("crop", 2)]));
    watch.rest();
    assert_eq!((watch.runs.len(), watch.last()), (2, vec![("caption", 1)]));
    assert_eq!(fs::read_to_string(folder.join("captions/star-01.txt")).expect("there"), "saved a third time\n");
    assert_eq!(watch.interrupt(), Some(0));
}

#[test]
fn ctrl_c_in_a_run_stops_that_as_it_stops_run() {
    let folder = folder();
    let folder = folder.path();
    let (_cache, _held) = hold_crop(folder);
    let mut watch = Watch::spawn(folder, &["--force", "crop"]);
    watch.wait_in_a_run();
    assert_eq!(watch.interrupt(), Some(130));
}

#[test]
fn what_it_says_is_for_people() {
    let folder = folder();
    let folder = folder.path();
    let mut child = command(folder, &["watch"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
    let mut wait_for = |words: &str| {
        let found = lines.find(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("it ended before it said `{words}`"))
    };
    assert_eq!(wait_for("Watching"), " Watching 3 folders of `star`; Ctrl-C ends");
    fs::write(folder.join("images/star-01.txt"), "another text").expect("written");
    assert_eq!(wait_for("Changed"), "  Changed images/star-01.txt");
    assert!(wait_for("Running").starts_with("  Running caption: 1 of 2 sidecars edited: star-01"));
    wait_for("Watching");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
    assert!(child.wait().expect("it ends").success());
}
