//! Where a process writes before its files get their place: `tmp/<number>/`, guarded by a lock, so that others can tell what a dead
//! process left behind. Unaware of what is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};

use crate::cache::file_lock::FileLock;
use crate::cache::trouble::disk_trouble;

/// A folder of this process alone.
#[derive(Debug)]
pub(crate) struct Workspace {
    _lock: FileLock,
    folder: PathBuf,
    /// Open since before the first file was written, so that `syncfs` on it reports every error that befell them.
    handle: File,
    next: AtomicU64,
}

impl Workspace {
    /// A new folder below `tmp`.
    pub(crate) fn create(tmp: &Path) -> Result<Self> {
        for number in 0u64.. {
            let lock_path = tmp.join(format!("{number}.lock"));
            let Some(lock) = FileLock::attempt(&lock_path, true)? else { continue };
            let folder = tmp.join(number.to_string());
            remove_left_behind(&folder);
            // A folder that cannot be removed is somebody else's.
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(disk_trouble(error, "creating", &folder)),
            }
            let handle = File::open(&folder).with_context(|| format!("opening `{}`", folder.display()))?;
            return Ok(Self { _lock: lock, folder, handle, next: AtomicU64::new(0) });
        }
        unreachable!("there is always another number")
    }

    /// Removes what processes that have died left below `tmp`.
    pub(crate) fn sweep(tmp: &Path) -> Result<()> {
        for entry in fs::read_dir(tmp).with_context(|| format!("reading `{}`", tmp.display()))? {
            let path = entry.with_context(|| format!("reading `{}`", tmp.display()))?.path();
            if path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            if let Some(lock) = FileLock::attempt(&path, true)? {
                remove_left_behind(&path.with_extension(""));
                drop(lock);
            }
        }
        Ok(())
    }

    /// A path that nobody else uses.
    pub(crate) fn fresh_path(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        remove_left_behind(&self.folder);
    }
}

fn remove_left_behind(folder: &Path) {
    // What cannot be removed now is tried again by the next process.
    let _ = fs::remove_dir_all(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_processes_are_swept() {
        let tmp = tempfile::tempdir().unwrap();
        let alive = Workspace::create(tmp.path()).unwrap();
        fs::write(alive.fresh_path(), "alive").unwrap();
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
