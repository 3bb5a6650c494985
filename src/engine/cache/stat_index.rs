//! Remembers what a file contained by what `stat` says of it, so that an unchanged file is not read again. May be deleted at any
//! time. Unaware of which files matter.
//!
//! A file that was written within the granularity of its file system's clock before it was hashed could be written once more and
//! show the same times. Such a file is not remembered: it is hashed again next time.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Result;
use rustix::fs::OFlags;

use crate::cache::atomic;
use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;
use crate::cache::place::Place;
use crate::cache::regular_file;

const HEADER: &[u8; 16] = b"loramill-stat 1\n";
/// Device, inode, size, modified, changed, size of the contents, digest of the contents.
const ENTRY: usize = 6 * 8 + 32;
/// A larger index is none: 2 million files.
const LARGEST: u64 = 160 << 20;
/// The kernel's clock for time stamps ticks 100 to 1000 times a second.
const FINE_TICK: i64 = 20_000_000;
/// Some file systems keep whole seconds, FAT every other one.
const COARSE_TICK: i64 = 2_100_000_000;

/// Opening a file takes as long as reading so many bytes of it, about.
const COST_OF_A_FILE: u64 = 16 << 10;

/// What `stat` says of a file. Equal values mean an unchanged file, unless it was written very recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    pub device: u64,
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// In nanoseconds since 1970.
    pub modified: i64,
    /// In nanoseconds since 1970: any change of contents or attributes. Programs cannot set it back.
    pub changed: i64,
}

impl FileStat {
    /// Of the file behind `path`, links followed.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether the file may have been written at `now` or so, so that its times say little.
    pub fn is_racy(&self, now: i64) -> bool {
        let whole_seconds = self.changed % 1_000_000_000 == 0;
        let tick = if whole_seconds { COARSE_TICK } else { FINE_TICK };
        self.changed.max(self.modified) > now - tick
    }

    /// Device, inode, size, modified, changed: 8 bytes each, little-endian.
    pub(crate) fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let words = [self.device, self.inode, self.size, self.modified as u64, self.changed as u64];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads what `to_bytes` gave.
    pub(crate) fn from_bytes(bytes: &[u8; 40]) -> Self {
        Self {
            device: word(bytes, 0),
            inode: word(bytes, 1),
            size: word(bytes, 2),
            modified: word(bytes, 3) as i64,
            changed: word(bytes, 4) as i64,
        }
    }
}

impl From<&rustix::fs::Stat> for FileStat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// Of a time that the kernel tells in two parts.
pub(crate) fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl From<&Metadata> for FileStat {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Contents by `stat`.
#[derive(Debug)]
pub(crate) struct StatIndex {
    place: Place,
    lock: Place,
    /// The entries of the file, sorted by device and inode; read when they are first asked for.
    loaded: OnceLock<Vec<u8>>,
    learned: Mutex<HashMap<(u64, u64), Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stat: FileStat,
    digest: Digest,
    size: u64,
}

impl StatIndex {
    /// A missing or damaged file is an empty index.
    pub(crate) fn open(place: impl Into<Place>) -> Self {
        let place = place.into();
        Self { lock: place.ending("lock"), place, loaded: OnceLock::new(), learned: Mutex::default() }
    }

    /// Whether the file holds an index that can be read.
    pub(crate) fn is_sound(place: &Place) -> bool {
        load(place).is_some()
    }

    /// Digest and size of the contents that were remembered.
    pub(crate) fn lookup(&self, stat: &FileStat) -> Option<(Digest, u64)> {
        let identity = (stat.device, stat.inode);
        let learned = self.learned().get(&identity).copied();
        let entry = learned.or_else(|| find(self.loaded(), identity))?;
        (entry.stat == *stat).then_some((entry.digest, entry.size))
    }

    /// Remembers what a file contained that had this `stat` before and after it was read. `now`: the time of its file system
    /// before it was read, in nanoseconds since 1970.
    pub(crate) fn learn(&self, stat: FileStat, now: i64, digest: Digest, size: u64) {
        if !stat.is_racy(now) {
            self.learned().insert((stat.device, stat.inode), Entry { stat, digest, size });
        }
    }

    /// Writes what was learned, beside what other processes learned meanwhile. Files that are read again in less time than the
    /// index is written are left to be read again.
    pub(crate) fn save(&self) -> Result<()> {
        let learned = self.learned().clone();
        let to_read: u64 = learned.values().map(|entry| entry.size + COST_OF_A_FILE).sum();
        let to_write = self.place.stat().map_or(0, |index| index.st_size as u64);
        if learned.is_empty() || to_read < to_write {
            return Ok(());
        }
        let _lock = FileLock::take(&self.lock)?;
        let present = load(&self.place).unwrap_or_default();
        let mut entries: Vec<Entry> = entries(&present).filter(|entry| !learned.contains_key(&identity(entry))).collect();
        entries.extend(learned.values());
        entries.sort_unstable_by_key(identity);
        let mut bytes = Vec::with_capacity(HEADER.len() + entries.len() * ENTRY + 32);
        bytes.extend_from_slice(HEADER);
        for entry in &entries {
            bytes.extend_from_slice(&entry.stat.to_bytes());
            bytes.extend_from_slice(&entry.size.to_le_bytes());
            bytes.extend_from_slice(entry.digest.as_bytes());
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        atomic::replace(&self.place, &bytes)?;
        self.learned().retain(|identity, entry| learned.get(identity).is_none_or(|saved| saved.stat != entry.stat));
        Ok(())
    }

    fn loaded(&self) -> &[u8] {
        self.loaded.get_or_init(|| load(&self.place).unwrap_or_default())
    }

    fn learned(&self) -> MutexGuard<'_, HashMap<(u64, u64), Entry>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(entry: &Entry) -> (u64, u64) {
    (entry.stat.device, entry.stat.inode)
}

fn load(place: &Place) -> Option<Vec<u8>> {
    let mut file = place.open(OFlags::RDONLY).ok()?;
    let size = file.metadata().ok()?.len();
    let mut header = [0; HEADER.len()];
    file.read_exact(&mut header).ok()?;
    let entries = size.checked_sub((header.len() + 32) as u64)?;
    if header != *HEADER || !entries.is_multiple_of(ENTRY as u64) {
        return None;
    }
    let mut bytes = regular_file::read_open(&file, LARGEST).ok()?;
    let (entries, checksum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let found = blake3::Hasher::new().update(&header).update(entries).finalize();
    if entries.len() % ENTRY != 0 || found.as_bytes() != checksum {
        return None;
    }
    bytes.truncate(bytes.len() - 32);
    Some(bytes)
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("8 bytes"))
}

fn parse(entry: &[u8]) -> Entry {
    Entry {
        stat: FileStat::from_bytes(entry[..40].try_into().expect("40 bytes")),
        size: word(entry, 5),
        digest: Digest::from_bytes(entry[48..].try_into().expect("32 bytes")),
    }
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = Entry> {
    bytes.chunks_exact(ENTRY).map(parse)
}

fn find(bytes: &[u8], wanted: (u64, u64)) -> Option<Entry> {
    let at = |index: usize| &bytes[index * ENTRY..(index + 1) * ENTRY];
    let (mut low, mut high) = (0, bytes.len() / ENTRY);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = (word(at(middle), 0), word(at(middle), 1));
        match found.cmp(&wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(parse(at(middle))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn stat(inode: u64) -> FileStat {
        FileStat { device: 1, inode, size: 10, modified: 5 * SECOND, changed: 5 * SECOND + 123_456_789 }
    }

    #[test]
    fn what_was_learned_is_found_by_the_next_process_unless_the_file_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        for inodes in [[1u64, 3], [2, 4]] {
            let index = StatIndex::open(path.clone());
            for inode in inodes {
                index.learn(stat(inode), 60 * SECOND, Digest::of(&inode.to_le_bytes()), inode);
                assert_eq!(index.lookup(&stat(inode)), Some((Digest::of(&inode.to_le_bytes()), inode)));
            }
            index.save().unwrap();
        }
        let index = StatIndex::open(path);
        for inode in 1..=4u64 {
            assert_eq!(index.lookup(&stat(inode)), Some((Digest::of(&inode.to_le_bytes()), inode)));
            for other in [
                FileStat { size: 11, ..stat(inode) },
                FileStat { modified: 1, ..stat(inode) },
                FileStat { changed: 1, ..stat(inode) },
                FileStat { device: 2, ..stat(inode) },
                FileStat { inode: inode + 4, ..stat(inode) },
            ] {
                assert_eq!(index.lookup(&other), None);
            }
        }
    }

    #[test]
    fn a_file_written_just_before_it_was_hashed_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let index = StatIndex::open(folder.path().join("index"));
        let digest = Digest::of(b"x");
        let fine = stat(1);
        index.learn(fine, fine.changed + FINE_TICK - 1, digest, 1);
        assert_eq!(index.lookup(&fine), None);
        index.learn(fine, fine.changed - SECOND, digest, 1);
        assert_eq!(index.lookup(&fine), None, "a clock that was set back");
        index.learn(fine, fine.changed + FINE_TICK, digest, 1);
        assert_eq!(index.lookup(&fine), Some((digest, 1)));

        let whole_seconds = FileStat { changed: 5 * SECOND, ..stat(2) };
        index.learn(whole_seconds, whole_seconds.changed + 2 * SECOND, digest, 1);
        assert_eq!(index.lookup(&whole_seconds), None);
        index.learn(whole_seconds, whole_seconds.changed + COARSE_TICK, digest, 1);
        assert_eq!(index.lookup(&whole_seconds), Some((digest, 1)));
    }

    #[test]
    fn an_index_cut_or_damaged_anywhere_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = StatIndex::open(path.clone());
        index.learn(stat(1), 60 * SECOND, Digest::of(b"x"), 1);
        index.save().unwrap();
        let whole = fs::read(&path).unwrap();
        let long = fs::File::create(&path).unwrap();
        long.set_len(LARGEST + 1).unwrap();
        assert_eq!(StatIndex::open(path.clone()).lookup(&stat(1)), None, "too long");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(StatIndex::open(path.clone()).lookup(&stat(1)), None, "cut at {length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 4;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(StatIndex::open(path.clone()).lookup(&stat(1)), None, "damaged at {length}");
        }
    }
}
