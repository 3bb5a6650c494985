//! A run that finds nothing to do leaves word, so that the next looks at little; whatever changes, the next run sees it all the same.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{command, loramill, said};

const PIPELINE: &str = "\
concept: star
env: [SIZE]
inputs: { photos: images/, boxes: crops.yaml }
stages:
  crop: { images: photos, boxes: boxes }
  resize: { images: crop, size: '${env.SIZE}' }
  caption: { images: resize, model: sidecar }
  flip: { images: caption }
";

struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().expect("a folder"));
        let images = project.path("images");
        fs::create_dir_all(images.join("day")).expect("made");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images");
        for (from, to) in [("star-00.jpg", "a.jpg"), ("star-01.png", "b.png"), ("star-02.png", "day/c.png")] {
            fs::copy(example.join(from), images.join(to)).expect("copied");
        }
        project.write("images/a.txt", "a star\n");
        project.write("crops.yaml", "a: [0, 0, 16, 16]\n");
        project.write("pipeline.yaml", PIPELINE);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).expect("copied");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("read")
    }

    fn with_size(&self, size: &str, arguments: &[&str]) -> Command {
        let mut command = command(self.0.path(), arguments);
        command.env("SIZE", size).args(["--cache", "cache"]);
        command
    }

    /// The states of the stages in a run.
    fn run(&self, size: &str) -> Vec<(String, String)> {
        let (code, out, err) = said(&self.with_size(size, &["run", "--progress", "json"]).output().expect("the program starts"));
        assert_eq!(code, 0, "{out}{err}");
        let events = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let ended = events.filter(|event| event["event"] == "stage_finished");
        let text = |value: &Value| value.as_str().expect("a text").to_string();
        ended.map(|event| (text(&event["stage"]), text(&event["state"]))).collect()
    }

    /// Whether a plan, which always looks at everything, has something to run.
    fn has_work(&self, size: &str) -> bool {
        let output = self.with_size(size, &["plan", "--json"]).output().expect("the program starts");
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        plan["stages"].as_array().expect("stages").iter().any(|stage| stage["state"] != "fresh")
    }

    /// What the last run that found nothing to do left.
    fn word(&self) -> Option<PathBuf> {
        let runs = fs::read_dir(self.path("cache/runs")).ok()?;
        runs.map(|entry| entry.expect("read").path()).find(|path| path.extension().is_some_and(|e| e == "standstill"))
    }

    /// Runs until there is word of nothing to do. Files that were written just now are too young to be relied on.
    fn come_to_rest(&self) {
        for _ in 0..20 {
            let states = self.run("16");
            if self.word().is_some() {
                assert!(states.iter().all(|(_, state)| state == "cached"), "{states:?}");
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        panic!("no run left word that there was nothing to do");
    }
}

/// Other contents of the same size, and the times of before.
fn replace_in_secret(path: &Path) {
    let before = fs::metadata(path).expect("there");
    let mut bytes = fs::read(path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] = if bytes[last] == b'1' { b'2' } else { b'1' };
    fs::write(path, bytes).expect("written");
    let times = FileTimes::new().set_modified(before.modified().expect("a time"));
    File::options().write(true).open(path).expect("opened").set_times(times).expect("set");
}

type Change = (&'static str, fn(&Project));

const CHANGES: &[Change] = &[
    ("a photo is another", |p| p.copy("images/day/c.png", "images/b.png")),
    ("a photo came", |p| p.copy("images/a.jpg", "images/day/new.jpg")),
    ("a photo is gone", |p| fs::remove_file(p.path("images/day/new.jpg")).expect("removed")),
    ("a photo has another name", |p| fs::rename(p.path("images/b.png"), p.path("images/x.png")).expect("renamed")),
    ("a folder has another name", |p| fs::rename(p.path("images/day"), p.path("images/night")).expect("renamed")),
    ("a sidecar is another", |p| p.write("images/a.txt", "two stars\n")),
    ("a sidecar is another, and its times say nothing", |p| replace_in_secret(&p.path("images/a.txt"))),
    ("a box is another", |p| p.write("crops.yaml", "a: [4, 4, 16, 16]\n")),
    ("a box is another, and its times say nothing", |p| p.write("crops.yaml", "a: [8, 8, 16, 16]\n")),
    ("a caption was edited", |p| p.write("captions/a.txt", "a star of mine\n")),
    ("a caption was removed", |p| fs::remove_file(p.path("captions/x.txt")).expect("removed")),
    ("a caption came", |p| p.write("captions/a-flip.txt", "a star, mirrored\n")),
    ("the pipeline is another", |p| p.write("pipeline.yaml", &p.read("pipeline.yaml").replace("model: sidecar", "model: none"))),
    ("a stage came", |p| {
        p.write("pipeline.yaml", &format!("{}  small: {{ kind: resize, images: crop, size: 8 }}\n", p.read("pipeline.yaml")))
    }),
    ("an output was removed", |p| fs::remove_file(p.path("out/flip/a-flip.png")).expect("removed")),
    ("outputs were cleared away", |p| fs::remove_dir_all(p.path("out")).expect("removed")),
    ("an output was changed", |p| p.write("out/flip/a-flip.png", "mine")),
    ("the lock is gone", |p| fs::remove_file(p.path("pipeline.lock")).expect("removed")),
    ("an object is gone", |p| {
        let parts = fs::read_dir(p.path("cache/objects")).expect("listed");
        for part in parts.map(|entry| entry.expect("read").path()) {
            fs::remove_dir_all(part).expect("removed");
        }
    }),
];

#[test]
fn whatever_changes_the_next_run_sees_it() {
    let project = Project::new();
    for (what, change) in CHANGES {
        project.come_to_rest();
        let states = project.run("16");
        assert!(project.word().is_some() && !states.is_empty(), "before {what}");
        change(&project);
        let has_work = project.has_work("16");
        let ran = project.run("16").iter().any(|(_, state)| state == "ran");
        assert_eq!(ran, has_work, "{what}");
        let outputs = [project.path("out/flip/a-flip.png"), project.path("pipeline.lock"), project.path("captions/a.txt")];
        assert!(outputs.iter().all(|path| path.exists()), "{what}");
        // Nothing is left to do or to write down for a run that looks at everything.
        let lock = project.read("pipeline.lock");
        project.word().into_iter().for_each(|word| fs::remove_file(word).expect("removed"));
        assert!(project.run("16").iter().all(|(_, state)| state == "cached"), "{what}");
        assert_eq!(project.read("pipeline.lock"), lock, "{what}");
    }
    assert_eq!(fs::read_to_string(project.path("out/.yours/flip/a-flip.png")).expect("kept"), "mine");
    assert_eq!(project.read("captions/a.txt"), "a star of mine\n");
}

#[test]
fn what_lies_in_no_file_counts_too() {
    let project = Project::new();
    project.come_to_rest();
    assert!(project.run("24").iter().any(|(_, state)| state == "ran"), "a variable of the environment");
    project.come_to_rest();
    let word = fs::read(project.word().expect("there")).expect("read");
    let forced = project.with_size("16", &["run", "-q", "--force", "crop"]).output().expect("the program starts");
    assert_eq!(said(&forced).0, 0);
    let (_, _, told) = said(&project.with_size("16", &["run", "crop"]).output().expect("the program starts"));
    assert!(told.contains("nothing to do: 1 stage fresh"), "another selection: {told}");
    project.come_to_rest();
    // A damaged word is none.
    for length in [0, 10, word.len() / 2, word.len() - 1] {
        fs::write(project.word().expect("there"), &word[..length]).expect("written");
        assert!(project.run("16").iter().all(|(_, state)| state == "cached"));
    }
}

#[test]
fn a_run_at_rest_says_what_any_other_says() {
    let project = Project::new();
    let told = || {
        let (code, out, err) = said(&project.with_size("16", &["run"]).output().expect("the program starts"));
        assert_eq!(code, 0, "{err}");
        let times = regex::Regex::new(r"\([0-9.]+ m?s\)").expect("a pattern");
        let err = times.replace_all(&err, "");
        // Stages that do not read one another end in any order.
        let mut lines: Vec<String> = err.lines().map(str::to_string).collect();
        lines.sort();
        (out, lines.join("\n"))
    };
    project.come_to_rest();
    let at_rest = told();
    fs::remove_file(project.word().expect("there")).expect("removed");
    assert_eq!(told(), at_rest);
    assert!(at_rest.1.contains("nothing to do: 4 stages fresh"), "{}", at_rest.1);
    let (code, out, _) = said(&loramill(project.0.path(), &["check", "nowhere"]));
    assert_eq!((code, out.as_str()), (2, ""));
}

#[test]
fn a_stage_that_does_not_keep_its_outputs_comes_to_rest_and_what_happens_to_them_is_seen() {
    let project = Project::new();
    let unkept = PIPELINE.replace("boxes: boxes }", "boxes: boxes, keep: false, default: false }");
    project.write("pipeline.yaml", &unkept);
    project.come_to_rest();
    let objects = || {
        let files = walkdir::WalkDir::new(project.path("cache/objects")).into_iter();
        files.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_type().is_file())).count()
    };
    let without = objects();
    project.write("pipeline.yaml", &unkept.replace(", default: false", ""));
    assert!(project.run("16").iter().all(|(_, state)| state == "cached"), "`crop` is shown");
    project.come_to_rest();
    assert_eq!(objects(), without);
    project.write("pipeline.yaml", &unkept);

    // A file is removed: nothing of it comes back, and the next rest is another.
    project.come_to_rest();
    fs::remove_file(project.path("out/crop/b.png")).expect("removed");
    assert!(!project.has_work("16"));
    project.come_to_rest();
    assert!(!project.path("out/crop/b.png").exists() && project.path("out/crop/a.png").exists());
    assert!(project.run("16").iter().all(|(_, state)| state == "cached"));

    // Who reads it must run: one piece is made again, the others are taken from where they lie.
    let states = project.run("8");
    let state =
        |stage: &str| states.iter().filter(|(name, _)| name == stage).map(|(_, state)| state.as_str()).collect::<Vec<_>>();
    assert_eq!((state("crop"), state("resize")), (vec!["cached", "ran"], vec!["ran"]));
    project.come_to_rest();
    fs::remove_dir_all(project.path("out/crop")).expect("removed");
    project.come_to_rest();
    assert!(!project.path("out/crop").exists());
}
