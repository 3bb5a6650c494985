//! The record log: one file of frames, each with a checksum of its own, that grows only. Any number of processes append and read
//! at once. Unaware of objects.
//!
//! The log is a header and frames. What a kill or a power cut left at the end is cut off by the next
//! writer; a damaged frame in the middle is stepped over. `record-index` maps the first 8 bytes of a key to places in the log, so
//! that opening reads no frame that the index covers; it may be deleted at any time. Cleaning puts a new file in the place of the
//! log; whoever has the old one open notices by its inode.

mod frame;
mod upkeep;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use rayon::prelude::*;
use rustix::fs::OFlags;

use crate::cache::atomic;
use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::file_lock::FileLock;
use crate::cache::place::Place;
use crate::cache::record_log::frame::{FRAME_HEADER, Frame, LogFile, push_frame, read_at_most};
use crate::cache::records::{Completeness, Output, Record};
use crate::cache::stat_index::FileStat;
use crate::cache::trouble::disk_trouble;

pub use crate::cache::record_log::upkeep::{Dropped, LogHealth};

const HEADER: &[u8; 16] = b"loramill-log 1\n\0";
/// The header, then 16 bytes that tell this log from every other: an index names the log it belongs to.
const HEADER_LENGTH: u64 = 32;
/// Frames that begin no further apart than this are read together, ...
const NEAR: u64 = 8 << 10;
/// ... so many at most.
const READ_TOGETHER: usize = 256;
const INDEX_HEADER: &[u8; 16] = b"loramill-index1\n";
/// A larger index is none: 8 million records.
const LARGEST_INDEX: u64 = 128 << 20;
/// Read at a time.
const INDEX_PIECE: usize = 1 << 20;
/// The index is written anew when this many frames, and an eighth of all, are not in it, ...
const TAIL: usize = 4096;
/// ... and at the end, if at least this many are not.
const TAIL_AT_END: usize = 256;

/// Key prefix and offset of a frame.
type FramePlace = (u64, u64);

/// The log of one cache as this process has it open. Threads share it.
#[derive(Debug)]
pub(crate) struct RecordLog {
    place: Place,
    index: Place,
    lock: Place,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Arc<LogFile>,
    /// Device and inode of the file.
    place: (u64, u64),
    identity: [u8; 16],
    /// Sorted; from the index file.
    indexed: Vec<FramePlace>,
    /// Frames after those.
    tail: BTreeSet<FramePlace>,
    /// All frames before this offset are known; it is the end of a frame.
    known: u64,
    /// What `stat` said of the log when a search found no frame after `known`.
    fruitless: Option<FileStat>,
}

impl RecordLog {
    /// An error if a file lies in the place of the log that is none of this version.
    pub(crate) fn check(folder: impl Into<Place>) -> Result<()> {
        open_log(&folder.into().inside("records")).map(drop)
    }

    /// Opens the log in `folder`, which is made if it is not there.
    pub(crate) fn open(folder: impl Into<Place>) -> Result<Self> {
        let folder = folder.into();
        let [place, index, lock] = ["records", "record-index", "records.lock"].map(|name| folder.inside(name));
        let state = match State::open(&place, &index)? {
            Some(state) => state,
            None => {
                let _lock = FileLock::take(&lock)?;
                make_sure_of_log(&place)?;
                let opened = State::open(&place, &index)?;
                opened.with_context(|| format!("`{}` vanished while it was opened", place.display()))?
            }
        };
        let log = Self { place, index, lock, state: Mutex::new(state) };
        log.refresh(&mut log.state())?;
        Ok(log)
    }

    /// Every record of `key` of that completeness, in the order in which they were appended.
    pub(crate) fn lookup(&self, key: &Digest, completeness: Completeness) -> Result<Vec<Record>> {
        self.find(key, completeness, Record::decode)
    }

    /// The outputs of every complete record of `key`, in the order in which they were appended. Takes less than whole records.
    pub(crate) fn outputs(&self, key: &Digest) -> Result<Vec<Vec<Output>>> {
        self.find(key, Completeness::Complete, |_, body| Record::decode_outputs(body))
    }

    /// As `outputs`, for many keys at once: frames that lie side by side are read together.
    pub(crate) fn outputs_of(&self, keys: &[Digest]) -> Result<Vec<Vec<Vec<Output>>>> {
        let (file, mut wanted) = {
            let mut state = self.state();
            if keys.iter().any(|key| !state.has_places_of(key)) {
                self.refresh(&mut state)?;
            }
            let places =
                |(index, key): (usize, &Digest)| state.offsets(key).map(move |offset| (offset, index)).collect::<Vec<_>>();
            let wanted: Vec<(u64, usize)> = keys.iter().enumerate().flat_map(places).collect();
            (Arc::clone(&state.file), wanted)
        };
        wanted.sort_unstable();
        let near: Vec<&[(u64, usize)]> =
            wanted.chunk_by(|a, b| b.0 - a.0 <= NEAR).flat_map(|near| near.chunks(READ_TOGETHER)).collect();
        let read = near.into_par_iter().map(|near| file.read_near(near));
        let read: Vec<Vec<(usize, Frame)>> =
            read.collect::<io::Result<_>>().map_err(|error| disk_trouble(error, "reading", &self.place))?;
        let mut found: Vec<Vec<Vec<Output>>> = vec![Vec::new(); keys.len()];
        // A frame that is damaged, or of another key with the same first bytes, is no answer.
        let answers = |(index, frame): &(usize, Frame)| frame.key == keys[*index] && frame.completeness == Completeness::Complete;
        let decoded: Vec<(usize, Vec<Output>)> = read
            .into_par_iter()
            .flatten_iter()
            .filter(answers)
            .filter_map(|(index, frame)| Some((index, Record::decode_outputs(&frame.body).ok()?)))
            .collect();
        for (index, outputs) in decoded {
            if !found[index].contains(&outputs) {
                found[index].push(outputs);
            }
        }
        Ok(found)
    }

    fn find<T: PartialEq>(
        &self,
        key: &Digest,
        completeness: Completeness,
        decode: impl Fn(Digest, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        // Frames are read by many threads at once: only the places are looked up one at a time.
        let (file, places) = self.state().places_of(key);
        let found = self.read_places(&file, &places, key, completeness, &decode)?;
        if !found.is_empty() {
            return Ok(found);
        }
        let (file, places) = {
            let mut state = self.state();
            if !self.refresh(&mut state)? {
                return Ok(found);
            }
            state.places_of(key)
        };
        self.read_places(&file, &places, key, completeness, &decode)
    }

    fn read_places<T: PartialEq>(
        &self,
        file: &LogFile,
        places: &[u64],
        key: &Digest,
        completeness: Completeness,
        decode: impl Fn(Digest, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found: Vec<T> = Vec::new();
        for offset in places {
            let frame = file.read_frame(*offset).map_err(|error| disk_trouble(error, "reading", &self.place))?;
            // A frame that is damaged, or of another key with the same first bytes, is no answer.
            let Some(frame) = frame else { continue };
            if frame.key != *key || frame.completeness != completeness {
                continue;
            }
            match decode(frame.key, &frame.body) {
                Ok(record) if !found.contains(&record) => found.push(record),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Appends records in one write and makes them durable.
    pub(crate) fn append(&self, records: &[(Completeness, Record)]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut starts = Vec::with_capacity(records.len());
        for (completeness, record) in records {
            starts.push((prefix_of(&record.key), bytes.len() as u64));
            push_frame(&mut bytes, *completeness, record)?;
        }

        let mut state = self.state();
        let _lock = FileLock::take(&self.lock)?;
        make_sure_of_log(&self.place)?;
        // What comes after the last whole frame is cut off here: it is searched once more, now that nobody else writes.
        state.fruitless = None;
        self.refresh(&mut state)?;
        let end = state.known;
        let trouble = |error| disk_trouble(error, "appending records to", &self.place);
        if state.file.file.metadata().map_err(trouble)?.len() > end {
            // Only a writer that died leaves something after the last whole frame.
            state.file.file.set_len(end).map_err(trouble)?;
        }
        let written = faults::pass("records.append")
            .and_then(|()| (&state.file.file).write_all(&bytes))
            .and_then(|()| faults::pass("records.sync"))
            .and_then(|()| state.file.file.sync_data());
        if let Err(error) = written {
            if !faults::is_dead() {
                let _ = state.file.file.set_len(end);
            }
            return Err(trouble(error));
        }
        state.tail.extend(starts.into_iter().map(|(prefix, start)| (prefix, end + start)));
        state.known = end + bytes.len() as u64;
        if state.tail.len() >= TAIL.max(state.indexed.len() / 8) {
            self.write_index(&mut state)?;
        }
        Ok(())
    }

    /// Learns what other processes appended, or that they put another file in the place of the log; true if there was something.
    fn refresh(&self, state: &mut State) -> Result<bool> {
        let trouble = |error| disk_trouble(error, "reading", &self.place);
        let named = match self.place.stat() {
            Ok(named) => Some(named),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(trouble(error)),
        };
        let is_another = named.as_ref().is_some_and(|named| (named.st_dev, named.st_ino) != state.place);
        let mut followed = false;
        if is_another && let Some(opened) = State::open(&self.place, &self.index)? {
            *state = opened;
            followed = true;
        }
        let stat = match named.filter(|_| !is_another) {
            Some(named) => FileStat::from(&named),
            None => FileStat::from(&state.file.file.metadata().map_err(trouble)?),
        };
        if stat.size <= state.known || state.fruitless == Some(stat) {
            return Ok(followed);
        }
        let before = state.known;
        let mut offset = state.known;
        while offset < stat.size {
            match state.file.read_frame(offset).map_err(trouble)? {
                Some(frame) => {
                    state.tail.insert((prefix_of(&frame.key), offset));
                    offset += (FRAME_HEADER + frame.body.len()) as u64;
                    state.known = offset;
                }
                None => match state.file.next_frame(offset + 1, stat.size).map_err(trouble)? {
                    Some(next) => offset = next,
                    None => {
                        state.fruitless = Some(stat);
                        break;
                    }
                },
            }
        }
        Ok(followed || state.known > before)
    }

    /// Writes the index; the caller holds the lock.
    fn write_index(&self, state: &mut State) -> Result<()> {
        state.indexed.extend(std::mem::take(&mut state.tail));
        state.indexed.sort_unstable();
        let mut bytes = Vec::with_capacity(72 + state.indexed.len() * 16);
        bytes.extend_from_slice(INDEX_HEADER);
        bytes.extend_from_slice(&state.identity);
        bytes.extend_from_slice(&state.known.to_le_bytes());
        for (prefix, offset) in &state.indexed {
            bytes.extend_from_slice(&prefix.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        atomic::replace(&self.index, &bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RecordLog {
    fn drop(&mut self) {
        let mut state = self.state();
        if state.tail.len() < TAIL_AT_END {
            return;
        }
        // The index is a convenience: without it the next one reads more of the log.
        if let Ok(_lock) = FileLock::take(&self.lock) {
            let _ = self.refresh(&mut state).and_then(|_| self.write_index(&mut state));
        }
    }
}

impl State {
    /// `None` if there is no log, or one that was cut within its header.
    fn open(log: &Place, index: &Place) -> Result<Option<Self>> {
        let Some((file, identity)) = open_log(log)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| disk_trouble(error, "reading", log))?;
        let place = (metadata.dev(), metadata.ino());
        let file = LogFile::of(file);
        let (indexed, known) = read_index(index, &identity, &file).unwrap_or((Vec::new(), HEADER_LENGTH));
        Ok(Some(Self { file: Arc::new(file), place, identity, indexed, tail: BTreeSet::new(), known, fruitless: None }))
    }

    /// The log, and where in it the frames lie that may be of `key`.
    fn places_of(&self, key: &Digest) -> (Arc<LogFile>, Vec<u64>) {
        (Arc::clone(&self.file), self.offsets(key).collect())
    }

    fn has_places_of(&self, key: &Digest) -> bool {
        self.offsets(key).next().is_some()
    }

    fn offsets(&self, key: &Digest) -> impl Iterator<Item = u64> {
        let prefix = prefix_of(key);
        let from = self.indexed.partition_point(|(p, _)| *p < prefix);
        let indexed = self.indexed[from..].iter().take_while(move |(p, _)| *p == prefix);
        let tail = self.tail.range((prefix, 0)..=(prefix, u64::MAX));
        indexed.chain(tail).map(|(_, offset)| *offset)
    }
}

fn prefix_of(key: &Digest) -> u64 {
    u64::from_be_bytes(key.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// The log and its identity; `None` if it is not there or was cut within its header.
fn open_log(path: &Place) -> Result<Option<(File, [u8; 16])>> {
    let file = match path.open(OFlags::RDWR | OFlags::APPEND) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk_trouble(error, "opening", path)),
    };
    let mut header = [0u8; HEADER_LENGTH as usize];
    let got = read_at_most(&file, &mut header, 0).map_err(|error| disk_trouble(error, "reading", path))?;
    if got < header.len() {
        return Ok(None);
    }
    ensure!(
        header.starts_with(HEADER),
        "`{}` is not a record log of this version of loramill: move it away, or name another cache with `--cache DIR`",
        path.display()
    );
    Ok(Some((file, header[16..].try_into().expect("16 bytes"))))
}

/// Makes an empty log where there is none; the caller holds the lock.
fn make_sure_of_log(path: &Place) -> Result<()> {
    let is_there = path.stat().is_ok_and(|log| log.st_size as u64 >= HEADER_LENGTH);
    if is_there { Ok(()) } else { start_log(path) }
}

/// Makes an empty log; the caller holds the lock.
fn start_log(path: &Place) -> Result<()> {
    atomic::replace(path, &new_header(path))
}

/// With an identity that no other log has.
fn new_header(path: &Place) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let identity = Digest::of(format!("{now} {} {}", std::process::id(), path.display()).as_bytes());
    let mut header = HEADER.to_vec();
    header.extend_from_slice(&identity.as_bytes()[..16]);
    header
}

/// The places and how much of the log they cover; `None` if the index is missing, damaged, or of another log or another state of
/// this one, as when an older log was put back.
fn read_index(path: &Place, identity: &[u8; 16], log: &LogFile) -> Option<(Vec<FramePlace>, u64)> {
    let mut index = path.open(OFlags::RDONLY).ok()?;
    let size = index.metadata().ok().map(|metadata| metadata.len()).filter(|size| *size <= LARGEST_INDEX)?;
    let mut header = [0; 40];
    index.read_exact(&mut header).ok()?;
    let mut left = usize::try_from(size).ok()?.checked_sub(header.len() + 32)?;
    let known = u64::from_le_bytes(header[32..].try_into().ok()?);
    let is_of_log = &header[..16] == INDEX_HEADER && &header[16..32] == identity && log.file.metadata().ok()?.size() >= known;
    if !is_of_log || !left.is_multiple_of(16) {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let mut places: Vec<FramePlace> = Vec::with_capacity(left / 16);
    let mut buffer = vec![0; INDEX_PIECE.min(left)];
    while left > 0 {
        let piece = &mut buffer[..INDEX_PIECE.min(left)];
        index.read_exact(piece).ok()?;
        hasher.update(piece);
        places.extend(piece.chunks_exact(16).map(|place| (number(&place[..8]), number(&place[8..]))));
        left -= piece.len();
    }
    let mut checksum = [0; 32];
    index.read_exact(&mut checksum).ok()?;
    if hasher.finalize() != checksum {
        return None;
    }
    // What follows `known` is cut off unless it is a frame: it must be the end of one.
    let end = match places.iter().map(|(_, offset)| *offset).max() {
        Some(last) => last.checked_add((FRAME_HEADER + log.read_frame(last).ok()??.body.len()) as u64)?,
        None => HEADER_LENGTH,
    };
    (end == known).then_some((places, known))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};
    use crate::cache::records::tests::sample;

    fn complete(number: u64) -> (Completeness, Record) {
        (Completeness::Complete, sample(number))
    }

    fn found(log: &RecordLog, number: u64) -> bool {
        let records = log.lookup(&sample(number).key, Completeness::Complete).unwrap();
        assert!(records.is_empty() || records == [sample(number)]);
        !records.is_empty()
    }

    #[test]
    fn records_are_found_by_the_same_and_by_other_processes() {
        let folder = tempfile::tempdir().unwrap();
        let writer = RecordLog::open(folder.path()).unwrap();
        let early = RecordLog::open(folder.path()).unwrap();
        writer.append(&[complete(1), complete(2)]).unwrap();
        writer.append(&[(Completeness::Partial, sample(3))]).unwrap();
        for log in [&writer, &early, &RecordLog::open(folder.path()).unwrap()] {
            assert!(found(log, 1) && found(log, 2) && !found(log, 3) && !found(log, 4));
            assert_eq!(log.lookup(&sample(3).key, Completeness::Partial).unwrap(), [sample(3)]);
        }
    }

    #[test]
    fn several_results_of_a_key_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        let other = Record { seconds: 9.0, ..sample(1) };
        log.append(&[complete(1), (Completeness::Complete, other.clone()), complete(1)]).unwrap();
        assert_eq!(log.lookup(&sample(1).key, Completeness::Complete).unwrap(), [sample(1), other]);
    }

    #[test]
    fn a_log_cut_anywhere_keeps_its_whole_frames_and_takes_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(1)]).unwrap();
        let first = fs::metadata(&path).unwrap().len();
        log.append(&[complete(2)]).unwrap();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let log = RecordLog::open(folder.path()).unwrap();
            assert_eq!(found(&log, 1), length as u64 >= first, "cut at {length}");
            assert!(!found(&log, 2));
            log.append(&[complete(3)]).unwrap();
            drop(log);
            let log = RecordLog::open(folder.path()).unwrap();
            assert_eq!(found(&log, 1), length as u64 >= first, "cut at {length}, then written");
            assert!(found(&log, 3), "cut at {length}");
        }
    }

    #[test]
    fn a_damaged_frame_is_stepped_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(1)]).unwrap();
        let first = fs::metadata(&path).unwrap().len();
        log.append(&[complete(2)]).unwrap();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for place in HEADER_LENGTH..first {
            let mut damaged = whole.clone();
            damaged[place as usize] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let log = RecordLog::open(folder.path()).unwrap();
            assert!(!found(&log, 1) && found(&log, 2), "damaged at {place}");
        }
    }

    #[test]
    fn frames_that_claim_what_is_not_there_are_searched_once_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(1)]).unwrap();
        drop(log);
        let mut fake = Vec::new();
        push_frame(&mut fake, Completeness::Complete, &sample(2)).unwrap();
        fake.truncate(FRAME_HEADER);
        fake[4..8].copy_from_slice(&(60u32 << 20).to_le_bytes());
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&fake.repeat(60)).unwrap();
        file.set_len(70 << 20).unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        let searched = log.state().file.wasted();
        assert!((256 << 20..400 << 20).contains(&searched), "{searched}");
        assert!(found(&log, 1) && (2..50).all(|number| !found(&log, number)));
        assert_eq!(log.state().file.wasted(), searched);
        log.append(&[complete(2)]).unwrap();
        for log in [&log, &RecordLog::open(folder.path()).unwrap()] {
            assert!(found(log, 1) && found(log, 2));
        }
        assert!(fs::metadata(&path).unwrap().len() < 1 << 20, "what is no frame is gone");
    }

    #[test]
    fn the_index_spares_reading_the_log_and_may_be_wrong_or_missing() {
        let folder = tempfile::tempdir().unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        let records: Vec<_> = (0..TAIL_AT_END as u64).map(complete).collect();
        log.append(&records).unwrap();
        drop(log);
        let log = RecordLog::open(folder.path()).unwrap();
        let state = log.state();
        assert_eq!((state.indexed.len(), state.tail.len()), (TAIL_AT_END, 0));
        drop(state);
        log.append(&[complete(1000)]).unwrap();
        drop(log);
        let index = folder.path().join("record-index");
        let whole = fs::read(&index).unwrap();
        let mut damaged = whole.clone();
        damaged[80] ^= 1;
        for bytes in [whole.clone(), damaged, whole[..100].to_vec(), Vec::new()] {
            fs::write(&index, bytes).unwrap();
            let log = RecordLog::open(folder.path()).unwrap();
            assert!((0..TAIL_AT_END as u64).chain([1000]).all(|number| found(&log, number)));
            assert!(!found(&log, 1001));
        }
    }

    #[test]
    fn an_index_of_another_log_is_not_believed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (folder, first) in [(&one, 0), (&other, 1000)] {
            let records: Vec<_> = (first..first + TAIL_AT_END as u64).map(complete).collect();
            RecordLog::open(folder.path()).unwrap().append(&records).unwrap();
        }
        fs::copy(one.path().join("record-index"), other.path().join("record-index")).unwrap();
        let log = RecordLog::open(other.path()).unwrap();
        assert!(found(&log, 1000) && !found(&log, 0));
    }

    #[test]
    fn an_index_of_a_log_that_was_another_then_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(0)]).unwrap();
        let older = fs::read(&path).unwrap();
        log.append(&(1000..1000 + TAIL_AT_END as u64).map(complete).collect::<Vec<_>>()).unwrap();
        let covered = fs::metadata(&path).unwrap().len();
        drop(log);
        assert!(folder.path().join("record-index").exists());
        // An older log is put back and grows beyond what the index covers.
        fs::write(&path, &older).unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        let mut number = 0;
        while fs::metadata(&path).unwrap().len() <= covered {
            number += 1;
            let long = Record { ended: Some("x".repeat(2000)), ..sample(number) };
            log.append(&[(Completeness::Complete, long)]).unwrap();
        }
        assert!((number as usize) < TAIL_AT_END, "the index is not written anew");
        drop(log);
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(5000)]).unwrap();
        let is_here = |number: u64| !log.lookup(&sample(number).key, Completeness::Complete).unwrap().is_empty();
        assert!((0..=number).all(is_here) && is_here(5000));
    }

    #[test]
    fn eight_writers_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for writer in 0..8u64 {
                let folder = folder.path();
                scope.spawn(move || {
                    let log = RecordLog::open(folder).unwrap();
                    for round in 0..20 {
                        log.append(&[complete(writer * 1000 + round), complete(writer * 1000 + 500 + round)]).unwrap();
                    }
                });
            }
        });
        let log = RecordLog::open(folder.path()).unwrap();
        for writer in 0..8u64 {
            for round in 0..20 {
                assert!(found(&log, writer * 1000 + round) && found(&log, writer * 1000 + 500 + round));
            }
        }
    }

    #[test]
    fn eight_processes_lose_nothing_though_some_are_killed() {
        const FOLDER: &str = "LORAMILL_TEST_LOG";
        const WRITER: &str = "LORAMILL_TEST_WRITER";
        const RECORDS: u64 = 200;
        let progress = |folder: &Path, writer: u64| folder.join(format!("progress-{writer}"));
        let number = |writer: u64, round: u64| writer * 100_000 + round;

        // In a child: this very test, with a folder.
        if let Some(folder) = std::env::var_os(FOLDER) {
            let writer = std::env::var(WRITER).unwrap().parse().unwrap();
            let log = RecordLog::open(Path::new(&folder)).unwrap();
            // A byte for each: a kill takes none away again.
            let mut progress = fs::File::create(progress(Path::new(&folder), writer)).unwrap();
            for round in 0..RECORDS {
                log.append(&[complete(number(writer, round))]).unwrap();
                progress.write_all(&[0]).unwrap();
            }
            return;
        }

        let folder = tempfile::tempdir().unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::eight_processes_lose_nothing_though_some_are_killed");
        let spawn = |writer: u64| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", &name, "--test-threads=1"]).env(FOLDER, folder.path()).env(WRITER, writer.to_string());
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let mut children: Vec<_> = (0..8).map(|writer| (writer, spawn(writer))).collect();
        let done = |writer| fs::metadata(progress(folder.path(), writer)).map_or(0, |metadata| metadata.len());
        for (writer, child) in children.iter_mut().filter(|(writer, _)| writer % 2 == 0) {
            while done(*writer) < 10 + 10 * *writer && child.try_wait().unwrap().is_none() {
                thread::yield_now();
            }
            child.kill().unwrap();
        }
        for (writer, child) in &mut children {
            let ended = child.wait().unwrap();
            assert!(ended.success() || *writer % 2 == 0);
        }
        let log = RecordLog::open(folder.path()).unwrap();
        for writer in 0..8 {
            let written = if writer % 2 == 0 { done(writer) } else { RECORDS };
            assert!(written >= 10, "writer {writer} wrote {written}");
            assert!((0..written).all(|round| found(&log, number(writer, round))), "writer {writer}");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_log_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        log.append(&[complete(1)]).unwrap();
        let before = fs::read(folder.path().join("records")).unwrap();
        for place in ["records.append", "records.sync"] {
            arm(place, 0, Fault::DiskFull);
            let error = log.append(&[complete(2)]).unwrap_err();
            assert!(disarm());
            assert!(format!("{error:#}").contains("free space"), "{error:#}");
            assert_eq!(fs::read(folder.path().join("records")).unwrap(), before);
        }
        log.append(&[complete(3)]).unwrap();
        assert!(found(&log, 1) && !found(&log, 2) && found(&log, 3));
    }
}
