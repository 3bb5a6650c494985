//! A frame of the record log: one record with a checksum of its own. Unaware of where frames lie and of who looks for them.
//!
//! `magic, length of the body, checksum, key, form, body`

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};

use crate::cache::digest::Digest;
use crate::cache::records::{Completeness, Record};

pub(super) const MAGIC: [u8; 4] = [0xf5, b'R', b'e', b'c'];
/// Magic, length of the body, checksum, key, form.
pub(super) const FRAME_HEADER: usize = 4 + 4 + 8 + 32 + 1;
/// How much of a frame is read at first.
const FIRST_READ: usize = 2048;
/// A longer body cannot be: it guards the memory against damaged lengths.
const LONGEST_BODY: usize = 256 << 20;
/// So many bytes that are no frame are searched for the next one: a file that is made of holes has no end.
const SEARCHED: u64 = 64 << 20;

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

/// The frames at these offsets, which lie near each other and in this order; those that are not whole and undamaged are left out.
pub(super) fn read_near(file: &File, wanted: &[(u64, usize)]) -> io::Result<Vec<(usize, Frame)>> {
    let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else { return Ok(Vec::new()) };
    let mut buffer = vec![0u8; (last - first) as usize + FIRST_READ];
    let got = read_at_most(file, &mut buffer, *first)?;
    let mut frames = Vec::with_capacity(wanted.len());
    for (offset, index) in wanted {
        let start = buffer[..got].get((offset - first) as usize..).unwrap_or_default();
        frames.extend(frame_at(file, *offset, start)?.map(|frame| (*index, frame)));
    }
    Ok(frames)
}

/// The frame at `offset`, or `None` if there is no whole and undamaged one.
pub(super) fn read_frame(file: &File, offset: u64) -> io::Result<Option<Frame>> {
    // Most frames fit: one read then.
    let mut buffer = [0u8; FIRST_READ];
    let got = read_at_most(file, &mut buffer, offset)?;
    frame_at(file, offset, &buffer[..got])
}

/// The frame at `offset`, of which the start was read.
fn frame_at(file: &File, offset: u64, start: &[u8]) -> io::Result<Option<Frame>> {
    let Some((header, start)) = start.split_at_checked(FRAME_HEADER) else { return Ok(None) };
    let length: [u8; 4] = header[4..8].try_into().expect("4 bytes");
    let body_length = u32::from_le_bytes(length) as usize;
    if header[..4] != MAGIC || body_length > LONGEST_BODY {
        return Ok(None);
    }
    let mut body = start[..start.len().min(body_length)].to_vec();
    if body.len() < body_length {
        let have = body.len();
        // A damaged length must not allocate more than the file has.
        if file.metadata()?.len() < offset + (FRAME_HEADER + body_length) as u64 {
            return Ok(None);
        }
        body.resize(body_length, 0);
        if read_at_most(file, &mut body[have..], offset + (FRAME_HEADER + have) as u64)? < body_length - have {
            return Ok(None);
        }
    }
    let completeness = match header[FRAME_HEADER - 1] {
        0 => Completeness::Complete,
        1 => Completeness::Partial,
        _ => return Ok(None),
    };
    if checksum(length, &[&header[16..], &body]) != header[8..16] {
        return Ok(None);
    }
    let key = Digest::from_bytes(header[16..48].try_into().expect("32 bytes"));
    Ok(Some(Frame { key, completeness, body }))
}

/// The first whole frame at or after `offset`.
pub(super) fn next_frame(file: &File, mut offset: u64, end: u64) -> io::Result<Option<u64>> {
    let end = end.min(offset.saturating_add(SEARCHED));
    let mut buffer = vec![0u8; 1 << 20];
    while offset < end {
        let got = read_at_most(file, &mut buffer, offset)?;
        for start in (0..got.saturating_sub(MAGIC.len() - 1)).filter(|start| buffer[*start..].starts_with(&MAGIC)) {
            if read_frame(file, offset + start as u64)?.is_some() {
                return Ok(Some(offset + start as u64));
            }
        }
        if got < MAGIC.len() {
            break;
        }
        // A magic may lie across two pieces.
        offset += (got - (MAGIC.len() - 1)) as u64;
    }
    Ok(None)
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
