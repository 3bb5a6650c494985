//! Replaces a whole file so that a reader, a kill or a full disk sees the old or the new one and nothing between. Unaware of contents.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::faults;
use crate::cache::trouble::disk_trouble;

/// Writes `bytes` beside `path`, makes them durable and renames.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_as(path, bytes, Durability::Synced)
}

/// As `replace`, but after a power cut the file may be the old one, or empty: for what is of use only while the machine is up, or is known
/// by a checksum.
pub(crate) fn replace_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_as(path, bytes, Durability::Unsynced)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Synced,
    Unsynced,
}

fn replace_as(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let trouble = |error| disk_trouble(error, "writing", path);
    // The mode a plain `create` asks for; the umask takes its share.
    let mode = fs::metadata(path).map_or(0o666, |old| old.permissions().mode());
    let mut new = Replacement::begin(path, mode).map_err(trouble)?;
    faults::pass("atomic.write").and_then(|()| new.file.write_all(bytes)).map_err(trouble)?;
    if durability == Durability::Synced {
        faults::pass("atomic.sync").and_then(|()| new.file.sync_all()).map_err(trouble)?;
    }
    faults::pass("atomic.rename").and_then(|()| new.put_in_place()).map_err(trouble)?;
    if durability == Durability::Unsynced {
        return Ok(());
    }
    sync_folder_of(path).map_err(trouble)
}

/// Makes durable which files lie beside `path`.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A file on its way to the place of another. Dropped before that, it is removed.
///
/// It has one name for each place, so that what a kill leaves makes room for the next one, and it is locked while it is written, so that two
/// writers wait for each other.
pub(crate) struct Replacement {
    pub(crate) file: File,
    path: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl Replacement {
    /// An empty file beside `target`. `mode`: of which the umask takes its share.
    pub(crate) fn begin(target: &Path, mode: u32) -> io::Result<Self> {
        let path = path_beside(target)?;
        loop {
            let file = match OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    remove_left_behind(&path)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            lock(&file)?;
            // Before it was locked another may have taken it for one that a kill had left.
            if is_named(&file, &path) {
                return Ok(Self { file, path, target: target.to_path_buf(), placed: false });
            }
        }
    }

    pub(crate) fn put_in_place(&mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.placed && !faults::is_dead() {
            // If it cannot be removed the next one makes room.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what a kill left beside a file that may not be replaced again soon.
pub(crate) fn sweep(target: &Path) {
    let left = path_beside(target).and_then(|path| Ok((open_left_behind(&path)?, path)));
    // What cannot be removed now makes room for the next one.
    if let Ok((Some(left), path)) = left
        && left.try_lock().is_ok()
        && is_named(&left, &path)
    {
        let _ = fs::remove_file(&path);
    }
}

fn path_beside(target: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".loramill-");
    name.push(target.file_name().ok_or(ErrorKind::InvalidInput)?);
    Ok(folder_of(target).join(name))
}

/// Waits while somebody writes the file, and removes it if that one has not put it in its place.
fn remove_left_behind(path: &Path) -> io::Result<()> {
    let Some(left) = open_left_behind(path)? else { return Ok(()) };
    lock(&left)?;
    if is_named(&left, path) { fs::remove_file(path) } else { Ok(()) }
}

fn open_left_behind(path: &Path) -> io::Result<Option<File>> {
    let no_links = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(no_links).open(path) {
        Ok(left) => Ok(Some(left)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(file: &File) -> io::Result<()> {
    match file.lock() {
        // There are folders without locks, and hardly anybody who writes there at the same moment.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        locked => locked,
    }
}

/// Whether `path` still names this file.
fn is_named(file: &File, path: &Path) -> bool {
    let place = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => place(open) == place(named),
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
        let _alive = Replacement::begin(&path, 0o666).unwrap();
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
    fn a_link_in_the_way_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("file"), folder.path().join("precious"));
        fs::write(&precious, "of a person").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(".loramill-file")).unwrap();
        replace(&path, b"new").unwrap_err();
        assert_eq!(fs::read(&precious).unwrap(), b"of a person");
    }
}
