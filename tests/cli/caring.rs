//! `gc`, `fsck`, `restore`: commands that look after the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{command, loramill, said};
use crate::git::git;

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 64 }
  caption: { images: resize, model: none, prefix: star }
";

/// A repository with two photos, of which everything was made.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images");
    fs::create_dir(folder.path().join("images")).expect("made");
    for name in ["star-00.jpg", "star-01.png"] {
        fs::copy(examples.join(name), folder.path().join("images").join(name)).expect("copied");
    }
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    fs::write(folder.path().join(".gitignore"), "/cache\nout/\n").expect("written");
    git(folder.path(), &["init", "-q", "-b", "main"]);
    run(folder.path());
    git(folder.path(), &["add", "-A"]);
    git(folder.path(), &["commit", "-qm", "first"]);
    folder
}

fn run(folder: &Path) {
    let (code, _, stderr) = said(&loramill(folder, &["run", "-q"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
}

fn set_size(folder: &Path, size: u32) {
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("64", &size.to_string())).expect("written");
}

/// A picture of `out/resize`, as an object of the cache.
fn object_of(folder: &Path, name: &str) -> PathBuf {
    let bytes = fs::read(folder.join("out/resize").join(name)).expect("shown");
    let hex = blake3_hex(&bytes);
    folder.join("cache/objects").join(&hex[..2]).join(&hex[2..])
}

fn blake3_hex(bytes: &[u8]) -> String {
    loramill::engine::cache::digest::Digest::of(bytes).to_hex()
}

fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let (_, stdout, stderr) = said(&loramill(folder, arguments));
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

#[test]
fn gc_says_what_would_go_and_deletes_it_only_if_asked_to() {
    let folder = repository();
    let folder = folder.path();
    set_size(folder, 32);
    run(folder);
    set_size(folder, 48);
    run(folder);
    let (code, stdout, stderr) = said(&loramill(folder, &["gc"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("named by the lock files of "), "{stdout}");
    assert!(stdout.contains("can go") && stdout.contains(" resize (2 files"), "{stdout}");
    assert!(stdout.contains("\nnothing is deleted yet: `--yes` frees "), "{stdout}");
    let looked = json(folder, &["gc", "--json"]);
    assert_eq!(looked["deleted"], false);
    let (code, stdout, _) = said(&loramill(folder, &["gc", "--yes"]));
    assert!(code == 0 && stdout.contains("\nfreed "), "{stdout}");
    let after = json(folder, &["gc", "--json"]);
    assert_eq!(after["freed"]["files"], 0);
    let shrunk = looked["bytes"].as_u64().expect("a number") - after["bytes"].as_u64().expect("a number");
    assert!(shrunk >= looked["freed"]["bytes"].as_u64().expect("a number"), "records of what is gone go too");
    assert!(looked["recompute_seconds"].as_f64().expect("a number") > 0.0);

    // What the commit names is still here.
    set_size(folder, 64);
    let (_, stdout, _) = said(&loramill(folder, &["plan", "--exit-code"]));
    assert!(!stdout.contains("would run"), "{stdout}");
    let without = json(folder, &["gc", "--json", "--no-history"]);
    assert!(without["garbage"].as_array().expect("a list").iter().any(|part| part["kind"] == "resize"), "{without}");
    let (code, stdout, _) = said(&loramill(folder, &["gc", "--max-size", "1k"]));
    assert!(code == 0 && stdout.contains("would be evicted") && stdout.contains("remain, more than 1.0 kB"), "{stdout}");
    let (code, _, stderr) = said(&loramill(folder, &["gc", "--max-size", "much"]));
    assert!(code == 2 && stderr.contains("`much` is not a size"), "{stderr}");
}

/// With the place of the other repository, which is gone.
fn repository_whose_cache_another_used() -> (tempfile::TempDir, PathBuf) {
    let (folder, other) = (repository(), repository());
    let cache = folder.path().join("cache");
    set_size(other.path(), 32);
    let (code, _, stderr) =
        said(&loramill(other.path(), &["run", "-q", "--cache", cache.to_str().expect("UTF-8"), "--force", "crop"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let gone = fs::canonicalize(other.path()).expect("there");
    (folder, gone)
}

#[test]
fn gc_forgets_a_repository_only_if_asked_to_delete() {
    let (folder, gone) = repository_whose_cache_another_used();
    let (folder, gone) = (folder.path(), gone.to_str().expect("UTF-8"));
    let (code, stdout, stderr) = said(&loramill(folder, &["gc", "--forget", gone]));
    assert_eq!((code, stderr), (0, format!("`{gone}` would be forgotten: `--yes` does it\n")), "as if it were forgotten already");
    assert!(stdout.contains("nothing is deleted yet: `--yes` frees"), "{stdout}");
    let (_, _, stderr) = said(&loramill(folder, &["gc"]));
    assert!(stderr.contains(gone) && stderr.contains("cannot be read"), "it is still known: {stderr}");

    let would = json(folder, &["gc", "--json", "--forget", gone]);
    let (_, stdout, stderr) = said(&loramill(folder, &["gc", "--json", "--yes", "--forget", gone]));
    assert_eq!(stderr, format!("`{gone}` is forgotten\n"));
    let done: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(done["deleted"] == true && done["freed"] == would["freed"] && done["garbage"] == would["garbage"], "{done} {would}");
    assert!(done["garbage"].as_array().expect("a list").iter().any(|part| part["kind"] == "resize"), "{done}");
    assert_eq!(said(&loramill(folder, &["gc"])).2, "");
}

#[test]
fn gc_deletes_nothing_while_a_repository_or_git_is_missing() {
    let (folder, gone) = repository_whose_cache_another_used();
    let (code, _, stderr) = said(&loramill(folder.path(), &["gc"]));
    assert!(code == 0 && stderr.contains("cannot be read") && stderr.contains("gc --forget"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder.path(), &["gc", "--yes"]));
    assert!(code == 1 && stderr.contains("nothing was deleted"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder.path(), &["gc", "--forget", "/nowhere"]));
    assert!(code == 2 && stderr.contains(gone.to_str().expect("UTF-8")), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder.path(), &["gc", "--yes", "--forget", gone.to_str().expect("UTF-8")]));
    assert_eq!(code, 0, "{stderr}");

    let without_git = command(folder.path(), &["gc", "--yes"]).env("PATH", "/nonexistent").output().expect("starts");
    let (code, _, stderr) = said(&without_git);
    assert!(code == 1 && stderr.contains("`git` is not there: install it"), "{stderr}");
    // What a hook sets leads to another repository.
    let in_hook = command(folder.path(), &["gc", "--yes"]).env("GIT_DIR", "/nonexistent").output().expect("starts");
    assert_eq!(said(&in_hook).0, 0, "{in_hook:?}");
}

#[test]
fn a_program_called_git_in_the_project_is_not_started() {
    let folder = repository();
    let folder = folder.path();
    let fired = folder.join("fired");
    fs::write(folder.join("git"), format!("#!/bin/sh\ntouch {}\n", fired.display())).expect("written");
    fs::set_permissions(folder.join("git"), fs::Permissions::from_mode(0o755)).expect("set");
    // Both an empty part of it and a dot mean the current folder.
    let path = std::env::var("PATH").expect("there is a PATH");
    for path in [format!(":{path}"), format!(".:{path}")] {
        for arguments in [&["gc", "--yes"][..], &["restore", "HEAD"]] {
            let output = command(folder, arguments).env("PATH", &path).output().expect("the program starts");
            let (code, _, stderr) = said(&output);
            assert!(code == 0 && !fired.exists(), "{arguments:?}: {stderr}");
        }
    }
}

#[test]
fn gc_and_restore_start_nothing_that_the_repository_names() {
    let folder = repository();
    let folder = folder.path();
    let fired = folder.join("fired");
    let trap = format!("touch {} #", fired.display());
    git(folder, &["config", "core.fsmonitor", &trap]);
    git(folder, &["status"]);
    assert!(fired.exists(), "the trap is one");
    fs::remove_file(&fired).expect("there");
    for arguments in [&["gc"][..], &["gc", "--yes"], &["restore", "HEAD"], &["restore"], &["run"]] {
        let (code, _, stderr) = said(&loramill(folder, arguments));
        assert!(code == 0 && !fired.exists(), "{arguments:?}: {stderr}");
    }
    // A blob that is to be fetched from a remote, by a program.
    let blob = Command::new("git").arg("-C").arg(folder).args(["rev-parse", "HEAD:pipeline.lock"]).output().expect("git starts");
    let blob = String::from_utf8(blob.stdout).expect("a name");
    fs::remove_file(folder.join(".git/objects").join(&blob[..2]).join(blob[2..].trim())).expect("a loose object");
    let here = folder.to_str().expect("UTF-8");
    for (name, value) in [
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "lazy"),
        ("remote.lazy.promisor", "true"),
        ("remote.lazy.url", here),
        ("remote.lazy.uploadpack", &trap),
    ] {
        git(folder, &["config", name, value]);
    }
    for arguments in [&["gc", "--yes"][..], &["restore", "HEAD"]] {
        let (code, _, stderr) = said(&loramill(folder, arguments));
        assert!(code == 1 && !fired.exists(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn gc_keeps_what_a_stopped_rebase_put_aside_and_what_lies_below_a_strange_cache_tag() {
    let folder = repository();
    let folder = folder.path();
    git(folder, &["checkout", "-qb", "side"]);
    fs::write(folder.join("notes"), "side").expect("written");
    git(folder, &["add", "notes"]);
    git(folder, &["commit", "-qm", "side"]);
    git(folder, &["checkout", "-q", "main"]);
    fs::write(folder.join("notes"), "main").expect("written");
    git(folder, &["add", "notes"]);
    git(folder, &["commit", "-qm", "main"]);
    set_size(folder, 48);
    run(folder);
    let aside = object_of(folder, "star-00.png");
    let mut rebase = Command::new("git");
    rebase.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "rebase", "--autostash", "side"]);
    let output = rebase.output().expect("git starts");
    assert!(!output.status.success(), "`notes` conflicts: {output:?}");
    fs::write(folder.join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").expect("written");
    set_size(folder, 32);
    run(folder);
    let in_work_tree = object_of(folder, "star-00.png");
    let (code, _, stderr) = said(&loramill(folder, &["gc", "--yes"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(aside.is_file() && in_work_tree.is_file(), "{stderr}");
}

#[test]
fn a_folder_that_is_no_cache_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("cache/objects/ab")).expect("made");
    for arguments in [["gc", "--yes"], ["fsck", "--repair"]] {
        let (code, _, stderr) = said(&loramill(folder.path(), &arguments));
        assert!(code == 2 && stderr.contains("is not a loramill cache"), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path().join("cache")).expect("there").count(), 1);
}

#[test]
fn fsck_finds_says_and_repairs() {
    let folder = repository();
    let folder = folder.path();
    let (code, stdout, _) = said(&loramill(folder, &["fsck"]));
    assert!(code == 0 && stdout.ends_with("`--full` reads every byte: all is well\n"), "{stdout}");

    let object = object_of(folder, "star-00.png");
    let mut bytes = fs::read(&object).expect("there");
    bytes[40] ^= 1;
    fs::remove_file(&object).expect("removed");
    fs::write(&object, bytes).expect("written");
    assert_eq!(said(&loramill(folder, &["fsck"])).0, 0, "only a full check reads it");
    let (code, stdout, _) = said(&loramill(folder, &["fsck", "--full"]));
    assert!(code == 1 && stdout.contains("holds other bytes") && stdout.contains("--repair"), "{stdout}");
    let found = json(folder, &["fsck", "--full", "--json"]);
    assert_eq!(found["problems"][0]["kind"], "contents");
    assert_eq!(found["problems"][0]["repaired"], false);
    let (code, stdout, _) = said(&loramill(folder, &["fsck", "--full", "--repair"]));
    assert!(code == 0 && stdout.contains(": removed\n") && stdout.contains("1 problem repaired"), "{stdout}");
    let (_, stdout, _) = said(&loramill(folder, &["plan"]));
    assert!(stdout.contains("would run resize"), "{stdout}");
    run(folder);
    assert_eq!(said(&loramill(folder, &["fsck", "--full"])).0, 0);
}

#[test]
fn fsck_does_not_say_that_nothing_damaged_is_used_where_something_was_made_from_it() {
    let folder = repository();
    let folder = folder.path();
    let shown = fs::read(folder.join("out/crop/star-00.png")).expect("shown");
    let hex = blake3_hex(&shown);
    let object = folder.join("cache/objects").join(&hex[..2]).join(&hex[2..]);
    let mut bytes = shown;
    bytes[40] ^= 1;
    fs::remove_file(&object).expect("removed");
    fs::write(&object, bytes).expect("written");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&object).and_then(|file| file.set_modified(long_ago)).expect("there");
    let (code, stdout, _) = said(&loramill(folder, &["fsck", "--full"]));
    assert!(code == 1 && stdout.contains("a result of `resize` was made from damaged bytes"), "{stdout}");
    assert!(stdout.contains("1 problem; `loramill fsck --repair`") && !stdout.contains("nothing of it is used"), "{stdout}");

    // Met by a run first, which makes the picture again.
    fs::remove_file(folder.join("out/crop/star-00.png")).expect("shown");
    let (code, _, stderr) = said(&loramill(folder, &["run", "-q"]));
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, _) = said(&loramill(folder, &["fsck", "--full"]));
    assert!(code == 1 && stdout.contains("a result of `resize` was made from damaged bytes"), "{stdout}");
    assert!(!stdout.contains("all is well"), "{stdout}");
    assert_eq!(said(&loramill(folder, &["fsck", "--repair"])).0, 0);
    let (code, stdout, _) = said(&loramill(folder, &["fsck", "--full"]));
    assert!(code == 0 && stdout.contains("all is well"), "{stdout}");
}

#[test]
fn what_lies_in_the_way_is_named_once_with_what_to_do() {
    let folder = repository();
    let folder = folder.path();
    let lock = folder.join("pipeline.lock");
    fs::rename(&lock, folder.join("kept")).expect("there");
    rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .expect("a pipe");
    let (_, _, stderr) = said(&loramill(folder, &["gc"]));
    assert!(stderr.contains("it is a named pipe: put a file in its place") && !stderr.contains("readable"), "{stderr}");
    fs::remove_file(&lock).expect("there");
    fs::rename(folder.join("kept"), &lock).expect("there");

    fs::remove_dir_all(folder.join("out")).expect("shown");
    fs::write(folder.join("out"), "a file").expect("written");
    let (code, _, stderr) = said(&loramill(folder, &["run", "-q"]));
    assert!(code == 1 && stderr.contains("is no folder: remove it"), "{stderr}");
    assert!(stderr.lines().all(|line| line.matches("os error").count() <= 1), "{stderr}");
}

#[test]
fn a_cache_of_another_program_above_a_project_is_passed_over() {
    let folder = repository();
    let around = tempfile::tempdir().expect("a folder");
    let project = around.path().join("project");
    fs::create_dir_all(around.path().join("cache/chunks")).expect("made");
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# Of a backup program.\n";
    fs::write(around.path().join("cache/CACHEDIR.TAG"), tag).expect("written");
    fs::rename(folder.path(), &project).expect("on the same disk");
    fs::remove_dir_all(project.join("cache")).expect("made");
    run(&project);
    assert!(project.join("cache/objects").is_dir());
    let (code, _, stderr) = said(&loramill(around.path(), &["gc", "--yes"]));
    assert!(code == 2 && stderr.contains("is not a loramill cache"), "{stderr}");
}

#[test]
fn restore_shows_an_earlier_commit_and_says_what_is_lost() {
    let folder = repository();
    let folder = folder.path();
    let picture = folder.join("out/resize/star-00.png");
    let first = fs::read(&picture).expect("there");
    set_size(folder, 32);
    run(folder);
    git(folder, &["commit", "-qam", "second"]);
    let second = fs::read(&picture).expect("there");
    assert_ne!(first, second);

    let (code, _, stderr) = said(&loramill(folder, &["restore", "HEAD~1"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("resize: 2 items, 2 files written") && stderr.contains("shows the results as of HEAD~1"), "{stderr}");
    assert_eq!(fs::read(&picture).expect("there"), first);
    let (code, _, _) = said(&loramill(folder, &["restore"]));
    assert_eq!((code, fs::read(&picture).expect("there")), (0, second.clone()));
    assert!(!folder.join("out/caption").exists());

    // A file that cannot be read today is no obstacle.
    fs::write(folder.join("pipeline.yaml"), "stages: [").expect("written");
    let (code, _, stderr) = said(&loramill(folder, &["restore", "main~1", "."]));
    assert_eq!((code, fs::read(&picture).expect("there")), (0, first), "{stderr}");
    set_size(folder, 32);

    fs::remove_file(object_of(folder, "star-00.png")).expect("removed");
    fs::remove_dir_all(folder.join("out")).expect("removed");
    let (code, _, stderr) = said(&loramill(folder, &["restore", "HEAD~1"]));
    assert!(code == 1 && stderr.contains("resize: 1 of 2 items") && stderr.contains("star-00"), "{stderr}");
    assert!(stderr.contains("`git checkout HEAD~1` and `loramill run`"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder, &["restore", "no-such-branch"]));
    assert!(code == 2 && stderr.contains("there is no commit `no-such-branch`"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder, &["restore", "--", "--all"]));
    assert!(code == 2 && stderr.contains("no commit"), "{stderr}");
}
