//! Writes objects and records so that a record never names an object that a power cut could take away, and does so in batches:
//! one `syncfs` for some hundred objects. Unaware of what stages are.
//!
//! Objects are written to `tmp/`. `flush` makes all of them durable at once, moves them to their places, then appends the records
//! that were queued. Any number of threads may use one batch, and any number of batches may be open.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::fs::OFlags;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::file_digest::{self, CopyError};
use crate::cache::place::Place;
use crate::cache::records::{Completeness, Record};
use crate::cache::regular_file::{self, Links};
use crate::cache::trouble::disk_trouble;

/// A batch is flushed on its own once it holds this many objects or records, ...
const MANY: usize = 512;
/// ... this many bytes, ...
const LARGE: u64 = 256 << 20;
/// ... or something this old.
const OLD: Duration = Duration::from_millis(500);
/// Up to this many objects are made durable one by one: `syncfs` would also wait for everything else that the disk has to write.
const FEW: usize = 8;

/// What is in the store under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Stored {
    /// The object as a field of an item holds it. `extension`: without the dot.
    pub fn artifact(self, extension: &str) -> Artifact {
        Artifact { digest: self.digest, size: self.size, extension: extension.into() }
    }
}

/// Objects and records on their way into the cache. Dropped without `flush`, the rest is forgotten.
#[derive(Debug)]
pub struct Batch<'a> {
    cache: &'a Cache,
    pending: Mutex<Pending>,
    /// Held while a flush goes on, so that records are appended in the order in which they were queued.
    flushing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Pending {
    objects: Vec<(Place, Stored)>,
    digests: HashSet<Digest>,
    bytes: u64,
    records: Vec<(Completeness, Record)>,
    since: Option<Instant>,
    /// Why an earlier flush failed. Its objects are lost, so records that may name them must not be written.
    failure: Option<String>,
}

impl<'a> Batch<'a> {
    /// Begins empty, and writes nothing to the disk until something is put into it.
    pub(crate) fn new(cache: &'a Cache) -> Self {
        Self { cache, pending: Mutex::default(), flushing: Mutex::default() }
    }

    /// Puts contents into the store. They can be read once the batch is flushed.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Stored> {
        let stored = Stored { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if !self.is_new(&stored)? {
            return Ok(stored);
        }
        let path = self.cache.workspace()?.fresh();
        let written = write_object(&path, bytes);
        if let Err(error) = written {
            let _ = path.remove();
            return Err(disk_trouble(error, &format!("writing an object of {} bytes to", bytes.len()), &path));
        }
        self.stage(path, stored)
    }

    /// Takes a file over: it is moved if it lies on the file system of the cache, else copied and removed. No one may write to it
    /// any more. `written`: its digest, if that was taken while this process wrote it; else the file is read.
    ///
    /// # Errors
    /// If the file is none, is not as long as what was written, or the disk is full.
    pub fn put_file(&self, path: &Path, written: Option<Stored>) -> Result<Stored> {
        let reading = || format!("reading `{}`", path.display());
        let file = regular_file::open(path, Links::Refused).with_context(reading)?;
        let stored = match written {
            None => {
                let (digest, size) = file_digest::of_open(file).with_context(reading)?;
                Stored { digest, size }
            }
            Some(written) => {
                let size = file.metadata().with_context(reading)?.len();
                ensure!(size == written.size, "`{}` has {size} bytes, and {} were written", path.display(), written.size);
                written
            }
        };
        if !self.is_new(&stored)? {
            fs::remove_file(path).map_err(|error| disk_trouble(error, "removing", path))?;
            return Ok(stored);
        }
        let taken = self.cache.workspace()?.fresh();
        match faults::pass("objects.take").and_then(|()| Place::from(path).rename(&taken)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let copied = copy_object(path, &taken);
                match copied {
                    Ok(copied) if copied == stored.digest => {}
                    Ok(_) => {
                        let _ = taken.remove();
                        return Err(anyhow!("`{}` was changed while it was copied into the cache", path.display()));
                    }
                    Err(error) => {
                        let _ = taken.remove();
                        return Err(disk_trouble(error, &format!("copying `{}` to", path.display()), &taken));
                    }
                }
                fs::remove_file(path).map_err(|error| disk_trouble(error, "removing", path))?;
            }
            Err(error) => return Err(disk_trouble(error, "taking over", path)),
        }
        let protected = taken.open(OFlags::RDONLY).and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o444)));
        protected.map_err(|error| disk_trouble(error, "protecting", &taken))?;
        self.stage(taken, stored)
    }

    /// Queues the record of a result whose objects were put into this batch or are in the cache already.
    pub fn record(&self, record: Record) -> Result<()> {
        self.queue(Completeness::Complete, record)
    }

    /// Queues outputs that a stage publishes before it ends; `record.outputs` are the new ones only.
    pub fn partial(&self, record: Record) -> Result<()> {
        self.queue(Completeness::Partial, record)
    }

    fn queue(&self, completeness: Completeness, record: Record) -> Result<()> {
        let mut pending = self.pending();
        pending.check()?;
        pending.records.push((completeness, record));
        self.flush_if_due(pending)
    }

    /// Makes durable all that was put in and queued before the call.
    pub fn flush(&self) -> Result<()> {
        let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (objects, records) = {
            let mut pending = self.pending();
            pending.check()?;
            pending.since = None;
            pending.bytes = 0;
            (mem::take(&mut pending.objects), mem::take(&mut pending.records))
        };
        let result = self.commit(&objects, &records);
        let mut pending = self.pending();
        for (path, stored) in &objects {
            pending.digests.remove(&stored.digest);
            if result.is_err() {
                let _ = path.remove();
            }
        }
        if let Err(error) = &result {
            pending.failure = Some(format!("{error:#}"));
        }
        result
    }

    fn commit(&self, objects: &[(Place, Stored)], records: &[(Completeness, Record)]) -> Result<()> {
        if !objects.is_empty() {
            let workspace = self.cache.workspace()?;
            self.make_durable(objects, workspace.handle())
                .map_err(|error| disk_trouble(error, "making objects durable in", self.cache.root()))?;
        }
        self.cache.with_lease(|lease| {
            for (path, stored) in objects {
                lease.note(stored.digest);
                faults::pass("objects.place")
                    .and_then(|()| self.cache.objects.adopt(path, &stored.digest, stored.size))
                    .map_err(|error| disk_trouble(error, "moving an object to", &self.cache.objects.path(&stored.digest)))?;
            }
            records.iter().for_each(|(_, record)| lease.note(record.key));
            self.cache.records()?.append(records)
        })
    }

    fn make_durable(&self, objects: &[(Place, Stored)], workspace: &File) -> io::Result<()> {
        faults::pass("objects.sync")?;
        if objects.len() > FEW {
            return Ok(rustix::fs::syncfs(workspace)?);
        }
        objects.iter().try_for_each(|(place, _)| place.open(OFlags::RDONLY)?.sync_all())
    }

    /// Whether the object must be written. Of two threads with the same contents one gets false: it may continue, because its
    /// record cannot be written before the object of the other is.
    fn is_new(&self, stored: &Stored) -> Result<bool> {
        let mut pending = self.pending();
        pending.check()?;
        if pending.digests.contains(&stored.digest) {
            return Ok(false);
        }
        drop(pending);
        // One that is here was made by somebody else, some other day: what it holds is looked at before it stands for this one.
        if self.cache.holds(&stored.digest, stored.size)? {
            return Ok(self.cache.objects.check(&stored.digest).is_err());
        }
        self.cache.objects.note_if_damaged(&stored.digest, stored.size);
        Ok(true)
    }

    fn stage(&self, path: Place, stored: Stored) -> Result<Stored> {
        let mut pending = self.pending();
        if let Err(error) = pending.check() {
            let _ = path.remove();
            return Err(error);
        }
        if pending.digests.insert(stored.digest) {
            pending.objects.push((path, stored));
            pending.bytes += stored.size;
        } else {
            // Another thread was faster with the same contents.
            let _ = path.remove();
        }
        self.flush_if_due(pending)?;
        Ok(stored)
    }

    fn flush_if_due(&self, mut pending: MutexGuard<'_, Pending>) -> Result<()> {
        let since = *pending.since.get_or_insert_with(Instant::now);
        let held = pending.objects.len().max(pending.records.len());
        let due = held >= MANY || pending.bytes >= LARGE || since.elapsed() >= OLD;
        // While another thread flushes, this one goes on working, up to a point.
        let must_wait = held >= 4 * MANY || pending.bytes >= 4 * LARGE;
        drop(pending);
        if due && (must_wait || self.flushing.try_lock().is_ok()) { self.flush() } else { Ok(()) }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn check(&mut self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(anyhow!("an earlier write to the cache failed: {failure}")),
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for (path, _) in &self.pending().objects {
            let _ = path.remove();
        }
    }
}

fn write_object(path: &Place, bytes: &[u8]) -> io::Result<()> {
    let mut file = path.create_new(0o444)?;
    faults::pass("objects.write")?;
    file.write_all(bytes)
}

fn copy_object(from: &Path, to: &Place) -> io::Result<Digest> {
    let source = regular_file::open(from, Links::Refused)?;
    let copied = file_digest::copy(source, &mut to.create_new(0o444)?);
    copied.map_err(|(CopyError::Reading(error) | CopyError::Writing(error))| error)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};
    use crate::cache::records::tests::sample;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        (folder, cache)
    }

    fn left_in_tmp(cache: &Cache) -> usize {
        walkdir::WalkDir::new(cache.root().join("tmp"))
            .into_iter()
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_type().is_file()))
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_none_or(|e| e != "lock")))
            .count()
    }

    #[test]
    fn objects_and_records_appear_with_the_flush_and_cannot_be_written() {
        let (folder, cache) = cache();
        let file = folder.path().join("file");
        fs::write(&file, "from a file").unwrap();
        let batch = cache.batch();
        let bytes = batch.put_bytes(b"from memory").unwrap();
        let taken = batch.put_file(&file, None).unwrap();
        batch.record(sample(1)).unwrap();
        assert!(!file.exists());
        assert!(!cache.contains(&bytes.digest, bytes.size));
        assert!(cache.lookup(&sample(1).key).unwrap().is_none());
        batch.flush().unwrap();
        for (stored, contents) in [(bytes, "from memory"), (taken, "from a file")] {
            assert!(cache.contains(&stored.digest, stored.size));
            assert_eq!(cache.read(&stored.digest).unwrap(), contents.as_bytes());
            assert_eq!(fs::metadata(cache.path(&stored.digest)).unwrap().permissions().mode() & 0o777, 0o444);
        }
        assert_eq!(cache.lookup(&sample(1).key).unwrap(), Some(sample(1)));
        assert_eq!(left_in_tmp(&cache), 0);
    }

    #[test]
    fn a_file_whose_digest_was_taken_while_it_was_written_is_taken_over_unread_if_it_is_as_long() {
        let (folder, cache) = cache();
        let file = folder.path().join("file");
        fs::write(&file, "written").unwrap();
        let batch = cache.batch();
        let digest = Digest::of(b"written");
        let longer = batch.put_file(&file, Some(Stored { digest, size: 8 })).unwrap_err();
        assert!(format!("{longer:#}").contains("has 7 bytes, and 8 were written"), "{longer:#}");
        let written = Stored { digest, size: 7 };
        assert_eq!(batch.put_file(&file, Some(written)).unwrap(), written);
        batch.flush().unwrap();
        assert_eq!(cache.read(&digest).unwrap(), b"written");
    }

    #[test]
    fn an_object_of_the_wrong_size_is_a_miss_and_is_repaired() {
        let (_folder, cache) = cache();
        let batch = cache.batch();
        let stored = batch.put_bytes(b"contents").unwrap();
        batch.flush().unwrap();
        let path = cache.path(&stored.digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, b"cont").unwrap();
        assert!(!cache.contains(&stored.digest, stored.size));
        batch.put_bytes(b"contents").unwrap();
        batch.flush().unwrap();
        assert_eq!(cache.read(&stored.digest).unwrap(), b"contents");
    }

    #[test]
    fn a_damaged_object_of_the_right_size_is_removed_when_it_is_read() {
        let (_folder, cache) = cache();
        let batch = cache.batch();
        let stored = batch.put_bytes(b"contents").unwrap();
        batch.flush().unwrap();
        let path = cache.path(&stored.digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, b"c0ntents").unwrap();
        assert!(cache.contains(&stored.digest, stored.size));
        let error = cache.read(&stored.digest).unwrap_err();
        assert!(error.to_string().contains("run again"), "{error}");
        assert!(!cache.contains(&stored.digest, stored.size));
    }

    #[test]
    fn many_threads_and_many_objects_need_few_flushes_by_hand() {
        let (_folder, cache) = cache();
        let batch = cache.batch();
        thread::scope(|scope| {
            for writer in 0..4u64 {
                let batch = &batch;
                scope.spawn(move || {
                    for number in 0..1000 {
                        // Every second object is also put by another thread.
                        let contents = if number % 2 == 0 { number } else { writer * 1000 + number };
                        let stored = batch.put_bytes(&contents.to_le_bytes()).unwrap();
                        let mut record = sample(writer * 1000 + number);
                        record.outputs.truncate(1);
                        record.outputs[0].fields.insert("image".into(), stored.artifact("png"));
                        batch.record(record).unwrap();
                    }
                });
            }
        });
        assert!(cache.lookup(&sample(0).key).unwrap().is_some(), "flushed on its own");
        batch.flush().unwrap();
        for number in 0..4000 {
            let record = cache.lookup(&sample(number).key).unwrap().unwrap();
            let image = &record.outputs[0].fields["image"];
            assert_eq!(cache.read(&image.digest).unwrap().len(), 8);
        }
        assert_eq!(left_in_tmp(&cache), 0);
    }

    #[test]
    fn a_full_or_broken_disk_leaves_no_record_and_nothing_half_written() {
        let places = ["objects.write", "objects.sync", "objects.place", "records.append", "records.sync"];
        for (place, fault) in places.into_iter().flat_map(|place| [(place, Fault::DiskFull), (place, Fault::BrokenDisk)]) {
            let (_folder, cache) = cache();
            let batch = cache.batch();
            let result = (|| {
                arm(place, 0, fault);
                batch.put_bytes(b"contents")?;
                batch.record(sample(1))?;
                batch.flush()
            })();
            assert!(disarm());
            let words = if matches!(fault, Fault::DiskFull) { "free space" } else { "the disk reports a defect" };
            let error = result.expect_err(place);
            assert!(format!("{error:#}").contains(words), "{place}: {error:#}");
            assert!(cache.lookup(&sample(1).key).unwrap().is_none(), "{place}");
            assert_eq!(left_in_tmp(&cache), 0, "{place}");
            if place != "objects.write" {
                assert!(batch.put_bytes(b"more").is_err(), "{place}: a batch that failed takes no more");
            }
            // The next one finds a valid cache.
            let batch = cache.batch();
            let stored = batch.put_bytes(b"contents").unwrap();
            batch.record(sample(1)).unwrap();
            batch.flush().unwrap();
            assert_eq!(cache.read(&stored.digest).unwrap(), b"contents");
            assert!(cache.lookup(&sample(1).key).unwrap().is_some());
        }
    }

    #[test]
    fn a_batch_that_is_dropped_leaves_nothing() {
        let (_folder, cache) = cache();
        let batch = cache.batch();
        let stored = batch.put_bytes(b"contents").unwrap();
        batch.record(sample(1)).unwrap();
        drop(batch);
        assert_eq!(left_in_tmp(&cache), 0);
        assert!(!cache.contains(&stored.digest, stored.size));
        assert!(cache.lookup(&sample(1).key).unwrap().is_none());
    }
}
