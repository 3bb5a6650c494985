//! A lock by file name that the kernel releases when its holder dies (flock). Unaware of what it guards.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::cache::trouble::disk_trouble;

/// How long a waiter sleeps between two attempts: it must be able to hear Ctrl-C in between.
const NAP: Duration = Duration::from_millis(50);

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
    /// Removes the file at the end; for names that are not used again and again.
    passing: bool,
}

impl FileLock {
    /// `None` if another holds it.
    pub(crate) fn attempt(path: &Path, passing: bool) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if is_named(&file, path) => return Ok(Some(Self { file, path: path.to_path_buf(), passing })),
                // Its last holder has removed the file in the meantime.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(disk_trouble(error, "locking", path)),
            }
        }
    }

    /// Waits as long as it takes; for locks that are held for milliseconds.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        loop {
            let file = open(path)?;
            file.lock().map_err(|error| disk_trouble(error, "locking", path))?;
            if is_named(&file, path) {
                return Ok(Self { file, path: path.to_path_buf(), passing: false });
            }
        }
    }

    /// As `take`, side by side with others that share it.
    pub(crate) fn share(path: &Path) -> Result<Self> {
        loop {
            let file = open(path)?;
            file.lock_shared().map_err(|error| disk_trouble(error, "locking", path))?;
            if is_named(&file, path) {
                return Ok(Self { file, path: path.to_path_buf(), passing: false });
            }
        }
    }

    /// Waits while `go_on` says so, which is asked every few milliseconds; `None` if it gave up.
    pub(crate) fn wait(path: &Path, passing: bool, go_on: &mut dyn FnMut() -> bool) -> Result<Option<Self>> {
        loop {
            if let Some(lock) = Self::attempt(path, passing)? {
                return Ok(Some(lock));
            }
            if !go_on() {
                return Ok(None);
            }
            thread::sleep(NAP);
        }
    }

    /// Replaces what the file says to those who find it locked.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(text.as_bytes())
        };
        write(&mut self.file).map_err(|error| disk_trouble(error, "writing", &self.path))
    }

    /// What the holder of `path` wrote; empty if there is none.
    pub(crate) fn said(path: &Path) -> String {
        let mut text = String::new();
        match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => text,
            Err(_) => String::new(),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.passing {
            // Still locked here, so that nobody can hold the name that goes away; if it cannot be removed it only lies about.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|error| disk_trouble(error, "opening the lock", path))
}

fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_waits_and_a_removed_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = FileLock::attempt(&path, true).unwrap().unwrap();
        assert!(FileLock::attempt(&path, true).unwrap().is_none());
        let mut asked = 0;
        let gave_up = FileLock::wait(&path, true, &mut || {
            asked += 1;
            asked < 3
        });
        assert!(gave_up.unwrap().is_none());
        drop(first);
        assert!(!path.exists());
        assert!(FileLock::attempt(&path, true).unwrap().is_some());
    }

    #[test]
    fn one_thread_at_a_time_holds_a_passing_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let lock = loop {
                            if let Some(lock) = FileLock::attempt(&path, true).unwrap() {
                                break lock;
                            }
                            thread::yield_now();
                        };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
