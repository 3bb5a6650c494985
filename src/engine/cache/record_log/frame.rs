//! A frame of the record log: one record with a checksum of its own. Unaware of where frames lie and of who looks for them.
//!
//! `magic, length of the body, checksum, key, form, body`

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::cache::digest::Digest;
use crate::cache::records::{Completeness, Record};

pub(super) const MAGIC: [u8; 4] = [0xf5, b'R', b'e', b'c'];
/// Magic, length of the body, checksum, key, form.
pub(super) const FRAME_HEADER: usize = 4 + 4 + 8 + 32 + 1;
/// How much of a frame is read at first.
const FIRST_READ: usize = 2048;
/// A longer body cannot be: it guards the memory against damaged lengths.
const LONGEST_BODY: usize = 64 << 20;
/// So many bytes that are no frame are searched for the next one: a file that is made of holes has no end.
const SEARCHED: u64 = 64 << 20;
/// So much of a search is read at first, and so much at a time later.
const FIRST_SEARCH: usize = 4 << 10;
const SEARCH: usize = 1 << 20;
/// So many bytes of a log are read for nothing, all in all: each few bytes of it may claim to begin a long frame.
const MOST_WASTED: u64 = 256 << 20;

pub(super) struct Frame {
    pub(super) key: Digest,
    pub(super) completeness: Completeness,
    pub(super) body: Vec<u8>,
}

fn checksum(length: [u8; 4], rest: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length);
    for part in rest {
        hasher.update(part);
    }
    hasher.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes")
}

pub(super) fn push_frame(bytes: &mut Vec<u8>, completeness: Completeness, record: &Record) -> Result<()> {
    let body = record.encode();
    ensure!(body.len() <= LONGEST_BODY, "the record of key {} is too long: {} bytes", record.key.short(), body.len());
    let length = (body.len() as u32).to_le_bytes();
    let form = [match completeness {
        Completeness::Complete => 0u8,
        Completeness::Partial => 1,
    }];
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(length, &[record.key.as_bytes(), &form, &body]));
    bytes.extend_from_slice(record.key.as_bytes());
    bytes.extend_from_slice(&form);
    bytes.extend_from_slice(&body);
    Ok(())
}

/// A log, open.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    /// Bytes that were read and hold no frame.
    wasted: AtomicU64,
}

impl LogFile {
    pub(super) fn of(file: File) -> Self {
        Self { file, wasted: AtomicU64::new(0) }
    }

    /// The frames at these offsets, which lie near each other and in this order; those that are not whole and undamaged are left
    /// out.
    pub(super) fn read_near(&self, wanted: &[(u64, usize)]) -> io::Result<Vec<(usize, Frame)>> {
        let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else { return Ok(Vec::new()) };
        let mut buffer = vec![0u8; (last - first) as usize + FIRST_READ];
        let got = read_at_most(&self.file, &mut buffer, *first)?;
        let mut frames = Vec::with_capacity(wanted.len());
        for (offset, index) in wanted {
            let start = buffer[..got].get((offset - first) as usize..).unwrap_or_default();
            frames.extend(self.frame_at(*offset, start)?.map(|frame| (*index, frame)));
        }
        Ok(frames)
    }

    /// The frame at `offset`, or `None` if there is no whole and undamaged one.
    pub(super) fn read_frame(&self, offset: u64) -> io::Result<Option<Frame>> {
        // Most frames fit: one read then.
        let mut buffer = [0u8; FIRST_READ];
        let got = read_at_most(&self.file, &mut buffer, offset)?;
        self.frame_at(offset, &buffer[..got])
    }

    /// The frame at `offset`, of which the start was read.
    fn frame_at(&self, offset: u64, start: &[u8]) -> io::Result<Option<Frame>> {
        let Some((header, start)) = start.split_at_checked(FRAME_HEADER) else { return Ok(None) };
        let length: [u8; 4] = header[4..8].try_into().expect("4 bytes");
        let body_length = u32::from_le_bytes(length) as usize;
        if header[..4] != MAGIC || body_length > LONGEST_BODY {
            return Ok(None);
        }
        let completeness = match header[FRAME_HEADER - 1] {
            0 => Completeness::Complete,
            1 => Completeness::Partial,
            _ => return Ok(self.waste(FIRST_READ)),
        };
        let mut body = start[..start.len().min(body_length)].to_vec();
        if body.len() < body_length {
            let have = body.len();
            // A damaged length must not allocate more than the file has.
            if self.is_used_up() || self.file.metadata()?.len() < offset + (FRAME_HEADER + body_length) as u64 {
                return Ok(self.waste(FIRST_READ));
            }
            body.resize(body_length, 0);
            if read_at_most(&self.file, &mut body[have..], offset + (FRAME_HEADER + have) as u64)? < body_length - have {
                return Ok(self.waste(body_length));
            }
        }
        if checksum(length, &[&header[16..], &body]) != header[8..16] {
            return Ok(self.waste(FIRST_READ + body_length));
        }
        let key = Digest::from_bytes(header[16..48].try_into().expect("32 bytes"));
        Ok(Some(Frame { key, completeness, body }))
    }

    /// The first whole frame at or after `offset`.
    pub(super) fn next_frame(&self, mut offset: u64, end: u64) -> io::Result<Option<u64>> {
        let end = end.min(offset.saturating_add(SEARCHED));
        let mut buffer = vec![0u8; FIRST_SEARCH];
        while offset < end {
            let got = read_at_most(&self.file, &mut buffer, offset)?;
            self.waste::<()>(got);
            for start in (0..got.saturating_sub(MAGIC.len() - 1)).filter(|start| buffer[*start..].starts_with(&MAGIC)) {
                if self.is_used_up() {
                    return Ok(None);
                }
                if self.read_frame(offset + start as u64)?.is_some() {
                    return Ok(Some(offset + start as u64));
                }
            }
            if got < MAGIC.len() || self.is_used_up() {
                break;
            }
            // A magic may lie across two pieces.
            offset += (got - (MAGIC.len() - 1)) as u64;
            buffer.resize(SEARCH, 0);
        }
        Ok(None)
    }

    /// Nothing, for which so many bytes were read.
    fn waste<T>(&self, bytes: usize) -> Option<T> {
        self.wasted.fetch_add(bytes as u64, Ordering::Relaxed);
        None
    }

    /// Whether nothing is searched for any more, and no long frame looked at.
    fn is_used_up(&self) -> bool {
        self.wasted() >= MOST_WASTED
    }

    pub(super) fn wasted(&self) -> u64 {
        self.wasted.load(Ordering::Relaxed)
    }
}

pub(super) fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
