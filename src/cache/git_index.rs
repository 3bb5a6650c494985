//! Whether git tracks something below a folder: read from git's own list, without git. Unaware of why it is asked.
//!
//! The list is `index` in the folder of git: <https://git-scm.com/docs/index-format>, versions 2 to 4, with names of objects in SHA-1 or
//! SHA-256, and in two files where git has split it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::regular_file::{self, Links};

/// Of some millions of files.
const LARGEST: u64 = 1 << 30;
/// `gitdir: …`, `commondir`: one path.
const LONGEST_PATH: u64 = 64 << 10;
/// Before the name of an object in an entry: ten numbers of four bytes, of which the seventh is the mode.
const BEFORE_OBJECT: usize = 40;
/// In the flags of an entry: two more bytes of flags follow.
const EXTENDED: u16 = 0x4000;
/// How many bytes the name of an object may have.
const OBJECT_NAMES: [usize; 2] = [20, 32];

/// The first file below `folder`, which must be an absolute path without links above it, that the git repository around it tracks and that
/// is not expected; `""` stands for `folder` itself, tracked as a file or a link.
///
/// # Errors
/// There is a list, and it cannot be read.
pub(crate) fn first_tracked(folder: &Path, is_expected: &dyn Fn(&str) -> bool) -> Result<Option<String>> {
    // A link of the name `folder` is tracked by what is around it.
    for tree in folder.ancestors() {
        let Some(git) = git_folder(tree) else { continue };
        let below = folder.strip_prefix(tree).expect("it is an ancestor").as_os_str().as_encoded_bytes();
        let mut found = None;
        let mut see = |name: &[u8]| {
            let rest = match name.strip_prefix(below) {
                Some(b"") if !below.is_empty() => b"",
                Some(rest) if below.is_empty() => rest,
                Some([b'/', rest @ ..]) => rest,
                _ => return,
            };
            let rest = String::from_utf8_lossy(rest).into_owned();
            if found.is_none() && !is_expected(&rest) {
                found = Some(rest);
            }
        };
        each_name(&git, &mut see)?;
        if found.is_some() || !below.is_empty() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The folder in which git keeps the list of a work tree.
fn git_folder(tree: &Path) -> Option<PathBuf> {
    let git = tree.join(".git");
    if fs::metadata(&git).ok()?.is_dir() {
        return Some(git);
    }
    // In a further work tree and in a submodule: `gitdir: PATH`
    let text = regular_file::read_text(&git, Links::Followed, LONGEST_PATH).ok()?;
    Some(tree.join(text.strip_prefix("gitdir: ")?.trim_end()))
}

fn each_name(git: &Path, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let path = git.join("index");
    let bytes = match regular_file::read(&path, Links::Followed, LARGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.with_context(|| format!("reading `{}` for what git tracks in the cache", path.display()))?,
    };
    let index = parse(&bytes).with_context(|| {
        format!(
            "`{}` cannot be read as the list of what git tracks: name a cache outside the repository with `--cache DIR`",
            path.display()
        )
    })?;
    index.names.iter().for_each(|name| see(name));
    let Some(shared) = index.shared else { return Ok(()) };
    let path = git.join(format!("sharedindex.{shared}"));
    let bytes = regular_file::read(&path, Links::Followed, LARGEST);
    let bytes = bytes.with_context(|| format!("reading `{}` for what git tracks in the cache", path.display()))?;
    let index = parse(&bytes).with_context(|| format!("`{}` cannot be read as the list of what git tracks", path.display()))?;
    index.names.iter().for_each(|name| see(name));
    Ok(())
}

struct Index {
    names: Vec<Vec<u8>>,
    /// Where git has split the list: the name of the other part.
    shared: Option<String>,
}

fn parse(bytes: &[u8]) -> Option<Index> {
    OBJECT_NAMES.iter().find_map(|length| parse_with(bytes, *length))
}

/// `None` if it is no list with names of objects of that length.
fn parse_with(bytes: &[u8], object: usize) -> Option<Index> {
    let number = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().expect("4 bytes")));
    let version = number(4)?;
    if bytes.get(..4)? != b"DIRC" || !(2..=4).contains(&version) {
        return None;
    }
    let count = number(8)? as usize;
    let mut at = 12;
    let mut names: Vec<Vec<u8>> = Vec::new();
    for _ in 0..count {
        let start = at;
        if !matches!(number(start + 24)? >> 12, 0o4 | 0o10 | 0o12 | 0o16) {
            return None;
        }
        at += BEFORE_OBJECT + object;
        let flags = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().expect("2 bytes"));
        at += if version >= 3 && flags & EXTENDED != 0 { 4 } else { 2 };
        let mut name = Vec::new();
        if version == 4 {
            let (cut, length) = offset(bytes.get(at..)?)?;
            let last = names.last().map(Vec::as_slice).unwrap_or_default();
            name.extend_from_slice(last.get(..last.len().checked_sub(cut)?)?);
            at += length;
        }
        let length = bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        name.extend_from_slice(&bytes[at..at + length]);
        at += length + 1;
        if version < 4 {
            // Filled up to a multiple of eight.
            at = start + (at - start).next_multiple_of(8);
        }
        names.push(name);
    }
    Some(Index { names, shared: shared_part(bytes, at, object)? })
}

/// Of the parts after the entries, `link` names the other file. `None` if they do not fit.
fn shared_part(bytes: &[u8], mut at: usize, object: usize) -> Option<Option<String>> {
    while at + object < bytes.len() {
        let length = u32::from_be_bytes(bytes.get(at + 4..at + 8)?.try_into().expect("4 bytes")) as usize;
        let content = bytes.get(at + 8..(at + 8).checked_add(length)?)?;
        if &bytes[at..at + 4] == b"link" {
            let name = content.get(..object)?;
            return Some(Some(name.iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        at += 8 + length;
    }
    (at + object == bytes.len()).then_some(None)
}

/// A number in the form of git's packs, and how many bytes it takes.
fn offset(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = usize::from(bytes.first()? & 0x7f);
    let mut length = 1;
    while bytes[length - 1] & 0x80 != 0 {
        let byte = *bytes.get(length)?;
        value = value.checked_add(1)?.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        length += 1;
    }
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn git(folder: &Path, words: &[&str]) -> bool {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=n", "-c", "user.email=e", "-C"]).arg(folder).args(words).env("GIT_CONFIG_NOSYSTEM", "1");
        git.output().unwrap().status.success()
    }

    fn expected(name: &str) -> bool {
        matches!(name, "README.md" | "CACHEDIR.TAG")
    }

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "text").unwrap();
    }

    #[test]
    fn what_git_tracks_in_a_cache_is_found_in_each_form_of_its_list() {
        let forms: [(&[&str], &[&str]); 5] = [
            (&["init", "-q"], &["update-index", "--index-version", "2"]),
            (&["init", "-q"], &["update-index", "--index-version", "4"]),
            (&["init", "-q"], &["update-index", "--split-index"]),
            (&["init", "-q", "--object-format=sha256"], &["update-index", "--index-version", "2"]),
            (&["init", "-q", "--object-format=sha256"], &["update-index", "--index-version", "4"]),
        ];
        for (init, form) in forms {
            let temp = tempfile::tempdir().unwrap();
            let tree = fs::canonicalize(temp.path()).unwrap();
            assert!(git(&tree, init));
            for file in ["a", "cache/README.md", "cache/CACHEDIR.TAG", "cachet/b", "images/a very long name of a photo.png", "z"]
            {
                write(tree.join(file));
            }
            let cache = tree.join("cache");
            assert_eq!(first_tracked(&cache, &expected).unwrap(), None, "{init:?}: no list yet");
            assert!(git(&tree, &["add", "-A"]) && git(&tree, form), "{init:?} {form:?}");
            assert_eq!(first_tracked(&cache, &expected).unwrap(), None, "{init:?} {form:?}");
            write(tree.join("cache/objects/ab/cd"));
            // Without contents of its own, and to be added later: the flags take four bytes.
            assert!(git(&tree, &["add", "-A", "-N"]), "{init:?} {form:?}");
            let found = first_tracked(&cache, &expected).unwrap();
            assert_eq!(found.as_deref(), Some("objects/ab/cd"), "{init:?} {form:?}");
            assert!(git(&tree, &["add", "-A"]) && git(&tree, &["commit", "-qm", "all"]), "{init:?} {form:?}");
            let other = tempfile::tempdir().unwrap();
            let other = fs::canonicalize(other.path()).unwrap().join("tree");
            assert!(git(&tree, &["worktree", "add", "-q", other.to_str().unwrap()]));
            let found = first_tracked(&other.join("cache"), &expected).unwrap();
            assert_eq!(found.as_deref(), Some("objects/ab/cd"), "a further work tree");
        }
    }

    #[test]
    fn a_cache_that_is_tracked_as_a_link_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let tree = fs::canonicalize(temp.path()).unwrap();
        assert!(git(&tree, &["init", "-q"]));
        std::os::unix::fs::symlink("../victim", tree.join("cache")).unwrap();
        assert!(git(&tree, &["add", "-A"]));
        assert_eq!(first_tracked(&tree.join("cache"), &expected).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn a_list_cut_or_changed_anywhere_is_an_error_or_a_list() {
        let temp = tempfile::tempdir().unwrap();
        let tree = fs::canonicalize(temp.path()).unwrap();
        assert!(git(&tree, &["init", "-q"]));
        write(tree.join("cache/objects/ab/cd"));
        write(tree.join("cache/objects/ab/ce"));
        assert!(git(&tree, &["add", "-A"]) && git(&tree, &["update-index", "--index-version", "4"]));
        let whole = fs::read(tree.join(".git/index")).unwrap();
        for length in 0..whole.len() {
            let is_cut = parse(&whole[..length]).is_none_or(|index| index.names.len() == 2);
            assert!(is_cut, "cut at {length}");
            let mut changed = whole.clone();
            changed[length] ^= 0x80;
            parse(&changed);
        }
        fs::write(tree.join(".git/index"), &whole[..whole.len() / 2]).unwrap();
        let error = format!("{:#}", first_tracked(&tree.join("cache"), &expected).unwrap_err());
        assert!(error.contains("cannot be read") && error.contains("--cache"), "{error}");
    }
}
