//! Under which names a text lies beside its own for a moment, and what was left behind there says. Unaware of what the texts are.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::place::Place;
use crate::edits::folder::OURS;

/// In bytes. Most file systems take names of 255; eCryptfs, which encrypts home folders, takes 143.
const LONGEST_NAME: usize = 143;
/// Of a digest, in hexadecimal digits.
const DIGITS: usize = 16;

/// A path beside a text. A folder that was made for it goes with it, if nothing lies there any more.
pub(crate) struct Beside(PathBuf);

impl Beside {
    /// For a text on its way to the place of `target`, whose digest is `ours`.
    pub(crate) fn swap(target: &Path, ours: &Digest) -> io::Result<Self> {
        Self::at(target, "swap", &ours.to_hex()[..DIGITS])
    }

    /// For `target` itself, while something else takes its place.
    pub(crate) fn aside(target: &Path) -> io::Result<Self> {
        Self::at(target, "aside", &"0".repeat(DIGITS))
    }

    /// The other of the two paths under which what belongs to `path` is found.
    pub(crate) fn other(path: &Path) -> io::Result<Self> {
        match (LeftBehind::of(path), word_of(path)) {
            (Some(LeftBehind::Text { ours, target }), Some("swap")) => Self::at(&target, "aside", &ours),
            (Some(LeftBehind::Text { ours, target }), _) => Self::at(&target, "swap", &ours),
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Where something was left behind.
    pub(crate) fn known(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    fn at(target: &Path, word: &str, digits: &str) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default();
        let before = format!("{OURS}{word}-{digits}");
        if before.len() + 1 + name.len() <= LONGEST_NAME {
            let mut full = std::ffi::OsString::from(before + "-");
            full.push(name);
            return Ok(Self(target.with_file_name(full)));
        }
        let folder = target.with_file_name(before);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(folder.join(name))),
        }
    }
}

impl Deref for Beside {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl From<&Beside> for Place {
    fn from(beside: &Beside) -> Self {
        beside.0.as_path().into()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let folder = self.0.parent().filter(|folder| is_ours(folder));
        if let Some(folder) = folder.filter(|_| !faults::is_dead()) {
            // Not empty if something is still to be put right.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// What a killed run left beside the texts.
pub(crate) enum LeftBehind {
    /// A text that was being written.
    New,
    /// A folder for a text with a long name, and nothing in it.
    Folder,
    /// A text that had made room, or was to take its place.
    Text {
        /// The first digits of the digest of what was to take its place.
        ours: String,
        /// Where it belongs.
        target: PathBuf,
    },
}

impl LeftBehind {
    /// `None` if it is nothing of ours.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let folder = path.parent()?;
        if is_ours(folder) {
            let (_, ours) = split(folder.file_name()?.to_str()?)?;
            return Some(Self::Text { ours: ours.to_string(), target: folder.with_file_name(path.file_name()?) });
        }
        let name = path.file_name()?.to_string_lossy();
        if name.strip_prefix(OURS)?.starts_with("new-") {
            return Some(Self::New);
        }
        let (_, rest) = split(&name)?;
        match rest.split_once('-') {
            Some((ours, name)) => Some(Self::Text { ours: ours.to_string(), target: path.with_file_name(name) }),
            None => Some(Self::Folder),
        }
    }
}

/// `swap` or `aside`.
fn word_of(path: &Path) -> Option<&str> {
    let holder = path.parent().filter(|folder| is_ours(folder)).unwrap_or(path);
    Some(split(holder.file_name()?.to_str()?)?.0)
}

/// The word, and what comes after it.
fn split(name: &str) -> Option<(&str, &str)> {
    let (word, rest) = name.strip_prefix(OURS)?.split_once('-')?;
    matches!(word, "swap" | "aside").then_some((word, rest))
}

/// Whether a folder was made here for a text with a long name.
fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.and_then(split).is_some_and(|(_, digits)| digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_beside_a_text_tells_where_it_belongs_however_long_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let ours = Digest::of(b"ours");
        for name in ["a.txt".to_string(), "a-b-c.txt".to_string(), format!("{}.txt", "\u{e9}".repeat(125))] {
            let target = folder.path().join(&name);
            let swap = Beside::swap(&target, &ours).unwrap();
            let aside = Beside::other(&swap).unwrap();
            // Kept: one that goes takes an empty folder along.
            let again = Beside::other(&aside).unwrap();
            assert!(*swap != *aside && *again == *swap, "{name}");
            for path in [&swap, &aside] {
                fs::write(&**path, "x").unwrap();
                let Some(LeftBehind::Text { ours: digits, target: found }) = LeftBehind::of(path) else { panic!("a text") };
                assert_eq!((digits.as_str(), found), (&ours.to_hex()[..DIGITS], target.clone()));
                fs::remove_file(&**path).unwrap();
            }
            drop((swap, aside, again));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
        }
    }
}
