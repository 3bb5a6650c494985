//! Deleting from a cache that others use at the same time, so that no run loses what it needs. Unaware of what is worth keeping.
//!
//! What a `pipeline.lock` names is safe because whoever collects reads every lock. A run that goes on also needs what no lock
//! names yet: results it has made, and results it has found here under their keys. So:
//!
//! - A run *notes* in `runs/<pipeline>.uses` every key whose result it takes, and every object and key that it makes. Finding a
//!   result and noting it happens under one *lease*: a shared lock, which many runs hold side by side.
//! - Whoever deletes takes the *exclusive lock*: no lease lasts meanwhile. Only then the notes are read, and once more the locks
//!   in the work trees, and what they name is spared. A run has found a result before that, and the note is seen; or it looks
//!   afterwards, and meets a miss.
//! - A row that the lock file holds when a run begins needs no note, since whoever collects reads that lock. Eviction takes even
//!   what locks name, so it spares every pipeline whose run goes on; a run begins with a lease, and cannot slip past.
//! - Notes outlive a run that was interrupted: what it made is kept, because the next one goes on from there. They go when a run
//!   has ended well, and with it those of earlier runs if it was of the whole pipeline, for then the lock names all results.
//!   While somebody collects they are put aside as `.used` instead: the lock may have been read before it had these rows.
//!
//! A run that finds everything fresh takes one lease and notes nothing. Commands that only read take none: what is deleted under
//! their hands is a miss to them.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;
use crate::cache::locate::LONGEST_PATH;
use crate::cache::place::Place;
use crate::cache::record_log::Dropped;
use crate::cache::records::{Completeness, Record};
use crate::cache::stat_index::nanoseconds;
use crate::cache::trouble::{disk_trouble, list_trouble};
use crate::cache::workspace::is_numbered;
use crate::cache::{Cache, atomic, faults, uses};

/// Of evicted objects, or that a run noted: 4 million.
pub(crate) const LARGEST: u64 = 128 << 20;
/// How long a second collector waits for the first. A run that ends holds the same lock for an instant.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the run of a pipeline noted, beyond what its lock names.
#[derive(Debug)]
pub struct Noted {
    /// Of the pipeline.
    pub folder: PathBuf,
    /// Objects and keys.
    pub digests: Vec<Digest>,
    /// Since the last note.
    pub age: Duration,
    /// The run has ended while somebody collects.
    pub put_aside: bool,
    path: Place,
}

/// The one process that collects.
#[derive(Debug)]
pub struct Collector<'a> {
    cache: &'a Cache,
    _lock: FileLock,
}

/// While it lasts no run takes anything from the cache or puts anything there.
#[derive(Debug)]
pub struct ExclusiveLock<'a> {
    cache: &'a Cache,
    _lock: FileLock,
}

impl Cache {
    /// Begins to find out what may be deleted.
    ///
    /// # Errors
    /// Another process is collecting.
    pub fn begin_collecting(&self) -> Result<Collector<'_>> {
        let started = Instant::now();
        match self.try_collecting(&mut || started.elapsed() < PATIENCE)? {
            Some(collector) => Ok(collector),
            None => bail!("another process is cleaning `{}`: wait until it has ended", self.root().display()),
        }
    }

    /// As `begin_collecting`, waiting as long as `go_on` says; `None` if another process is still collecting then.
    pub(crate) fn try_collecting(&self, go_on: &mut dyn FnMut() -> bool) -> Result<Option<Collector<'_>>> {
        let Some(lock) = FileLock::wait(self.collecting_lock(), false, go_on)? else { return Ok(None) };
        // Put aside while an earlier collector was running.
        for path in list(&self.place("runs"))?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "used"))
        {
            remove(path)?;
        }
        Ok(Some(Collector { cache: self, _lock: lock }))
    }

    /// What the runs that go on, and those that were interrupted, have noted.
    pub fn noted(&self) -> Result<Vec<Noted>> {
        let mut all = Vec::new();
        for path in list(&self.place("runs"))? {
            let extension = path.extension().unwrap_or_default().to_os_string();
            if extension != "uses" && extension != "used" {
                continue;
            }
            if let Some((folder, digests)) = uses::read(&path)? {
                let age = age_of(&path);
                all.push(Noted { folder, digests, age, put_aside: extension == "used", path });
            }
        }
        Ok(all)
    }

    /// Objects that were evicted on purpose though something names them.
    pub fn evicted(&self) -> Result<HashSet<Digest>> {
        let path = self.evicted_place();
        match path.read(LARGEST) {
            Ok(bytes) => Ok(uses::digest_list(&bytes).into_iter().collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(HashSet::new()),
            Err(error) => Err(list_trouble(error, "reading", &path)),
        }
    }

    /// The files that a cache cannot be cleaned without, and that are no records, each with the most bytes that it may have.
    pub(crate) fn notes(&self) -> Result<Vec<(Place, u64)>> {
        let of_runs = list(&self.place("runs"))?.into_iter();
        let of_runs = of_runs.filter(|path| path.extension().is_some_and(|extension| extension == "uses" || extension == "used"));
        let lists = [self.evicted_place(), self.damage_notes()].into_iter().chain(of_runs).map(|place| (place, LARGEST));
        let roots = list(&self.place("roots"))?.into_iter().map(|place| (place, LONGEST_PATH));
        Ok(lists.chain(roots).collect())
    }

    fn evicted_place(&self) -> Place {
        self.place("evicted")
    }

    /// The file that a lease locks shared, and the exclusive lock exclusively.
    pub(crate) fn sweep_lock(&self) -> Place {
        self.place("locks/sweep")
    }

    /// The file that a collector locks. A run that ends holds it while its notes go.
    pub(crate) fn collecting_lock(&self) -> Place {
        self.place("locks/collecting")
    }
}

impl<'a> Collector<'a> {
    /// Waits until nobody holds the lease; runs wait from then on until the result is dropped.
    pub fn exclusive(&self) -> Result<ExclusiveLock<'a>> {
        Ok(ExclusiveLock { cache: self.cache, _lock: FileLock::take(self.cache.sweep_lock())? })
    }
}

impl ExclusiveLock<'_> {
    /// True if it was here.
    pub fn remove_object(&self, digest: &Digest) -> Result<bool> {
        let path = self.cache.place_of(digest);
        match path.remove() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk_trouble(error, "removing", &path)),
        }
    }

    /// Removes objects that something still names, and says so beforehand. A kill in between leaves objects that are here and
    /// that nobody would miss.
    pub(crate) fn evict(&self, digests: &HashSet<Digest>) -> Result<()> {
        self.write_evicted(&self.cache.evicted()?.union(digests).copied().collect())?;
        for digest in digests {
            faults::pass("objects.evict").map_err(|error| disk_trouble(error, "removing", &self.cache.path(digest)))?;
            self.remove_object(digest)?;
        }
        Ok(())
    }

    /// Removes what an interrupted run would go on from.
    pub fn remove_state(&self, state_key: &Digest) -> Result<()> {
        let folder = self.cache.place("state").inside(state_key.to_hex());
        match folder.remove_all() {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_trouble(error, "removing", &folder)),
            _ => Ok(()),
        }
    }

    /// Removes the notes of a run that nobody goes on with.
    pub fn forget(&self, noted: &Noted) -> Result<()> {
        remove(&noted.path)
    }

    /// Replaces the list of objects that were evicted on purpose. Written before they are deleted: what is missing must never
    /// look like a loss.
    pub fn write_evicted(&self, digests: &HashSet<Digest>) -> Result<()> {
        let path = self.cache.evicted_place();
        if digests.is_empty() {
            return remove(&path);
        }
        let mut sorted: Vec<&Digest> = digests.iter().collect();
        sorted.sort_unstable();
        let bytes: Vec<u8> = sorted.into_iter().flat_map(|digest| *digest.as_bytes()).collect();
        atomic::replace(&path, &bytes)
    }

    /// Writes the record log anew without those that `keep` does not want; does nothing if it wants all.
    pub(crate) fn retain_records(&self, keep: &mut dyn FnMut(Completeness, &Record) -> bool) -> Result<Dropped> {
        self.cache.records()?.retain(keep)
    }

    /// Removes what dead processes left in `tmp/` and `locks/`.
    pub fn remove_dead_scratch(&self) -> Result<()> {
        for place in list(&self.cache.place("tmp"))? {
            if !is_numbered(&place) {
                continue;
            }
            let is_lock = place.extension().is_some_and(|extension| extension == "lock");
            let guard = if is_lock { place.clone() } else { place.ending("lock") };
            if let Some(_nobody) = FileLock::attempt(&guard, true)? {
                let _ = guard.ending("").remove_all();
            }
        }
        for path in list(&self.cache.place("locks"))? {
            if path != self.cache.sweep_lock() && path != self.cache.collecting_lock() {
                // A lock that nobody holds is removed when it is released.
                drop(FileLock::attempt(&path, true)?);
            }
        }
        Ok(())
    }
}

/// What lies in a folder, sorted; nothing if it is not there.
pub(crate) fn list(folder: &Place) -> Result<Vec<Place>> {
    match folder.list() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.with_context(|| format!("reading `{}`", folder.display())),
    }
}

/// Since the last change; zero for a time in the future.
pub(crate) fn age_of(place: &Place) -> Duration {
    let modified =
        place.stat().ok().and_then(|found| u64::try_from(nanoseconds(found.st_mtime, found.st_mtime_nsec as i64)).ok());
    let modified = modified.map(|modified| SystemTime::UNIX_EPOCH + Duration::from_nanos(modified));
    modified.and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default()
}

fn remove(place: &Place) -> Result<()> {
    match place.remove() {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_trouble(error, "removing", place)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};
    use crate::cache::fsck::Depth;
    use crate::cache::records::tests::sample;

    #[test]
    fn one_process_collects_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let first = cache.begin_collecting().unwrap();
        let error = cache.begin_collecting().unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        cache.begin_collecting().unwrap();
    }

    #[test]
    fn what_a_turn_has_found_is_noted_before_anybody_can_delete_it() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let collecting = Cache::open(&temp.path().join("cache")).unwrap();
        cache.begin_uses(temp.path()).unwrap();
        let found = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let turn = cache.with_lease(|lease| {
                    found.store(true, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(100));
                    lease.note(Digest::of(b"x"));
                    Ok(())
                });
                turn.unwrap();
            });
            while !found.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let collector = collecting.begin_collecting().unwrap();
            let _exclusive = collector.exclusive().unwrap();
            let noted = collecting.noted().unwrap();
            assert_eq!(noted.len(), 1);
            assert_eq!(noted[0].digests, [Digest::of(b"x")]);
            assert_eq!(noted[0].folder, fs::canonicalize(temp.path()).unwrap());
        });
    }

    #[test]
    fn what_is_let_go_is_never_a_loss_wherever_the_process_dies() {
        for dies_at in 0..=3 {
            let temp = tempfile::tempdir().unwrap();
            let cache = Cache::open(temp.path()).unwrap();
            let batch = cache.batch();
            let mut record = sample(1);
            record.outputs.truncate(1);
            let mut all = HashSet::new();
            for text in ["a", "b", "c"] {
                let stored = batch.put_bytes(text.as_bytes()).unwrap();
                all.insert(stored.digest);
                record.outputs[0].fields.insert(text.into(), stored.artifact("txt"));
            }
            record.outputs[0].fields.retain(|field, _| ["a", "b", "c"].contains(&field.as_str()));
            batch.record(record).unwrap();
            batch.flush().unwrap();
            let here = || all.iter().filter(|digest| cache.path(digest).exists()).count();
            let collector = cache.begin_collecting().unwrap();
            arm("objects.evict", dies_at, Fault::Killed);
            let outcome = collector.exclusive().unwrap().evict(&all);
            let died = dies_at < 3;
            assert_eq!((outcome.is_err(), disarm()), (died, died));
            drop(collector);
            assert_eq!(here(), 3 - dies_at);
            assert_eq!(cache.check(Depth::Full, &[]).unwrap().problems, []);
            cache.begin_collecting().unwrap().exclusive().unwrap().evict(&all).unwrap();
            assert_eq!(here(), 0);
            assert_eq!(cache.check(Depth::Full, &[]).unwrap().problems, []);
        }
    }

    #[test]
    fn dead_scratch_goes_and_that_of_the_living_stays() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let mine = cache.scratch_folder().unwrap();
        let other = Cache::open(temp.path()).unwrap();
        let orphan = temp.path().join("tmp/77");
        fs::create_dir_all(orphan.join("deep")).unwrap();
        fs::write(temp.path().join("locks").join(Digest::of(b"dead").to_hex()), "").unwrap();
        let held = other.try_lock_key(&Digest::of(b"alive")).unwrap();
        cache.begin_collecting().unwrap().exclusive().unwrap().remove_dead_scratch().unwrap();
        assert!(mine.is_dir() && !orphan.exists());
        let mut locks: Vec<_> = list(&temp.path().join("locks").into()).unwrap();
        locks.retain(|path| !path.ends_with("sweep") && !path.ends_with("collecting"));
        assert_eq!(locks, [Place::from(temp.path().join("locks").join(Digest::of(b"alive").to_hex()))]);
        drop(held);
    }
}
