//! The record log as a whole: what is in it, whether it is sound, and the log without what is not wanted any more. Unaware of why
//! a record is not wanted.

use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;

use crate::cache::atomic::Replacement;
use crate::cache::faults;
use crate::cache::file_lock::FileLock;
use crate::cache::record_log::frame::{FRAME_HEADER, Frame, LogFile};
use crate::cache::record_log::{HEADER_LENGTH, RecordLog, new_header, read_index};
use crate::cache::records::{Completeness, Record};
use crate::cache::trouble::disk_trouble;

/// What became of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub records: usize,
    /// By which the log is shorter.
    pub bytes: u64,
}

/// How sound the log is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHealth {
    /// Bytes in the middle that are no frames.
    pub damaged: Vec<Range<u64>>,
    /// Bytes at the end that are no whole frame: a writer died there.
    pub torn: u64,
    /// Whole frames that hold no record that this version can read.
    pub unreadable: usize,
    /// There is an index, and it is damaged or of another log.
    pub index_is_wrong: bool,
}

/// A part of the log, in order.
enum Piece {
    Frame { at: u64, frame: Frame },
    NoFrame(Range<u64>),
}

impl RecordLog {
    /// Shows every record that can be read, the oldest first, and gives the number of those that cannot.
    pub(crate) fn each(&self, see: &mut dyn FnMut(Completeness, Record)) -> Result<usize> {
        let mut unreadable = 0;
        let mut state = self.state();
        self.refresh(&mut state)?;
        let end = state.known;
        let walked = walk(&state.file, end, &mut |piece| {
            if let Piece::Frame { frame, .. } = piece {
                match Record::decode(frame.key, &frame.body) {
                    Ok(record) => see(frame.completeness, record),
                    Err(_) => unreadable += 1,
                }
            }
            Ok(())
        });
        walked.map_err(|error| disk_trouble(error, "reading", &self.place))?;
        Ok(unreadable)
    }

    /// Looks at every byte.
    pub(crate) fn inspect(&self) -> Result<LogHealth> {
        let mut state = self.state();
        // Held, so that a frame that is being written is not taken for a torn one.
        let _lock = FileLock::take(&self.lock)?;
        self.refresh(&mut state)?;
        let trouble = |error| disk_trouble(error, "reading", &self.place);
        let end = state.file.file.metadata().map_err(trouble)?.len();
        let mut health = LogHealth::default();
        let walked = walk(&state.file, end, &mut |piece| {
            match piece {
                Piece::Frame { frame, .. } => {
                    health.unreadable += usize::from(Record::decode(frame.key, &frame.body).is_err());
                }
                Piece::NoFrame(range) if range.end == end => health.torn = range.end - range.start,
                Piece::NoFrame(range) => health.damaged.push(range),
            }
            Ok(())
        });
        walked.map_err(trouble)?;
        health.index_is_wrong = self.index.is_there() && read_index(&self.index, &state.identity, &state.file).is_none();
        Ok(health)
    }

    /// Puts a log in the place of this one that holds only what `keep` wants, and of it only what is sound. Does nothing if that
    /// is all.
    pub(crate) fn retain(&self, keep: &mut dyn FnMut(Completeness, &Record) -> bool) -> Result<Dropped> {
        let mut state = self.state();
        let _lock = FileLock::take(&self.lock)?;
        self.refresh(&mut state)?;
        let trouble = |error| disk_trouble(error, "writing", &self.place);
        let metadata = state.file.file.metadata().map_err(trouble)?;
        let mut new = Replacement::begin(&self.place, metadata.permissions().mode()).map_err(trouble)?;
        let mut dropped = Dropped::default();
        let mut is_sound = true;
        let mut length = HEADER_LENGTH;
        let written = || -> io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 20, &new.file);
            out.write_all(&new_header(&self.place))?;
            walk(&state.file, metadata.len(), &mut |piece| {
                let (at, frame) = match piece {
                    Piece::Frame { at, frame } => (at, frame),
                    Piece::NoFrame(_) => {
                        is_sound = false;
                        return Ok(());
                    }
                };
                let record = Record::decode(frame.key, &frame.body);
                if record.is_ok_and(|record| keep(frame.completeness, &record)) {
                    let mut bytes = vec![0; FRAME_HEADER + frame.body.len()];
                    std::os::unix::fs::FileExt::read_exact_at(&state.file.file, &mut bytes, at)?;
                    length += bytes.len() as u64;
                    out.write_all(&bytes)
                } else {
                    dropped.records += 1;
                    Ok(())
                }
            })?;
            faults::pass("records.rewrite")?;
            out.flush()
        }();
        written.map_err(trouble)?;
        if is_sound && dropped.records == 0 {
            return Ok(dropped);
        }
        dropped.bytes = metadata.len().saturating_sub(length);
        new.file.sync_all().map_err(trouble)?;
        faults::pass("records.replace").and_then(|()| new.put_in_place()).map_err(trouble)?;
        self.place.sync_folder().map_err(trouble)?;
        // It is of the log that was: nobody believes it, and nobody needs it.
        let _ = self.index.remove();
        self.refresh(&mut state)?;
        Ok(dropped)
    }

    /// Writes an index that fits the log.
    pub(crate) fn renew_index(&self) -> Result<()> {
        let mut state = self.state();
        let _lock = FileLock::take(&self.lock)?;
        self.refresh(&mut state)?;
        self.write_index(&mut state)
    }
}

/// Shows the log piece by piece.
fn walk(log: &LogFile, end: u64, see: &mut dyn FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    let mut offset = HEADER_LENGTH;
    while offset < end {
        if let Some(frame) = log.read_frame(offset)? {
            let at = offset;
            offset += (FRAME_HEADER + frame.body.len()) as u64;
            see(Piece::Frame { at, frame })?;
        } else {
            let next = log.next_frame(offset + 1, end)?.unwrap_or(end);
            see(Piece::NoFrame(offset..next))?;
            offset = next;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};
    use crate::cache::records::tests::sample;

    fn log_of(numbers: Range<u64>) -> (tempfile::TempDir, RecordLog) {
        let folder = tempfile::tempdir().unwrap();
        let log = RecordLog::open(folder.path()).unwrap();
        let records: Vec<_> = numbers.map(|number| (Completeness::Complete, sample(number))).collect();
        log.append(&records).unwrap();
        (folder, log)
    }

    fn has(log: &RecordLog, number: u64) -> bool {
        !log.lookup(&sample(number).key, Completeness::Complete).unwrap().is_empty()
    }

    fn odd(_: Completeness, record: &Record) -> bool {
        record.ended.is_some()
    }

    #[test]
    fn a_log_that_was_cleaned_is_followed_by_all_who_have_it_open() {
        let (folder, log) = log_of(0..10);
        let (reader, writer) = (RecordLog::open(folder.path()).unwrap(), RecordLog::open(folder.path()).unwrap());
        let before = fs::metadata(folder.path().join("records")).unwrap().len();
        let dropped = log.retain(&mut odd).unwrap();
        let after = fs::metadata(folder.path().join("records")).unwrap().len();
        assert_eq!(dropped, Dropped { records: 5, bytes: before - after });
        writer.append(&[(Completeness::Complete, sample(100))]).unwrap();
        log.append(&[(Completeness::Complete, sample(101))]).unwrap();
        for log in [&log, &writer, &reader, &RecordLog::open(folder.path()).unwrap()] {
            assert!(has(log, 100) && has(log, 101), "what was appended afterwards");
            assert!((1..10).step_by(2).all(|number| has(log, number)));
        }
        assert!((0..10).step_by(2).all(|number| !has(&log, number) && !has(&writer, number)));
        assert_eq!(log.retain(&mut |_, _| true).unwrap(), Dropped::default());
    }

    #[test]
    fn an_index_of_the_log_that_was_leads_nobody_astray() {
        let (folder, log) = log_of(0..1000);
        log.renew_index().unwrap();
        let index = fs::read(folder.path().join("record-index")).unwrap();
        log.retain(&mut odd).unwrap();
        fs::write(folder.path().join("record-index"), index).unwrap();
        assert!(log.inspect().unwrap().index_is_wrong);
        let again = RecordLog::open(folder.path()).unwrap();
        assert!((0..1000).all(|number| has(&again, number) == (number % 2 == 1)));
        again.renew_index().unwrap();
        assert_eq!(again.inspect().unwrap(), LogHealth::default());
    }

    #[test]
    fn damage_is_told_from_a_torn_end_and_both_are_healed() {
        let (folder, log) = log_of(0..3);
        let path = folder.path().join("records");
        let frame = (FRAME_HEADER + sample(0).encode().len()) as u64;
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER_LENGTH as usize + 60] ^= 1;
        bytes.truncate(bytes.len() - 5);
        fs::write(&path, &bytes).unwrap();
        let log = {
            drop(log);
            RecordLog::open(folder.path()).unwrap()
        };
        let health = log.inspect().unwrap();
        assert_eq!(health.damaged.len(), 1);
        assert_eq!(health.damaged[0], HEADER_LENGTH..HEADER_LENGTH + frame);
        assert_eq!((health.torn, health.unreadable), (bytes.len() as u64 - HEADER_LENGTH - frame - frame_of(1), 0));
        log.retain(&mut |_, _| true).unwrap();
        assert_eq!(log.inspect().unwrap(), LogHealth::default());
        assert_eq!([has(&log, 0), has(&log, 1), has(&log, 2)], [false, true, false]);
    }

    fn frame_of(number: u64) -> u64 {
        (FRAME_HEADER + sample(number).encode().len()) as u64
    }

    #[test]
    fn a_full_disk_leaves_the_log_as_it_was() {
        let (folder, log) = log_of(0..4);
        let path = folder.path().join("records");
        let before = fs::read(&path).unwrap();
        for place in ["records.rewrite", "records.replace"] {
            arm(place, 0, Fault::DiskFull);
            let error = log.retain(&mut odd).unwrap_err();
            assert!(disarm());
            assert!(format!("{error:#}").contains("free space"), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        assert!(has(&log, 0));
    }

    #[test]
    fn every_record_is_seen_once_in_its_order() {
        let (_folder, log) = log_of(0..20);
        let mut seen = Vec::new();
        assert_eq!(log.each(&mut |completeness, record| seen.push((completeness, record))).unwrap(), 0);
        assert!(seen.iter().map(|(_, record)| record).eq(&(0..20).map(sample).collect::<Vec<_>>()));
        assert!(seen.iter().all(|(completeness, _)| *completeness == Completeness::Complete));
    }
}
