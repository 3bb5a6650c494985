//! Words for what a disk answers: file, intention, remedy. Unaware of who asked.

use std::io;
use std::path::Path;

use anyhow::Error;

use crate::cache::regular_file::is_refusal;

/// How every remedy for a full disk begins.
const FREE_SPACE: &str = "; free space there";
/// How it goes on in a cache, which may lie anywhere.
const OR_ELSEWHERE: &str = " or name another place with `--cache DIR`";
/// What is tried where a folder is to be.
const CREATING: &str = "creating";
const THEN: &str = ", then run again: what is done stays done";

/// `error` as a sentence: what was tried (`writing`), on which path of the cache, and what the user can do about a full or a
/// broken disk.
pub(crate) fn disk_trouble(error: io::Error, trying: &str, path: &Path) -> Error {
    trouble(error, trying, path, OR_ELSEWHERE)
}

/// As `disk_trouble`, on a path of the user's, where no other cache would help.
pub(crate) fn user_disk_trouble(error: io::Error, trying: &str, path: &Path) -> Error {
    trouble(error, trying, path, "")
}

/// As `disk_trouble`, of a list that runs and cleaning leave to each other: what cannot be one is moved away by a repair.
pub(crate) fn list_trouble(error: io::Error, trying: &str, path: &Path) -> Error {
    let is_none = is_refusal(&error) || error.kind() == io::ErrorKind::IsADirectory;
    if is_none {
        told_as(error, "; `loramill fsck --repair` moves it away".to_string(), trying, path)
    } else {
        disk_trouble(error, trying, path)
    }
}

fn trouble(error: io::Error, trying: &str, path: &Path, elsewhere: &str) -> Error {
    let remedy = match error.kind() {
        kind if is_full(kind) => format!("{FREE_SPACE}{elsewhere}{THEN}"),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => format!("; make the folder writable{elsewhere}"),
        io::ErrorKind::AlreadyExists if trying == CREATING => format!("; what lies there is no folder: remove it{elsewhere}"),
        io::ErrorKind::NotADirectory => format!("; a part of the path is no folder: remove that{elsewhere}"),
        io::ErrorKind::IsADirectory => format!("; a folder lies there: remove it{elsewhere}"),
        io::ErrorKind::InvalidFilename => "; the disk takes no name that long: give it a shorter one".to_string(),
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            let or = if elsewhere.is_empty() { String::new() } else { format!(",{elsewhere}") };
            format!("; the disk reports a defect: check it{or}")
        }
        _ => String::new(),
    };
    told_as(error, remedy, trying, path)
}

fn told_as(error: io::Error, remedy: String, trying: &str, path: &Path) -> Error {
    let told = if remedy.is_empty() { Error::new(error) } else { Error::new(Answer { error, remedy }) };
    told.context(format!("{trying} `{}`", path.display()))
}

/// What a disk answered, with what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{error}{remedy}")]
struct Answer {
    // Named as its source it would be printed twice.
    error: io::Error,
    remedy: String,
}

/// What a disk answered, if the cause of an error is that.
pub(crate) fn answer<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    cause.downcast_ref().or_else(|| Some(&cause.downcast_ref::<Answer>()?.error))
}

/// An error of a stage as a sentence. Kinds and their libraries know nothing of caches: where a disk is full and they do not say
/// what to do about it, this does.
pub(crate) fn error_message(error: &Error) -> String {
    let text = format!("{error:#}");
    let mut causes = error.chain().filter_map(answer);
    let lacks_remedy = causes.any(|cause| is_full(cause.kind())) && !text.contains(FREE_SPACE);
    if lacks_remedy { text + FREE_SPACE + OR_ELSEWHERE + THEN } else { text }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_its_remedy_once() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let of_a_kind = Error::new(full()).context("writing the model file `a.ckpt`");
        let ours = disk_trouble(full(), "writing", Path::new("a.png"));
        for error in [of_a_kind, ours] {
            assert_eq!(error_message(&error).matches("; free space there").count(), 1, "{}", error_message(&error));
        }
        let outside = user_disk_trouble(full(), "writing", Path::new("out/a.png"));
        let remedy = "; free space there, then run again: what is done stays done";
        assert!(
            error_message(&outside).contains(remedy) && !error_message(&outside).contains("--cache"),
            "{}",
            error_message(&outside)
        );
        for (error, remedy) in [
            (io::ErrorKind::AlreadyExists, "what lies there is no folder: remove it"),
            (io::ErrorKind::NotADirectory, "a part of the path is no folder: remove that"),
            (io::ErrorKind::PermissionDenied, "make the folder writable"),
        ] {
            let text = error_message(&user_disk_trouble(error.into(), "creating", Path::new("out")));
            assert_eq!(text, format!("creating `out`: {}; {remedy}", io::Error::from(error)));
        }
        let other = Error::new(io::Error::from(io::ErrorKind::NotFound)).context("reading `a.png`");
        assert!(!error_message(&other).contains("free space"));
    }
}
