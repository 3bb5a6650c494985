//! Replaces a whole file so that a reader, a kill or a full disk sees the old or the new one and nothing between. Unaware of
//! contents.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{FileType, OFlags};

use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::file_lock;
use crate::cache::place::Place;
use crate::cache::trouble::{disk_trouble, user_disk_trouble};

/// Of a name in bytes, that something may be put before. Most file systems take names of 255; eCryptfs, which encrypts home
/// folders, 143.
const LONGEST: usize = 120;

/// Writes `bytes` beside `place`, makes them durable and renames.
pub(crate) fn replace(place: impl Into<Place>, bytes: &[u8]) -> Result<()> {
    replace_as(&place.into(), bytes, Durability::Synced, disk_trouble)
}

/// As `replace`, of a file outside of the cache.
pub(crate) fn replace_users(place: impl Into<Place>, bytes: &[u8]) -> Result<()> {
    replace_as(&place.into(), bytes, Durability::Synced, user_disk_trouble)
}

/// As `replace`, but after a power cut the file may be the old one, or empty: for what is of use only while the machine is up, or
/// is known by a checksum.
pub(crate) fn replace_unsynced(place: impl Into<Place>, bytes: &[u8]) -> Result<()> {
    replace_as(&place.into(), bytes, Durability::Unsynced, disk_trouble)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Synced,
    Unsynced,
}

/// Makes an error message of what a disk answers.
type ErrorMessage = fn(io::Error, &str, &Path) -> anyhow::Error;

fn replace_as(place: &Place, bytes: &[u8], durability: Durability, message: ErrorMessage) -> Result<()> {
    let trouble = |error| message(error, "writing", place);
    // The mode a plain `create` asks for; the umask takes its share. That of a link says nothing.
    let old = place.stat().ok().filter(|old| FileType::from_raw_mode(old.st_mode).is_file());
    let mut new = Replacement::begin(place, old.map_or(0o666, |old| old.st_mode)).map_err(trouble)?;
    faults::pass("atomic.write").and_then(|()| new.file.write_all(bytes)).map_err(trouble)?;
    if durability == Durability::Synced {
        faults::pass("atomic.sync").and_then(|()| new.file.sync_all()).map_err(trouble)?;
    }
    faults::pass("atomic.rename").and_then(|()| new.put_in_place()).map_err(trouble)?;
    match durability {
        Durability::Unsynced => Ok(()),
        Durability::Synced => place.sync_folder().map_err(trouble),
    }
}

/// A file on its way to the place of another. Dropped before that, it is removed.
///
/// It has one name for each place, so that what a kill leaves makes room for the next one, and it is locked while it is written,
/// so that two writers wait for each other.
pub(crate) struct Replacement {
    pub(crate) file: File,
    place: Place,
    target: Place,
    placed: bool,
}

impl Replacement {
    /// An empty file beside `target`. `mode`: of which the umask takes its share.
    pub(crate) fn begin(target: &Place, mode: u32) -> io::Result<Self> {
        let place = place_beside(target)?;
        loop {
            let file = match place.create_new(mode & 0o777) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    remove_left_behind(&place)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            lock(&file)?;
            // Before it was locked another may have taken it for one that a kill had left.
            if is_named(&file, &place) {
                return Ok(Self { file, place, target: target.clone(), placed: false });
            }
        }
    }

    /// Renames the file over its target, whatever lies there. Syncs neither the file nor the folder.
    pub(crate) fn put_in_place(&mut self) -> io::Result<()> {
        self.place.rename(&self.target)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.placed && !faults::is_dead() {
            // If it cannot be removed the next one makes room.
            let _ = self.place.remove();
        }
    }
}

/// Removes what a kill left beside a file that may not be replaced again soon.
pub(crate) fn sweep(target: impl Into<Place>) {
    let left = place_beside(&target.into()).and_then(|place| Ok((open_left_behind(&place)?, place)));
    // What cannot be removed now makes room for the next one.
    if let Ok((Some(left), place)) = left
        && left.try_lock().is_ok()
        && is_named(&left, &place)
    {
        let _ = place.remove();
    }
}

fn place_beside(target: &Place) -> io::Result<Place> {
    let mut name = OsString::from(".loramill-");
    match target.file_name().ok_or(ErrorKind::InvalidInput)? {
        // With more before it the name could be too long for the disk.
        long if long.len() > LONGEST => name.push(Digest::of(long.as_bytes()).short()),
        short => name.push(short),
    }
    Ok(target.beside(name))
}

/// Waits while somebody writes the file, and removes it if that one has not put it in its place.
fn remove_left_behind(place: &Place) -> io::Result<()> {
    let Some(left) = open_left_behind(place)? else { return Ok(()) };
    lock(&left)?;
    if is_named(&left, place) { place.remove() } else { Ok(()) }
}

fn open_left_behind(place: &Place) -> io::Result<Option<File>> {
    match place.open(OFlags::RDONLY) {
        Ok(left) => Ok(Some(left)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(file: &File) -> io::Result<()> {
    match file_lock::wait_for(file) {
        // There are folders without locks, and hardly anybody who writes there at the same moment.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        locked => locked,
    }
}

/// Whether `place` still names this file.
fn is_named(file: &File, place: &Place) -> bool {
    let open = file.metadata().map(|found: fs::Metadata| (found.dev(), found.ino()));
    match (open, place.stat()) {
        (Ok(open), Ok(named)) => open == (named.st_dev, named.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old").unwrap();
        for place in ["atomic.write", "atomic.sync", "atomic.rename"] {
            arm(place, 0, Fault::DiskFull);
            let error = replace(&path, b"new").unwrap_err();
            assert!(disarm());
            assert!(format!("{error:#}").contains("free space"), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        for bytes in [b"new", b"one"] {
            replace_unsynced(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_a_kill_leaves_is_gone_with_the_next_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for place in ["atomic.write", "atomic.sync", "atomic.rename"] {
            arm(place, 0, Fault::Killed);
            replace(&path, b"never").unwrap_err();
            assert!(disarm());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), if path.exists() { 2 } else { 1 });
            replace(&path, place.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), place.as_bytes());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        fs::write(folder.path().join(".loramill-file"), "half").unwrap();
        sweep(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let _alive = Replacement::begin(&path.clone().into(), 0o666).unwrap();
        sweep(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn eight_writers_of_one_file_leave_one_of_their_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::thread::scope(|scope| {
            for writer in 0..8u8 {
                let path = &path;
                scope.spawn(move || (0..50).for_each(|_| replace_unsynced(path, &[writer; 10_000]).unwrap()));
            }
        });
        let text = fs::read(&path).unwrap();
        assert_eq!(text, vec![text[0]; 10_000]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_with_the_longest_name_is_replaced_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(255));
        for bytes in [b"old", b"new"] {
            replace(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_way_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("file"), folder.path().join("precious"));
        fs::write(&precious, "of a person").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(".loramill-file")).unwrap();
        replace(&path, b"new").unwrap_err();
        assert_eq!(fs::read(&precious).unwrap(), b"of a person");
    }
}
