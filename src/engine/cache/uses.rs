//! Notes of what a run needs, so that nothing of it is deleted meanwhile: the run's half of the agreement that `sweep` describes.
//! Unaware of who deletes and why.
//!
//! `runs/<pipeline>.uses` begins with the folder of the pipeline; digests of 32 bytes follow.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;
use crate::cache::place::Place;
use crate::cache::sweep::LARGEST;
use crate::cache::trouble::{disk_trouble, list_trouble};

/// The notes of the run of this process.
#[derive(Debug)]
pub(crate) struct Uses {
    path: Place,
    /// Of the pipeline.
    folder: PathBuf,
    /// An earlier run has left notes: it was interrupted, or its results have no place in the lock.
    goes_on: bool,
    /// Opened, and made if need be, with the first note.
    open: Option<(File, HashSet<Digest>)>,
}

/// A shared lease on the cache: while it lasts nothing is deleted. What is taken under it is noted at its end.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    noted: Option<Mutex<Vec<Digest>>>,
}

impl Lease {
    /// That the run needs this object, or the result of this key.
    pub(crate) fn note(&self, digest: Digest) {
        if let Some(noted) = &self.noted {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
        }
    }
}

impl Cache {
    /// From here on this process notes what the run of the pipeline in `folder` takes and makes. For runs, under the lock of the
    /// pipeline.
    pub fn begin_uses(&self, folder: &Path) -> Result<()> {
        let path = self.run_file(folder, "uses")?;
        let folder = fs::canonicalize(folder).with_context(|| format!("looking for `{}`", folder.display()))?;
        let goes_on = path.is_there();
        *self.uses() = Some(Uses { path, folder, goes_on, open: None });
        self.with_lease(|_| Ok(()))
    }

    /// The run has ended well, and the lock names all that it needs. What earlier runs have noted is removed too if this one was
    /// of the whole pipeline; else all notes stay.
    pub fn end_uses(&self, of_the_whole: bool) -> Result<()> {
        let Some(uses) = self.uses().take() else { return Ok(()) };
        if !uses.path.is_there() || (uses.goes_on && !of_the_whole) {
            return Ok(());
        }
        // Held while the notes go, so that nobody begins to collect in between.
        let nobody_collects = FileLock::attempt(self.collecting_lock(), false)?;
        if nobody_collects.is_none() {
            let _lease = FileLock::share(self.sweep_lock())?;
            let noted = read(&uses.path)?.map(|(_, noted)| noted).unwrap_or_default();
            let path = uses.path.ending("used");
            let mut aside = Uses { path, folder: uses.folder, goes_on: false, open: None };
            aside.add(noted)?;
        }
        uses.path.remove().map_err(|error| disk_trouble(error, "removing", &uses.path))
    }

    /// Does `work` under a lease: nothing is deleted from the cache meanwhile. Only runs take leases: to others a deleted object
    /// is a miss.
    pub(crate) fn with_lease<T>(&self, work: impl FnOnce(&Lease) -> Result<T>) -> Result<T> {
        if self.uses().is_none() {
            return work(&Lease::default());
        }
        let _lease = FileLock::share(self.sweep_lock())?;
        let lease = Lease { noted: Some(Mutex::default()) };
        let done = work(&lease)?;
        let noted = lease.noted.map(|noted| noted.into_inner().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default();
        if let Some(uses) = self.uses().as_mut() {
            uses.add(noted)?;
        }
        Ok(done)
    }

    /// Whether an object is here, as `contains`; if so it stays while the run lasts.
    pub(crate) fn holds(&self, digest: &Digest, size: u64) -> Result<bool> {
        if !self.contains(digest, size) {
            return Ok(false);
        }
        let stays = self.uses().as_ref().is_none_or(|uses| uses.knows(digest));
        if stays {
            return Ok(true);
        }
        self.with_lease(|lease| {
            lease.note(*digest);
            Ok(self.contains(digest, size))
        })
    }

    fn uses(&self) -> MutexGuard<'_, Option<Uses>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uses {
    fn knows(&self, digest: &Digest) -> bool {
        self.open.as_ref().is_some_and(|(_, known)| known.contains(digest))
    }

    fn add(&mut self, noted: Vec<Digest>) -> Result<()> {
        if noted.is_empty() {
            return Ok(());
        }
        let trouble = |error| list_trouble(error, "noting what the run uses in", &self.path);
        let (file, known) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.path, &self.folder).map_err(trouble)?),
        };
        let mut bytes = Vec::new();
        for digest in noted {
            if known.insert(digest) {
                bytes.extend_from_slice(digest.as_bytes());
            }
        }
        file.write_all(&bytes).map_err(trouble)
    }
}

/// The file and what it holds already: an interrupted run has left it.
fn open(path: &Place, folder: &Path) -> std::io::Result<(File, HashSet<Digest>)> {
    path.folder().make_folder()?;
    let mut file = path.open(OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)?;
    let bytes = path.read(LARGEST)?;
    match parse(&bytes) {
        Some((known_folder, known)) if known_folder == folder => {
            // A kill may have left part of a digest.
            file.set_len((bytes.len() - (bytes.len() - start_of_digests(folder)) % 32) as u64)?;
            Ok((file, known.into_iter().collect()))
        }
        _ => {
            let folder = folder.as_os_str().as_bytes();
            file.set_len(0)?;
            file.write_all(&[&(folder.len() as u32).to_le_bytes(), folder].concat())?;
            Ok((file, HashSet::new()))
        }
    }
}

fn start_of_digests(folder: &Path) -> usize {
    4 + folder.as_os_str().len()
}

fn parse(bytes: &[u8]) -> Option<(PathBuf, Vec<Digest>)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (folder, digests) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((PathBuf::from(std::ffi::OsString::from_vec(folder.to_vec())), digest_list(digests)))
}

/// The pipeline's folder and what its run noted; `None` if there is no such file, or none that says anything.
pub(crate) fn read(place: impl Into<Place>) -> Result<Option<(PathBuf, Vec<Digest>)>> {
    let place = place.into();
    match place.read(LARGEST) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(list_trouble(error, "reading", &place)),
    }
}

/// Digests one after the other; what is left of a last one does not count.
pub(crate) fn digest_list(bytes: &[u8]) -> Vec<Digest> {
    bytes.as_chunks::<32>().0.iter().map(|bytes| Digest::from_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn note(cache: &Cache, digests: &[Digest]) {
        cache
            .with_lease(|lease| {
                digests.iter().for_each(|digest| lease.note(*digest));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn notes_outlive_a_killed_run_and_end_with_one_that_ends_well() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("cache");
        let folder = fs::canonicalize(temp.path()).unwrap();
        let killed = Cache::open(&root).unwrap();
        let path = killed.run_file(temp.path(), "uses").unwrap();
        killed.begin_uses(temp.path()).unwrap();
        assert!(!path.exists(), "a run that takes nothing new writes nothing");
        note(&killed, &[digest(1), digest(2), digest(1)]);
        assert_eq!(read(&path).unwrap(), Some((folder.clone(), vec![digest(1), digest(2)])));
        drop(killed);

        // Killed within a note.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[7; 13]).unwrap();
        let next = Cache::open(&root).unwrap();
        next.begin_uses(temp.path()).unwrap();
        note(&next, &[digest(2), digest(3)]);
        assert_eq!(read(&path).unwrap(), Some((folder, vec![digest(1), digest(2), digest(3)])));
        next.end_uses(false).unwrap();
        assert!(path.exists(), "a run of a part says nothing of the rest");
        next.begin_uses(temp.path()).unwrap();
        next.end_uses(true).unwrap();
        assert!(!path.exists());

        next.begin_uses(temp.path()).unwrap();
        note(&next, &[digest(4)]);
        next.end_uses(false).unwrap();
        assert!(!path.exists(), "nobody else has left anything");
    }

    #[test]
    fn notes_are_put_aside_while_somebody_collects() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let path = cache.run_file(temp.path(), "uses").unwrap();
        let _collecting = FileLock::attempt(cache.collecting_lock(), false).unwrap().unwrap();
        for number in [1, 2] {
            cache.begin_uses(temp.path()).unwrap();
            note(&cache, &[digest(number)]);
            cache.end_uses(true).unwrap();
            assert!(!path.exists());
        }
        let (_, aside) = read(path.with_extension("used")).unwrap().unwrap();
        assert_eq!(aside, [digest(1), digest(2)]);
    }

    #[test]
    fn who_only_reads_takes_no_turn() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let _exclusive = FileLock::take(cache.sweep_lock()).unwrap();
        note(&cache, &[digest(1)]);
        assert!(!temp.path().join("runs").exists());
    }
}
