//! Broken caches beside what `fsck` says of them, and broken locks beside what still counts of them. `LORAMILL_BLESS=1` writes the texts anew.

use std::fs;
use std::path::{Path, PathBuf};

use loramill::engine::lock_file::LockFile;

use crate::cli::{loramill, said};
use crate::diagnostics::FOLDER;

/// What lies in a folder and is no text about something else, in the order of the names.
fn broken(folder: &str, is_meant: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(FOLDER).join(folder)).expect("the folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).filter(|path| is_meant(path)).collect();
    paths.sort();
    paths
}

/// Compares what is said of each with the text beside it.
fn compare(paths: &[PathBuf], say: impl Fn(&Path) -> String) {
    let mut differences = Vec::new();
    for path in paths {
        let said = say(path);
        let beside = path.with_extension("txt");
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if said != expected {
            if std::env::var_os("LORAMILL_BLESS").is_some() {
                fs::write(&beside, &said).expect("written");
            }
            differences.push(format!("{}\n--- expected\n{expected}--- said\n{said}", path.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("readable");
        let target = to.join(entry.path().strip_prefix(from).expect("below"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).expect("made");
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn every_broken_cache_gets_its_message_and_is_repaired() {
    let caches = broken("caches", Path::is_dir);
    assert!(caches.len() >= 15, "only {} caches", caches.len());
    compare(&caches, |path| {
        let folder = tempfile::tempdir().expect("a folder");
        copy(path, &folder.path().join("cache"));
        let mut text = String::new();
        for arguments in [&["fsck", "--full"][..], &["fsck", "--full", "--repair"], &["fsck", "--full"]] {
            let (code, stdout, stderr) = said(&loramill(folder.path(), &[arguments, &["--cache", "cache"]].concat()));
            text.push_str(&format!("$ loramill {}\n{stdout}{stderr}", arguments.join(" ")));
            if code != 0 {
                text.push_str(&format!("exit code {code}\n"));
            }
        }
        text
    });
}

#[test]
fn of_every_broken_lock_the_whole_rows_count() {
    let locks = broken("locks", |path| path.extension().is_some_and(|extension| extension == "lock"));
    assert!(locks.len() >= 8, "only {} locks", locks.len());
    compare(&locks, |path| LockFile::read(path).expect("whatever is in it").to_text());
}
