//! A lock by file name that the kernel releases when its holder dies (flock). Unaware of what it guards.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use crate::cache::place::Place;
use crate::cache::trouble::disk_trouble;

/// How long a waiter sleeps between two attempts: it must be able to hear Ctrl-C in between.
const NAP: Duration = Duration::from_millis(50);
/// After a request to end, a lock that is only held for a moment is still waited for: what is to be saved needs it.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// How long it sleeps at first where the lock is held for milliseconds.
const SHORT_NAP: Duration = Duration::from_micros(200);
/// What a holder says is a line or two, or the keys of a claim.
const LONGEST: u64 = 256 << 20;

/// Set when the user wants the process to end.
static STOP_REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whoever waits for a lock gives up once `stop_requested` is set: a handler that catches a signal takes from it what would have
/// ended the wait.
pub fn give_up_on(stop_requested: Arc<AtomicBool>) {
    // A second command in one process has the same flag.
    let _ = STOP_REQUESTED.set(stop_requested);
}

/// Waits until nobody else has locked the file.
///
/// # Errors
/// `Interrupted` if the user wants the process to end.
pub(crate) fn wait_for(file: &File) -> io::Result<()> {
    let held = patiently(|| match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    });
    held?.ok_or_else(|| ErrorKind::Interrupted.into())
}

/// Asks again and again; `None` if the user wants the process to end.
fn patiently<T, E>(mut attempt: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let mut nap = SHORT_NAP;
    let mut asked = None;
    loop {
        if let Some(got) = attempt()? {
            return Ok(Some(got));
        }
        if asked.is_none() && STOP_REQUESTED.get().is_some_and(|is_requested| is_requested.load(Ordering::Relaxed)) {
            asked = Some(Instant::now());
        }
        if asked.is_some_and(|asked| asked.elapsed() > LAST_PATIENCE) {
            return Ok(None);
        }
        thread::sleep(nap);
        nap = NAP.min(nap * 2);
    }
}

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    place: Place,
    /// Removes the file at the end; for names that are not used again and again.
    passing: bool,
}

impl FileLock {
    /// `None` if another holds it.
    pub(crate) fn attempt(place: impl Into<Place>, passing: bool) -> Result<Option<Self>> {
        Self::try_as(&place.into(), passing, File::try_lock)
    }

    /// Waits as long as it takes; for locks that are held for milliseconds.
    pub(crate) fn take(place: impl Into<Place>) -> Result<Self> {
        Self::persist(&place.into(), File::try_lock)
    }

    /// As `take`, side by side with others that share it.
    pub(crate) fn share(place: impl Into<Place>) -> Result<Self> {
        Self::persist(&place.into(), File::try_lock_shared)
    }

    fn persist(place: &Place, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self> {
        let held = patiently(|| Self::try_as(place, false, lock))?;
        held.with_context(|| format!("waiting for the lock `{}`, which another process holds, was given up", place.display()))
    }

    fn try_as(place: &Place, passing: bool, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Option<Self>> {
        loop {
            let file = open(place)?;
            match lock(&file) {
                Ok(()) if is_named(&file, place) => return Ok(Some(Self { file, place: place.clone(), passing })),
                // Its last holder has removed the file in the meantime.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(disk_trouble(error, "locking", place)),
            }
        }
    }

    /// Waits while `go_on` says so, which is asked every few milliseconds; `None` if it gave up.
    pub(crate) fn wait(place: impl Into<Place>, passing: bool, go_on: &mut dyn FnMut() -> bool) -> Result<Option<Self>> {
        let place = place.into();
        loop {
            if let Some(lock) = Self::attempt(&place, passing)? {
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
        write(&mut self.file).map_err(|error| disk_trouble(error, "writing", &self.place))
    }

    /// What the holder of a lock wrote; empty if there is none.
    pub(crate) fn said(place: impl Into<Place>) -> String {
        place.into().read(LONGEST).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.passing {
            // Still locked here, so that nobody can hold the name that goes away; if it cannot be removed it only lies about.
            let _ = self.place.remove();
        }
    }
}

fn open(place: &Place) -> Result<File> {
    place.open(OFlags::RDWR | OFlags::CREATE).map_err(|error| disk_trouble(error, "opening the lock", place))
}

fn is_named(file: &File, place: &Place) -> bool {
    match (file.metadata(), place.stat()) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.st_dev, named.st_ino),
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
