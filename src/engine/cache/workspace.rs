//! Where a process writes before its files get their place: `tmp/<number>/`, guarded by a lock, so that others can tell what a
//! dead process left behind. Unaware of what is written.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};

use crate::cache::file_lock::FileLock;
use crate::cache::place::Place;
use crate::cache::trouble::disk_trouble;

/// A folder of this process alone.
#[derive(Debug)]
pub(crate) struct Workspace {
    _lock: FileLock,
    folder: Place,
    /// Open since before the first file was written, so that `syncfs` on it reports every error in writing them.
    handle: File,
    next: AtomicU64,
}

impl Workspace {
    /// A new folder below `tmp`.
    pub(crate) fn create(tmp: impl Into<Place>) -> Result<Self> {
        let tmp = tmp.into();
        for number in 0u64.. {
            let Some(lock) = FileLock::attempt(tmp.inside(format!("{number}.lock")), true)? else { continue };
            let folder = tmp.inside(number.to_string());
            remove_left_behind(&folder);
            // A folder that cannot be removed is somebody else's.
            match folder.make_new_folder() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(disk_trouble(error, "creating", &folder)),
            }
            let handle = folder.open_folder().with_context(|| format!("opening `{}`", folder.display()))?;
            let folder = folder.held().with_context(|| format!("opening `{}`", folder.display()))?;
            return Ok(Self { _lock: lock, folder, handle, next: AtomicU64::new(0) });
        }
        unreachable!("there is always another number")
    }

    /// Removes what processes that have died left below `tmp`. Only folders with names as processes give them.
    pub(crate) fn sweep(tmp: impl Into<Place>) -> Result<()> {
        let tmp = tmp.into();
        for place in tmp.list().with_context(|| format!("reading `{}`", tmp.display()))? {
            if !is_numbered(&place) || place.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            if let Some(lock) = FileLock::attempt(&place, true)? {
                remove_left_behind(&place.ending(""));
                drop(lock);
            }
        }
        Ok(())
    }

    /// A place that nobody else uses.
    pub(crate) fn fresh(&self) -> Place {
        self.folder.inside(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// The folder, open: `syncfs` on it makes all files of the workspace durable.
    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        remove_left_behind(&self.folder);
    }
}

/// Whether it has a name as processes give them: a number, or one that ends in `.lock`.
pub(crate) fn is_numbered(place: &Place) -> bool {
    place.file_stem().is_some_and(|stem| stem.as_encoded_bytes().iter().all(u8::is_ascii_digit))
}

fn remove_left_behind(folder: &Place) {
    // What cannot be removed now is tried again by the next process.
    let _ = folder.remove_all();
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_folders_of_dead_processes_are_swept() {
        let tmp = tempfile::tempdir().unwrap();
        let alive = Workspace::create(tmp.path()).unwrap();
        fs::write(alive.fresh(), "alive").unwrap();
        fs::create_dir(tmp.path().join("7")).unwrap();
        fs::write(tmp.path().join("7/0"), "dead").unwrap();
        fs::write(tmp.path().join("7.lock"), "").unwrap();
        Workspace::sweep(tmp.path()).unwrap();
        assert!(alive.folder.join("0").exists());
        assert!(!tmp.path().join("7").exists());
        assert!(!tmp.path().join("7.lock").exists());
        drop(alive);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
