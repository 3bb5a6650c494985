//! A project that came from somebody else: whatever lies in it, no command changes what is outside of it, and none hangs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use loramill::engine::lock_file::{LockFile, StageRow};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use walkdir::WalkDir;

use super::{command, loramill, said};
use crate::git::git;

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/, boxes: crops.yaml }
stages:
  crop: { images: photos, boxes: boxes }
  resize: { images: crop, size: 32 }
  caption: { images: resize, model: none, prefix: star }
";

/// Commands that read a project, and those that delete.
const COMMANDS: [&[&str]; 13] = [
    &["check"],
    &["plan"],
    &["status"],
    &["run", "-q"],
    &["explain", "crop"],
    &["edits", "list"],
    &["restore"],
    &["gc"],
    &["gc", "--yes"],
    &["fsck"],
    &["fsck", "--full", "--repair"],
    &["skip", "pipeline.yaml", "star-01"],
    &["stop"],
];

/// More than any of them takes; a command that hangs would hang for ever.
const PATIENCE: Duration = Duration::from_secs(30);

struct Foreign {
    temp: tempfile::TempDir,
}

impl Foreign {
    /// A project that has run, and beside it somebody's files, with names that loramill gives.
    fn new() -> Self {
        let foreign = Self { temp: tempfile::tempdir().expect("a folder") };
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images");
        fs::create_dir_all(foreign.at("project/images")).expect("made");
        fs::copy(examples.join("star-01.png"), foreign.at("project/images/star-01.png")).expect("copied");
        fs::write(foreign.at("project/pipeline.yaml"), PIPELINE).expect("written");
        fs::write(foreign.at("project/crops.yaml"), "# none yet\n").expect("written");
        assert_eq!(said(&loramill(&foreign.project(), &["run", "-q"])), (0, String::new(), String::new()));
        for folder in ["victim/7", "victim/ab", "victim/.loramill-tmp"] {
            fs::create_dir_all(foreign.at(folder)).expect("made");
            fs::write(foreign.at(folder).join("precious"), "precious").expect("written");
        }
        for file in ["7.lock", "1.000000001.0.old", "star-01.png", "star-01.txt"] {
            fs::write(foreign.at("victim").join(file), "precious").expect("written");
        }
        foreign
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn project(&self) -> PathBuf {
        self.at("project")
    }

    /// Puts a link to somebody's folder in the place of something.
    fn link(&self, place: &str, target: &str) {
        let place = self.project().join(place);
        remove(&place);
        fs::create_dir_all(place.parent().expect("below the project")).expect("made");
        symlink(self.at(target), place).expect("linked");
    }

    fn victim(&self) -> Vec<(PathBuf, Option<String>)> {
        let mut found: Vec<_> = WalkDir::new(self.at("victim"))
            .into_iter()
            .map(|entry| entry.expect("readable").into_path())
            .map(|path| (path.clone(), fs::read_to_string(path).ok()))
            .collect();
        found.sort();
        found
    }
}

fn remove(place: &Path) {
    let _ = fs::remove_dir_all(place);
    let _ = fs::remove_file(place);
}

/// Exit code, and what was said, of a command that must come to its end.
fn ends(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = command(folder, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let started = Instant::now();
    while child.try_wait().expect("it can be asked").is_none() {
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("`{}` hangs", arguments.join(" "));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it ended");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(!text.contains("the program has a bug") && !text.contains("panicked"), "{arguments:?}: {text}");
    let code = output.status.code();
    assert!(matches!(code, Some(0..=2)), "{arguments:?}: {}: {text}", output.status);
    (code, text)
}

#[test]
fn a_cache_with_a_link_in_it_leads_no_command_to_the_files_of_others() {
    for place in ["tmp", "displaced", "state", "objects", "objects/ab", "locks", "roots", "runs", "outputs"] {
        let foreign = Foreign::new();
        let before = foreign.victim();
        foreign.link(&format!("cache/{place}"), "victim");
        for arguments in COMMANDS.iter().filter(|arguments| !matches!(arguments[0], "check" | "skip")) {
            let (code, text) = ends(&foreign.project(), arguments);
            assert_eq!(code, Some(1), "{place}: {arguments:?}: {text}");
            assert!(
                text.contains(&format!("cache/{place}` is a link")) && text.contains("--cache"),
                "{place}: {arguments:?}: {text}"
            );
            assert_eq!(foreign.victim(), before, "{place}: {arguments:?}");
        }
    }
}

#[test]
fn a_cache_that_git_tracks_as_a_link_is_not_used() {
    let foreign = Foreign::new();
    let project = foreign.project();
    fs::rename(project.join("cache"), foreign.at("large")).expect("moved");
    symlink("../large", project.join("cache")).expect("linked");
    git(&project, &["init", "-q"]);
    git(&project, &["add", "images", "pipeline.yaml", "crops.yaml"]);
    assert_eq!(ends(&project, &["plan", "--exit-code"]).0, Some(0), "a link that the user made");
    git(&project, &["add", "-f", "cache"]);
    let (code, text) = ends(&project, &["run"]);
    assert!(code == Some(1) && text.contains("as a link; what it holds was made elsewhere"), "{text}");
}

#[test]
fn a_cache_that_git_tracks_is_not_used() {
    let foreign = Foreign::new();
    let project = foreign.project();
    git(&project, &["init", "-q"]);
    git(&project, &["add", "-f", "cache/CACHEDIR.TAG", "images", "pipeline.yaml", "crops.yaml"]);
    assert_eq!(ends(&project, &["plan", "--exit-code"]).0, Some(0));
    git(&project, &["add", "-f", "cache"]);
    let (code, text) = ends(&project, &["run"]);
    assert!(code == Some(1) && text.contains("came with its repository") && text.contains("git rm -r --cached"), "{text}");
    assert_eq!(ends(&project, &["run", "-q", "--cache", foreign.at("other").to_str().expect("UTF-8")]).0, Some(0));
}

#[test]
fn what_is_written_beside_a_pipeline_is_never_written_through_a_link() {
    for place in ["out", "captions", "out/resize", "out/.yours", "out/.loramill-tmp", "out/.yours/resize"] {
        let foreign = Foreign::new();
        let before = foreign.victim();
        // What lies there now is a person's, so that it has to be moved and written anew.
        fs::write(foreign.project().join("out/resize/star-01.png"), "mine").expect("written");
        foreign.link(place, "victim");
        fs::write(foreign.project().join("pipeline.yaml"), PIPELINE.replace("32", "48").replace("prefix: star", "prefix: sun"))
            .expect("written");
        for arguments in [&["run", "-q"][..], &["restore"], &["edits", "list"], &["run", "-q", "--force", "resize"]] {
            let (_, text) = ends(&foreign.project(), arguments);
            assert_eq!(foreign.victim(), before, "{place}: {arguments:?}: {text}");
        }
    }
    let foreign = Foreign::new();
    foreign.link("out", "victim");
    let (code, text) = ends(&foreign.project(), &["run"]);
    assert!(code == Some(2) && text.contains("out` is a link") && text.contains("outside of the project"), "{text}");
}

#[test]
fn what_is_read_beside_a_pipeline_is_never_read_through_a_link_out_of_the_project() {
    let secret = "concept: a secret of somebody's\n";
    for place in ["pipeline.yaml", "captions", "captions/star-01.txt", "pipeline.lock", "crops.yaml"] {
        let foreign = Foreign::new();
        let victim = foreign.at("secret");
        if place == "captions" {
            fs::create_dir(&victim).expect("made");
            fs::write(victim.join("star-01.txt"), secret).expect("written");
        } else {
            fs::write(&victim, secret).expect("written");
        }
        foreign.link(place, "secret");
        for arguments in [&["check"][..], &["plan"], &["status"], &["run"], &["edits", "list"], &["edits", "show", "star-01"]] {
            let (code, text) = ends(&foreign.project(), arguments);
            assert!(!text.contains("a secret of"), "{place}: {arguments:?}: {text}");
            let looks_elsewhere = place == "captions/star-01.txt" && arguments == ["check"];
            assert!(
                looks_elsewhere || code != Some(0) && text.contains("outside of the project"),
                "{place}: {arguments:?}: {text}"
            );
        }
        let kept = WalkDir::new(foreign.project()).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
        for entry in kept {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let is_there = bytes.windows(secret.len() - 1).any(|part| part == &secret.as_bytes()[..secret.len() - 1]);
            assert!(!is_there, "{place}: {}", entry.path().display());
        }
    }
}

#[test]
fn skip_writes_where_a_link_within_the_project_leads() {
    let foreign = Foreign::new();
    fs::create_dir(foreign.at("project/.git")).expect("made");
    fs::rename(foreign.at("project/pipeline.yaml"), foreign.at("project/shared.yaml")).expect("moved");
    symlink("shared.yaml", foreign.at("project/pipeline.yaml")).expect("linked");
    let (code, text) = ends(&foreign.project(), &["skip", "pipeline.yaml", "star-01"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(fs::symlink_metadata(foreign.at("project/pipeline.yaml")).expect("there").is_symlink());
    assert!(fs::read_to_string(foreign.at("project/shared.yaml")).expect("text").contains("skip: [star-01]"));
}

#[test]
fn names_in_a_lock_are_checked_before_anything_is_written() {
    for name in ["../../x", "../victim", "/tmp/x", "resize/../../../victim", "resize[a=/../../../victim]", "."] {
        let foreign = Foreign::new();
        let path = foreign.project().join("pipeline.lock");
        let mut lock = LockFile::read(&path).expect("a lock");
        let row: Vec<StageRow> = lock.stages["resize"].clone();
        lock.stages.insert(name.to_string(), row);
        lock.write(&path).expect("written");
        fs::remove_dir_all(foreign.project().join("out")).expect("removed");
        let before = foreign.victim();
        let (code, text) = ends(&foreign.project(), &["restore"]);
        assert!(code == Some(1) && text.contains("names a stage") && text.contains(name), "{name}: {text}");
        assert!(!foreign.project().join("out").exists(), "{name}: nothing is written before");
        assert_eq!(foreign.victim(), before, "{name}");
        assert_eq!(ends(&foreign.project(), &["run", "-q"]).0, Some(0), "{name}");
    }
}

/// Files that loramill reads or writes in a project, its cache and the configuration of the user.
const OURS: [&str; 16] = [
    "pipeline.yaml",
    "pipeline.lock",
    "crops.yaml",
    "captions/star-01.txt",
    "config/loramill/config.yaml",
    "out/resize/star-01.png",
    "cache/CACHEDIR.TAG",
    "cache/records",
    "cache/records.lock",
    "cache/record-index",
    "cache/stat-index",
    "cache/text-index",
    "cache/evicted",
    "cache/locks/sweep",
    "cache/locks/collecting",
    "cache/roots/0123456789abcdef",
];

/// Each by turns, before each of a choice of commands.
fn with_each_of_ours(put: impl Fn(&Path)) {
    let foreign = Foreign::new();
    for place in OURS {
        let path = foreign.project().join(place);
        let before = fs::read(&path).ok();
        for arguments in COMMANDS.iter().filter(|arguments| !matches!(arguments[0], "explain" | "stop" | "skip")) {
            remove(&path);
            fs::create_dir_all(path.parent().expect("below the project")).expect("made");
            put(&path);
            ends(&foreign.project(), arguments);
        }
        remove(&path);
        if let Some(before) = before {
            fs::write(&path, before).expect("written");
        }
    }
}

#[test]
fn a_pipe_in_the_place_of_any_file_of_ours_stops_no_command() {
    with_each_of_ours(|path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made"));
}

#[test]
fn a_file_without_an_end_or_of_twenty_gigabytes_in_the_place_of_any_of_ours_stops_no_command() {
    with_each_of_ours(|path| symlink("/dev/zero", path).expect("linked"));
    // Photos and models are read to their end, however large: what is hashed here is as an input, and small.
    let size = |path: &Path| if path.ends_with("crops.yaml") { 2 << 20 } else { 20 << 30 };
    with_each_of_ours(|path| fs::File::create(path).and_then(|file| file.set_len(size(path))).expect("made"));
}

#[test]
fn pipes_in_the_place_of_objects_lists_and_notes_stop_no_command() {
    let foreign = Foreign::new();
    let below = |part: &str| -> Vec<PathBuf> {
        let entries = WalkDir::new(foreign.project().join("cache").join(part)).into_iter().map(|entry| entry.expect("readable"));
        entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
    };
    let files: Vec<PathBuf> = ["objects", "outputs", "runs", "roots"].iter().flat_map(|part| below(part)).collect();
    assert!(files.len() > 6);
    for arguments in COMMANDS {
        for path in &files {
            remove(path);
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
        }
        ends(&foreign.project(), arguments);
    }
}

#[test]
fn a_wait_for_a_lock_that_is_never_let_go_of_ends_with_sigterm() {
    let foreign = Foreign::new();
    fs::remove_file(foreign.project().join("pipeline.lock")).expect("removed");
    fs::remove_dir_all(foreign.project().join("cache/runs")).expect("removed");
    for name in ["locks/sweep", "locks/claims", "records.lock"] {
        let lock =
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(foreign.project().join("cache").join(name));
        let lock = lock.expect("opened");
        lock.lock().expect("locked");
        let mut run = command(&foreign.project(), &["run", "--force", "crop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        thread::sleep(Duration::from_millis(1000));
        assert!(run.try_wait().expect("it can be asked").is_none(), "{name}: it waits");
        kill_process(Pid::from_child(&run), Signal::TERM).expect("it is told");
        let told = Instant::now();
        while run.try_wait().expect("it can be asked").is_none() {
            assert!(told.elapsed() < PATIENCE, "{name}: it waits on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_cache_of_another_user_is_used_only_if_it_is_named() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can give a folder away.
        return;
    }
    let foreign = Foreign::new();
    let cache = foreign.project().join("cache");
    rustix::fs::chown(&cache, Some(rustix::process::Uid::from_raw(4321)), None).expect("given away");
    let (code, text) = ends(&foreign.project(), &["plan"]);
    assert!(code == Some(1) && text.contains("belongs to another user (number 4321)") && text.contains("--cache"), "{text}");
    assert_eq!(ends(&foreign.project(), &["plan", "--cache", "cache"]).0, Some(0));
    let mut sudo = command(&foreign.project(), &["plan"]);
    assert!(sudo.env("SUDO_UID", "4321").output().expect("it starts").status.success());
}

#[test]
fn a_cache_that_is_a_link_is_said() {
    let foreign = Foreign::new();
    fs::rename(foreign.project().join("cache"), foreign.at("large")).expect("moved");
    symlink("../large", foreign.project().join("cache")).expect("linked");
    let (code, text) = ends(&foreign.project(), &["plan", "--exit-code"]);
    let real = fs::canonicalize(foreign.at("large")).expect("there");
    assert!(code == Some(0) && text.contains(&format!("is a link: the cache is `{}`", real.display())), "{text}");
}
