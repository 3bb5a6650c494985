//! Whether git tracks something below a folder: read from git's own list, without git. Unaware of why it is asked.
//!
//! The list is `index` in the folder of git: <https://git-scm.com/docs/index-format>, versions 2 to 4, with names of objects in
//! SHA-1 or SHA-256, and in two files where git has split it.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::regular_file::{self, Links, Refusal};

/// Of some millions of files. It is read piece by piece: what it takes is time, not memory.
const LARGEST: u64 = 1 << 30;
/// A piece.
const PIECE: usize = 64 << 10;
/// A longer name in the list is none: the kernel takes no longer path.
const LONGEST_NAME: usize = 4 << 10;
/// `gitdir: …`, `commondir`: one path.
const LONGEST_PATH: u64 = 64 << 10;
/// Before the name of an object in an entry: ten numbers of four bytes, of which the seventh is the mode.
const BEFORE_OBJECT: usize = 40;
/// After it, in bytes.
const FLAGS: usize = 2;
/// In the flags of an entry: two more bytes of flags follow.
const EXTENDED: u16 = 0x4000;
/// How many bytes the name of an object may have.
const OBJECT_NAMES: [usize; 2] = [20, LONGEST_OBJECT_NAME];
const LONGEST_OBJECT_NAME: usize = 32;

/// The first file below `folder`, which must be an absolute path without links above it, that the git repository around it tracks
/// and that is not expected; `""` stands for `folder` itself, tracked as a file or a link.
///
/// # Errors
/// There is a list, and it cannot be read.
pub(crate) fn first_tracked(folder: &Path, is_expected: &dyn Fn(&str) -> bool) -> Result<Option<String>> {
    // A link of the name `folder` is tracked by what is around it.
    for tree in folder.ancestors() {
        let Some(git) = git_folder(tree) else { continue };
        let below = folder.strip_prefix(tree).expect("it is an ancestor").as_os_str().as_encoded_bytes();
        let wanted = |name: &[u8]| {
            let rest = match name.strip_prefix(below) {
                Some(b"") if !below.is_empty() => b"",
                Some(rest) if below.is_empty() => rest,
                Some([b'/', rest @ ..]) => rest,
                _ => return None,
            };
            Some(String::from_utf8_lossy(rest).into_owned()).filter(|rest| !is_expected(rest))
        };
        let found = first(&git, &wanted)?;
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

/// What `wanted` says of the first name that it wants.
fn first(git: &Path, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let path = git.join("index");
    let Index { found, shared } = match open(&path) {
        Ok(list) => read(list, wanted).with_context(|| {
            format!(
                "`{}` cannot be read as the list of what git tracks: name a cache outside the repository with `--cache DIR`",
                path.display()
            )
        })?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| opening(&path)),
    };
    let Some(shared) = shared.filter(|_| found.is_none()) else { return Ok(found) };
    let path = git.join(format!("sharedindex.{shared}"));
    let list = open(&path).with_context(|| opening(&path))?;
    let index =
        read(list, wanted).with_context(|| format!("`{}` cannot be read as the list of what git tracks", path.display()))?;
    Ok(index.found)
}

fn opening(path: &Path) -> String {
    format!("reading `{}` for what git tracks in the cache", path.display())
}

fn open(path: &Path) -> io::Result<File> {
    let list = regular_file::open(path, Links::Followed)?;
    if list.metadata()?.len() > LARGEST { Err(Refusal::LargerThan(LARGEST).into()) } else { Ok(list) }
}

/// Whether a name is looked for, and what to say of it.
type Wanted<'w> = dyn Fn(&[u8]) -> Option<String> + 'w;

#[derive(Debug)]
struct Index {
    /// Of the first name that was looked for.
    found: Option<String>,
    /// Where git has split the list: the name of the other part.
    shared: Option<String>,
}

fn no_list() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is damaged, or of a version that is not known")
}

fn read(list: impl Read + Seek, wanted: &Wanted<'_>) -> io::Result<Index> {
    let mut list = Pieces::of(list)?;
    for object in OBJECT_NAMES {
        list.rewind()?;
        match read_with(&mut list, object, wanted) {
            Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {}
            read => return read,
        }
    }
    Err(no_list())
}

/// An error if it is no list with names of objects of that length.
fn read_with(list: &mut Pieces<impl Read + Seek>, object: usize, wanted: &Wanted<'_>) -> io::Result<Index> {
    let mut header = [0; 12];
    list.exact(&mut header)?;
    let version = number(&header[4..8]);
    if &header[..4] != b"DIRC" || !(2..=4).contains(&version) {
        return Err(no_list());
    }
    let mut found = None;
    let mut name = Vec::new();
    for _ in 0..number(&header[8..]) {
        let start = list.at;
        let mut fixed = [0; BEFORE_OBJECT + LONGEST_OBJECT_NAME + FLAGS];
        let fixed = &mut fixed[..BEFORE_OBJECT + object + FLAGS];
        list.exact(fixed)?;
        if !matches!(number(&fixed[24..28]) >> 12, 0o4 | 0o10 | 0o12 | 0o16) {
            return Err(no_list());
        }
        let flags = u16::from_be_bytes(fixed[BEFORE_OBJECT + object..].try_into().expect("2 bytes"));
        if version >= 3 && flags & EXTENDED != 0 {
            list.skip(2)?;
        }
        // From version 4 on a name says how much of the end of the one before it to leave out.
        let cut = if version == 4 { list.offset()? } else { name.len() };
        name.truncate(name.len().checked_sub(cut).ok_or_else(no_list)?);
        list.until_zero(&mut name)?;
        if version < 4 {
            // Filled up to a multiple of eight.
            let length = list.at - start;
            list.skip(length.next_multiple_of(8) - length)?;
        }
        if found.is_none() {
            found = wanted(&name);
        }
    }
    Ok(Index { found, shared: shared_part(list, object)? })
}

/// Of the parts after the entries, `link` names the other file. An error if they do not fit.
fn shared_part(list: &mut Pieces<impl Read + Seek>, object: usize) -> io::Result<Option<String>> {
    while list.at + (object as u64) < list.end {
        let mut start = [0; 8];
        list.exact(&mut start)?;
        let length = number(&start[4..]);
        if &start[..4] == b"link" {
            let mut name = [0; LONGEST_OBJECT_NAME];
            if (length as usize) < object {
                return Err(no_list());
            }
            list.exact(&mut name[..object])?;
            return Ok(Some(name[..object].iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        list.skip(length.into())?;
    }
    if list.at + object as u64 == list.end { Ok(None) } else { Err(no_list()) }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("4 bytes"))
}

/// A list from its start to its end, of which little is in memory at a time.
struct Pieces<R> {
    reader: BufReader<R>,
    at: u64,
    end: u64,
}

impl<R: Read + Seek> Pieces<R> {
    fn of(mut list: R) -> io::Result<Self> {
        let end = list.seek(SeekFrom::End(0))?;
        Ok(Self { reader: BufReader::with_capacity(PIECE, list), at: end, end })
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.at = 0;
        self.reader.rewind()
    }

    fn exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.end.saturating_sub(self.at) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += count;
        self.reader.seek_relative(count.cast_signed())
    }

    /// Adds what comes before the next zero to `name`.
    fn until_zero(&mut self, name: &mut Vec<u8>) -> io::Result<()> {
        let most = LONGEST_NAME.saturating_sub(name.len()) as u64;
        let got = (&mut self.reader).take(most + 1).read_until(0, name)?;
        self.at += got as u64;
        if got > 0 && name.pop() == Some(0) { Ok(()) } else { Err(no_list()) }
    }

    /// A number in the form of git's packs.
    fn offset(&mut self) -> io::Result<usize> {
        let mut value = 0usize;
        loop {
            let mut byte = [0];
            self.exact(&mut byte)?;
            value |= usize::from(byte[0] & 0x7f);
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
            value = value.checked_add(1).and_then(|value| value.checked_mul(128)).ok_or_else(no_list)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
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
            let second = |name: &[u8]| (name == b"cache/objects/ab/ce").then(String::new);
            let is_cut = read(Cursor::new(&whole[..length]), &second).is_ok_and(|index| index.found.is_none());
            assert!(!is_cut, "cut at {length}");
            let mut changed = whole.clone();
            changed[length] ^= 0x80;
            let _ = read(Cursor::new(&changed), &second);
        }
        fs::write(tree.join(".git/index"), &whole[..whole.len() / 2]).unwrap();
        let error = format!("{:#}", first_tracked(&tree.join("cache"), &expected).unwrap_err());
        assert!(error.contains("cannot be read") && error.contains("--cache"), "{error}");
    }

    /// A list of version 4, each name of which is given by how much of the one before it to leave out and what to add.
    fn list_of(names: impl Iterator<Item = (u8, Vec<u8>)>) -> Vec<u8> {
        let (mut entries, mut count) = (Vec::new(), 0u32);
        for (cut, add) in names {
            let mut fixed = [0; BEFORE_OBJECT + 20 + FLAGS];
            fixed[24..28].copy_from_slice(&0o100_644u32.to_be_bytes());
            entries.extend_from_slice(&fixed);
            entries.push(cut);
            entries.extend(add);
            entries.push(0);
            count += 1;
        }
        [b"DIRC\0\0\0\x04", &count.to_be_bytes()[..], &entries, &[0; 20]].concat()
    }

    #[test]
    fn names_that_grow_on_each_other_take_no_memory() {
        let list = |longest: usize| {
            let names = (0..30_000).map(|number| if number == 0 { (0, vec![b'a'; longest]) } else { (1, vec![b'b']) });
            list_of(names.chain([(0, vec![b'/', b'x'])]))
        };
        let wanted = |name: &[u8]| name.ends_with(b"/x").then(|| name.len().to_string());
        let index = read(Cursor::new(list(LONGEST_NAME - 2)), &wanted).unwrap();
        assert_eq!(index.found, Some(LONGEST_NAME.to_string()));
        assert_eq!(read(Cursor::new(list(100_000)), &wanted).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
