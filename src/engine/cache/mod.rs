//! The content-addressed store. Knows nothing of stages.
//!
//! ```text
//! objects/ab/…     contents under their digest, read-only
//! tmp/             what is being written, one folder a process
//! records          key → outputs, a log that only grows; record-index finds a key in it
//! stat-index       what files contained, by stat; text-index the same for captions
//! state/<key>/     what an interrupted run goes on from
//! displaced/       files that made room for others in the user's folders, for 30 days; displaced-ages on how many of them something ran
//! outputs/         what was written into `out/` folders
//! locks/  roots/   who works on what; which repositories use this cache
//! runs/            how far a run is, the request that it stop, and what it needs
//! evicted          objects that were evicted though something names them
//! damaged          objects that were damaged and went
//! ```

pub mod bytes;
pub mod digest;

pub mod artifact;
pub mod manifest;

pub mod batch;
mod objects;
pub(crate) mod place;

mod record_log;
pub mod records;

pub mod file_digest;
pub mod stat_index;

pub mod regular_file;

mod displaced_age;
pub mod locate;
pub mod locks;
mod run_files;

pub mod fsck;
pub mod survey;
pub mod sweep;
pub(crate) mod uses;

pub(crate) mod atomic;
pub(crate) mod encoding;
pub mod faults;
pub mod file_lock;
mod git_index;
mod met_damage;
pub(crate) mod renames;
pub(crate) mod trouble;
mod trust;
mod workspace;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use rustix::fs::OFlags;

use crate::cache::batch::Batch;
use crate::cache::digest::Digest;
use crate::cache::displaced_age::Ages;
use crate::cache::objects::{Damaged, LARGEST_LIST, LARGEST_READ, Objects};
use crate::cache::place::{Place, Root};
use crate::cache::record_log::RecordLog;
use crate::cache::records::{Completeness, Output, Record};
use crate::cache::regular_file::{Links, Refusal};
use crate::cache::renames::rename_new;
use crate::cache::stat_index::{FileStat, StatIndex};
use crate::cache::sweep::list;
use crate::cache::trouble::disk_trouble;
use crate::cache::trust::Named;
use crate::cache::uses::Uses;
use crate::cache::workspace::Workspace;

/// In bytes. Most file systems take names of 255; eCryptfs, which encrypts home folders, takes 143.
const LONGEST_NAME: usize = 143;

/// Displaced files are kept at least this long.
const DISPLACED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Replaces a file of the user's as a whole: at no moment is it half-written.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic::replace_users(path, bytes)
}

/// A cache folder. Any number of processes may have it open; threads share one.
#[derive(Debug)]
pub struct Cache {
    root: Root,
    objects: Objects,
    /// Opened when it is first needed.
    records: OnceLock<RecordLog>,
    files: StatIndex,
    texts: StatIndex,
    workspace: OnceLock<Workspace>,
    /// What the run of this process needs, while there is one.
    uses: Mutex<Option<Uses>>,
    /// Objects that were found damaged.
    damaged: Mutex<Vec<Digest>>,
    /// Of a pipeline that is gone when the command ends.
    is_passing: bool,
}

impl Cache {
    /// Opens the cache in `root`, which is made if it is not there, and removes what dead processes left unfinished.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_as(root, Named::ByChance)
    }

    /// As `open`, for a folder that the user named.
    pub fn open_named(root: &Path) -> Result<Self> {
        Self::open_as(root, Named::ByTheUser)
    }

    fn open_as(root: &Path, named: Named) -> Result<Self> {
        let root = trust::enter(root, named)?;
        for name in ["objects", "tmp", "locks"] {
            let folder = root.place(name);
            folder.make_folder().map_err(|error| disk_trouble(error, "creating", &folder))?;
        }
        locate::tag(&root)?;
        Workspace::sweep(root.place("tmp"))?;
        RecordLog::check(root.place(""))?;
        ["stat-index", "text-index", "record-index", "evicted"].iter().for_each(|name| atomic::sweep(root.place(name)));
        Ok(Self {
            objects: Objects::at(&root)?,
            records: OnceLock::new(),
            files: StatIndex::open(root.place("stat-index")),
            texts: StatIndex::open(root.place("text-index")),
            workspace: OnceLock::new(),
            uses: Mutex::default(),
            damaged: Mutex::default(),
            is_passing: false,
            root,
        })
    }

    /// The folder, without links.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The place of a name in the cache.
    pub(crate) fn place(&self, below: impl AsRef<Path>) -> Place {
        self.root.place(below)
    }

    /// Where an object lies if it is here.
    pub(crate) fn place_of(&self, digest: &Digest) -> Place {
        self.objects.place(digest)
    }

    /// The way to write objects and records.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Whether the object is here with its size. One of another size is damaged and as good as none.
    pub fn contains(&self, digest: &Digest, size: u64) -> bool {
        self.objects.contains(digest, size)
    }

    /// Where an object lies if it is here. Its contents are not checked, so this is for large files.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.objects.path(digest)
    }

    /// The contents of an object, checked. A damaged one is removed, so that the next run makes it again.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.note_damage(self.objects.read(digest, LARGEST_READ))
    }

    /// As `read`, of a list of what a stage gave: what is longer than any is none.
    pub fn read_list(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.note_damage(self.objects.read(digest, LARGEST_LIST))
    }

    /// The contents of a list or a text if it is here and sound; one that is not stays as it is, for whoever only looks.
    pub(crate) fn peek(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.objects.peek(digest).filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Reads every byte of an object that is about to be used through its path, and says what `stat` tells of it: equal values
    /// later mean that these bytes are there still. A damaged one is removed.
    pub(crate) fn check_object(&self, digest: &Digest) -> Result<FileStat> {
        self.note_damage(self.objects.check(digest))
    }

    /// Copies an object into a new file, checked on the way. A damaged one is removed, and the file holds nothing of use.
    pub fn copy_object(&self, digest: &Digest, target: &mut impl io::Write) -> Result<()> {
        let source = self.open_object(digest).with_context(|| format!("opening object {} in the cache", digest.short()))?;
        self.copy_open_object(digest, source, target)
    }

    /// As `copy_object`, of an object that is open.
    pub(crate) fn copy_open_object(&self, digest: &Digest, source: File, target: &mut impl io::Write) -> Result<()> {
        self.note_damage(self.objects.copy(digest, source, target))
    }

    /// An object, not checked.
    pub(crate) fn open_object(&self, digest: &Digest) -> io::Result<File> {
        self.objects.open(digest)
    }

    /// Objects that were found damaged and were removed since this was last asked.
    pub(crate) fn take_damaged(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.damaged())
    }

    /// Whether objects were found damaged that nobody has asked for yet.
    pub(crate) fn has_met_damage(&self) -> bool {
        !self.damaged().is_empty()
    }

    fn note_damage<T>(&self, read: Result<T>) -> Result<T> {
        if let Err(error) = &read
            && let Some(Damaged { digest, .. }) = error.downcast_ref()
        {
            self.damaged().push(*digest);
        }
        read
    }

    fn damaged(&self) -> MutexGuard<'_, Vec<Digest>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result of `key`.
    pub fn lookup(&self, key: &Digest) -> Result<Option<Record>> {
        Ok(self.results(key)?.into_iter().next())
    }

    /// Every result of `key`, the oldest first.
    pub fn results(&self, key: &Digest) -> Result<Vec<Record>> {
        self.records()?.lookup(key, Completeness::Complete)
    }

    /// The outputs of every result of `key`, the oldest first.
    pub(crate) fn outputs(&self, key: &Digest) -> Result<Vec<Vec<Output>>> {
        self.records()?.outputs(key)
    }

    /// As `outputs`, for many keys at once.
    pub(crate) fn outputs_of(&self, keys: &[Digest]) -> Result<Vec<Vec<Vec<Output>>>> {
        self.records()?.outputs_of(keys)
    }

    /// What `key` published before it ended, in that order.
    pub fn published(&self, key: &Digest) -> Result<Vec<Record>> {
        self.records()?.lookup(key, Completeness::Partial)
    }

    /// Digest and size of a file, from the stat index if it is unchanged since it was last read.
    pub fn digest_file(&self, path: &Path) -> Result<(Digest, u64)> {
        let stat = FileStat::of(path).with_context(|| format!("reading `{}`", path.display()))?;
        match self.files.lookup(&stat) {
            Some(found) => Ok(found),
            None => self.digest_changed_file(path, &self.clock()?),
        }
    }

    /// As `digest_file`, for many files at once, in the order given, each with the most bytes that it may have: a larger one is
    /// an error and is not read.
    pub fn digest_files(&self, paths: &[(&Path, u64)]) -> Vec<Result<(Digest, u64)>> {
        let known: Vec<_> = paths
            .par_iter()
            .with_min_len(64)
            .map(|(path, most)| {
                let reading = || format!("reading `{}`", path.display());
                let stat = FileStat::of(path).with_context(reading)?;
                if stat.size > *most {
                    return Err(io::Error::from(Refusal::LargerThan(*most))).with_context(reading);
                }
                Ok(self.files.lookup(&stat))
            })
            .collect();
        if known.iter().all(|found| matches!(found, Ok(Some(_)))) {
            return known.into_iter().map(|found| Ok(found?.expect("all were found"))).collect();
        }
        let clock = self.clock();
        let hash = |((path, _), found): (&(&Path, u64), Result<Option<_>>)| match (found?, &clock) {
            (Some(found), _) => Ok(found),
            (None, Ok(clock)) => self.digest_changed_file(path, clock),
            (None, Err(error)) => bail!("{error:#}"),
        };
        paths.par_iter().zip(known).map(hash).collect()
    }

    fn digest_changed_file(&self, path: &Path, clock: &Clock) -> Result<(Digest, u64)> {
        let reading = || format!("reading `{}`", path.display());
        let file = regular_file::open(path, Links::Followed).with_context(reading)?;
        let metadata = file.metadata().with_context(reading)?;
        let before = FileStat::from(&metadata);
        let again = file.try_clone().with_context(reading)?;
        let (digest, size) = file_digest::of_open(file).with_context(reading)?;
        let after = FileStat::from(&again.metadata().with_context(reading)?);
        if before == after && size == before.size {
            self.files.learn(before, clock.now(before.device), digest, size);
        }
        Ok((digest, size))
    }

    /// Writes what was learned about files. Also done when the cache is dropped.
    pub fn save_stat_index(&self) -> Result<()> {
        self.files.save()?;
        self.texts.save()
    }

    /// The files of the two indices, of contents and of normalised texts. Either may be missing.
    pub(crate) fn stat_indices(&self) -> [Place; 2] {
        ["stat-index", "text-index"].map(|name| self.place(name))
    }

    /// What caption files contained, after normalisation.
    pub(crate) fn texts(&self) -> &StatIndex {
        &self.texts
    }

    /// The time of now, as the file systems at hand tell it.
    pub(crate) fn clock(&self) -> Result<Clock> {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        let probe = self.workspace()?.fresh();
        let file = probe.create_new(0o600).map_err(|error| disk_trouble(error, "writing", &probe))?;
        let metadata = file.metadata().map_err(|error| disk_trouble(error, "reading", &probe))?;
        probe.remove().map_err(|error| disk_trouble(error, "removing", &probe))?;
        let stat = FileStat::from(&metadata);
        Ok(Clock { system, device: stat.device, cache: stat.changed })
    }

    /// Where the folder of a state key is, if it is there.
    pub fn state_path(&self, state_key: &Digest) -> PathBuf {
        self.place("state").inside(state_key.to_hex()).to_path_buf()
    }

    /// The folder of a state key, made if it is not there: what an interrupted run goes on from.
    pub fn state_folder(&self, state_key: &Digest) -> Result<PathBuf> {
        let folder = self.place("state").inside(state_key.to_hex());
        self.with_lease(|lease| {
            lease.note(*state_key);
            folder.make_folder().map_err(|error| disk_trouble(error, "creating", &folder))
        })?;
        trust::check_files(&folder)?;
        Ok(folder.to_path_buf())
    }

    /// An empty folder of this process, removed when the cache is closed or by the next process after a kill.
    pub fn scratch_folder(&self) -> Result<PathBuf> {
        let folder = self.workspace()?.fresh();
        folder.make_new_folder().map_err(|error| disk_trouble(error, "creating", &folder))?;
        Ok(folder.to_path_buf())
    }

    /// Moves a file that made room for another out of the user's folder, to be kept for 30 days under a name that ends in `name`.
    /// Returns where it is now.
    pub(crate) fn displace(&self, place: impl Into<Place>, name: &str) -> Result<PathBuf> {
        let (place, folder) = (place.into(), self.place("displaced"));
        faults::pass("displace.folder")
            .and_then(|()| folder.make_folder())
            .map_err(|error| disk_trouble(error, "creating", &folder))?;
        let now = now();
        for number in 0u32.. {
            let stamp = format!("{}.{:09}.{number}", now.as_secs(), now.subsec_nanos());
            let alone = folder.inside(&stamp);
            // Together they could be too long for the disk.
            let is_long = stamp.len() + 1 + name.len() > LONGEST_NAME;
            if is_long {
                match alone.make_new_folder() {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    made => made.map_err(|error| disk_trouble(error, "creating", &alone))?,
                }
            }
            let target = if is_long { alone.inside(name) } else { folder.inside(format!("{stamp}.{name}")) };
            let moved = match faults::pass("displace.rename").and_then(|()| rename_new(&place, &target)) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => move_by_copy(&place, &target),
                moved => moved,
            };
            match moved {
                Ok(()) => return Ok(target.to_path_buf()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    if is_long && !faults::is_dead() {
                        // Nothing lies in it.
                        let _ = alone.remove_empty_folder();
                    }
                    return Err(disk_trouble(error, &format!("moving `{}` to", place.display()), &target));
                }
            }
        }
        unreachable!("there is always another number")
    }

    /// For a run: removes displaced files that are older than 30 days, by the clock and by the days on which pipelines ran.
    pub fn forget_old_displaced(&self) -> Result<()> {
        self.forget_old_displaced_at(now())
    }

    /// `now`: since 1970.
    fn forget_old_displaced_at(&self, now: Duration) -> Result<()> {
        let place = self.displaced_ages();
        let mut ages = Ages::read(&place);
        let displaced = list(&self.place("displaced"))?;
        let names = displaced.iter().filter_map(|path| path.file_name()?.to_str());
        if !(displaced.is_empty() && ages == Ages::default()) && ages.count(now.as_secs() / (24 * 60 * 60), names) {
            ages.write(&place)?;
        }
        for path in self.old_displaced_at(now)? {
            path.remove_all().map_err(|error| disk_trouble(error, "removing", &path))?;
        }
        Ok(())
    }

    /// Displaced files that a run would remove.
    pub(crate) fn old_displaced(&self) -> Result<Vec<Place>> {
        self.old_displaced_at(now())
    }

    fn old_displaced_at(&self, now: Duration) -> Result<Vec<Place>> {
        let ages = Ages::read(&self.displaced_ages());
        let mut old = list(&self.place("displaced"))?;
        old.retain(|path| {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
            let since = name.split('.').next().and_then(|since| since.parse().ok()).map(Duration::from_secs);
            ages.is_old(name) && since.is_some_and(|since| now.saturating_sub(since) > DISPLACED_FOR)
        });
        Ok(old)
    }

    fn displaced_ages(&self) -> Place {
        self.place("displaced-ages")
    }

    fn records(&self) -> Result<&RecordLog> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        let opened = RecordLog::open(self.place(""))?;
        // Of two threads one finds the log in place.
        Ok(self.records.get_or_init(|| opened))
    }

    fn workspace(&self) -> Result<&Workspace> {
        if let Some(workspace) = self.workspace.get() {
            return Ok(workspace);
        }
        let made = Workspace::create(self.place("tmp"))?;
        // Of two threads one finds its workspace in place, the other drops its own.
        Ok(self.workspace.get_or_init(|| made))
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Without it files are hashed again: not worth failing for at the very end.
        let _ = self.save_stat_index();
    }
}

/// Moves a file to another file system: the copy is durable before the original goes, and nothing is left of a copy that failed.
fn move_by_copy(from: &Place, to: &Place) -> io::Result<()> {
    let mut source = from.open(OFlags::RDONLY)?;
    let mut target = to.create_new(0o600)?;
    let copied = faults::pass("displace.copy")
        .and_then(|()| io::copy(&mut source, &mut target))
        .and_then(|_| target.set_permissions(source.metadata()?.permissions()))
        .and_then(|()| faults::pass("displace.sync"))
        .and_then(|()| target.sync_all())
        .and_then(|()| faults::pass("displace.remove"))
        .and_then(|()| from.remove());
    if copied.is_err() && !faults::is_dead() {
        // The original is there still.
        let _ = to.remove();
    }
    copied
}

/// What time it was, by the file system of the cache and by the system.
pub(crate) struct Clock {
    system: i64,
    device: u64,
    cache: i64,
}

impl Clock {
    /// In nanoseconds since 1970, for files on `device`.
    pub(crate) fn now(&self, device: u64) -> i64 {
        if device == self.device { self.cache } else { self.system }
    }
}
