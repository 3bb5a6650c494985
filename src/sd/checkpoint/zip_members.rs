//! The members of a zip archive and where their bytes lie. Unaware of what they hold, and of other archives than those that programs read
//! in one way only: two members of one name, headers that contradict each other and members that share bytes are errors.
//!
//! Budget: the directory takes at most `MAX_DIRECTORY` bytes, of each member one header of at most 131 KB is read, and nothing is inflated.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::contents::Storage;
use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::zeros;

/// At 100 bytes a member, room for 160,000 tensors.
const MAX_DIRECTORY: u64 = 16 << 20;

/// The record that ends an archive, without its comment.
const END: u64 = 22;
const MAX_COMMENT: u64 = 0xffff;
/// What stands in front of it where 32 bits are too few: the place of a longer record.
const LOCATOR: u64 = 20;
const LONG_END: u64 = 56;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Bits of a header's flags: encrypted; sizes and checksum follow the bytes.
const ENCRYPTED: u16 = 1;
const SIZES_BEHIND: u16 = 8;

/// In place of a number of 32 bits, and of one of 16, that stands elsewhere in 64.
const ELSEWHERE: u64 = 0xffff_ffff;
const COUNT_ELSEWHERE: u64 = 0xffff;
const LONG_NUMBERS: u16 = 1;

/// Where the directory lies.
struct Directory {
    start: u64,
    length: u64,
    /// How many rows it is said to have.
    rows: u64,
}

/// A row of the directory.
struct Row {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    /// Of the header in front of its bytes.
    header: u64,
}

/// Every member of an archive of `length` bytes by its name.
///
/// # Errors
/// If the directory is damaged, a name comes twice, members overlap, a member is encrypted or compressed otherwise than by deflate, or its
/// two headers tell different things.
pub(super) fn members(file: &File, length: u64) -> Result<BTreeMap<String, Storage>> {
    let directory = find(file, length).context("the zip archive is damaged or cut short: download the file again")?;
    let mut bytes = zeros(directory.length as usize)?;
    file.read_exact_at(&mut bytes, directory.start)?;
    let mut rest = bytes.as_slice();
    let mut members: BTreeMap<String, Storage> = BTreeMap::new();
    let mut taken = Vec::new();
    while !rest.is_empty() {
        let row = row(&mut rest).context("the zip directory is damaged: download the file again")?;
        let name = String::from_utf8_lossy(&row.name).into_owned();
        let start = begin(file, &row).with_context(|| format!("member `{}`", shown(&name)))?;
        let end = start.checked_add(row.packed).filter(|end| *end <= directory.start).with_context(|| {
            format!("member `{}` ends behind the end of the file: it is cut short, download it again", shown(&name))
        })?;
        taken.push((row.header, end));
        let deflated = (row.method == DEFLATED).then_some(row.packed);
        // PyTorch writes 0 where it is told to reckon none (`torch.serialization.set_crc32_options`).
        let crc = Some(row.crc).filter(|crc| *crc != 0);
        let twice = members.insert(name, Storage { start, length: row.size, deflated, crc });
        ensure!(twice.is_none(), "member `{}` is there twice: programs differ in which they read", shown_bytes(&row.name));
    }
    ensure!(
        members.len() as u64 == directory.rows,
        "the zip archive has {} members and says that it has {}: programs differ in which they read",
        members.len(),
        directory.rows
    );
    taken.sort_unstable();
    let overlap = taken.windows(2).any(|pair| pair[1].0 < pair[0].1);
    ensure!(!overlap, "members of the zip archive overlap: it was made to mislead, or is damaged");
    Ok(members)
}

fn shown_bytes(name: &[u8]) -> String {
    shown(&String::from_utf8_lossy(name))
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: [u8; N] = bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes);
    Some(u64::from_le_bytes(wide))
}

fn short(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(number::<2>(bytes, at).context("it is cut short")? as u16)
}

fn int(bytes: &[u8], at: usize) -> Result<u64> {
    number::<4>(bytes, at).context("it is cut short")
}

fn long(bytes: &[u8], at: usize) -> Result<u64> {
    number::<8>(bytes, at).context("it is cut short")
}

/// Reads the record at the end, and the longer one if there is one.
fn find(file: &File, length: u64) -> Result<Directory> {
    let tail_at = length.saturating_sub(END + MAX_COMMENT + LOCATOR);
    let mut tail = vec![0; (length - tail_at) as usize];
    file.read_exact_at(&mut tail, tail_at)?;
    let is_end = |at: &usize| {
        let comment = number::<2>(&tail, at + 20);
        tail[*at..].starts_with(b"PK\x05\x06") && comment.is_some_and(|comment| *at as u64 + END + comment == tail.len() as u64)
    };
    let at = (0..tail.len().saturating_sub(END as usize - 1)).rev().find(is_end).context("it has no directory at its end")?;
    let (disk, other_disk) = (short(&tail, at + 4)?, short(&tail, at + 6)?);
    let mut directory =
        Directory { start: int(&tail, at + 16)?, length: int(&tail, at + 12)?, rows: u64::from(short(&tail, at + 10)?) };
    let mut end = tail_at + at as u64;
    if let Some(locator) = at.checked_sub(LOCATOR as usize).filter(|locator| tail[*locator..].starts_with(b"PK\x06\x07")) {
        let record_at = long(&tail, locator + 8)?;
        ensure!(record_at.checked_add(LONG_END).is_some_and(|record_end| record_end <= end), "its long directory is elsewhere");
        let mut record = [0; LONG_END as usize];
        file.read_exact_at(&mut record, record_at)?;
        ensure!(record.starts_with(b"PK\x06\x06"), "its long directory is not where it should be");
        let found = Directory { start: long(&record, 48)?, length: long(&record, 40)?, rows: long(&record, 32)? };
        let agree = |short: u64, long: u64| short == ELSEWHERE || short == long;
        ensure!(
            agree(directory.start, found.start)
                && agree(directory.length, found.length)
                && (directory.rows == COUNT_ELSEWHERE || directory.rows == found.rows),
            "its two records of the directory differ"
        );
        (directory, end) = (found, record_at);
    } else {
        ensure!(disk == 0 && other_disk == 0, "it is a part of several");
    }
    ensure!(
        directory.length <= MAX_DIRECTORY,
        "its directory takes {} bytes; at most {MAX_DIRECTORY} are read",
        directory.length
    );
    ensure!(directory.start.checked_add(directory.length) == Some(end), "its directory is not where it should be");
    Ok(directory)
}

/// Takes the first row off the directory.
fn row(rest: &mut &[u8]) -> Result<Row> {
    let bytes = *rest;
    ensure!(bytes.starts_with(b"PK\x01\x02"), "a row does not begin as one");
    let (name_length, extra_length) = (usize::from(short(bytes, 28)?), usize::from(short(bytes, 30)?));
    let name_end = 46 + name_length;
    let (extra_end, end) = (name_end + extra_length, name_end + extra_length + usize::from(short(bytes, 32)?));
    ensure!(end <= bytes.len(), "it is cut short");
    let mut row = Row {
        name: bytes[46..name_end].to_vec(),
        flags: short(bytes, 8)?,
        method: short(bytes, 10)?,
        crc: int(bytes, 16)? as u32,
        packed: int(bytes, 20)?,
        size: int(bytes, 24)?,
        header: int(bytes, 42)?,
    };
    let mut extra = &bytes[name_end..extra_end];
    while let (Some(kind), Some(length)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let end = 4 + length as usize;
        let field = extra.get(4..end).context("an extra field is cut short")?;
        if kind == u64::from(LONG_NUMBERS) {
            let mut at = 0;
            for number in [&mut row.size, &mut row.packed, &mut row.header] {
                if *number == ELSEWHERE {
                    *number = long(field, at)?;
                    at += 8;
                }
            }
        }
        extra = &extra[end..];
    }
    *rest = &bytes[end..];
    Ok(row)
}

/// Where a member's bytes begin, behind a header that says what the directory says.
fn begin(file: &File, row: &Row) -> Result<u64> {
    let mut header = [0; 30];
    file.read_exact_at(&mut header, row.header).context("it has no header: the file is damaged or cut short")?;
    ensure!(header.starts_with(b"PK\x03\x04"), "its header is not where the directory says: the file is damaged");
    let flags = short(&header, 6)?;
    ensure!((flags | row.flags) & ENCRYPTED == 0, "it is encrypted");
    let mut name = vec![0; usize::from(short(&header, 26)?)];
    file.read_exact_at(&mut name, row.header + 30).context("its header is cut short")?;
    let agrees = |at: usize, expected: u64| {
        let found = int(&header, at)?;
        // What follows the bytes is 0 here, and what needs 64 bits is among the extra fields.
        Ok::<_, anyhow::Error>(found == expected || found == ELSEWHERE || flags & SIZES_BEHIND != 0)
    };
    let is_same = name == row.name
        && short(&header, 8)? == row.method
        && agrees(14, u64::from(row.crc))?
        && agrees(18, row.packed)?
        && agrees(22, row.size)?;
    ensure!(is_same, "its header says other things than the directory: programs differ in which they believe");
    match row.method {
        STORED => ensure!(row.packed == row.size, "it is stored and has two sizes, {} and {}", row.packed, row.size),
        DEFLATED => {}
        method => bail!("it is compressed by method {method}, which torch cannot read either"),
    }
    Ok(row.header + 30 + name.len() as u64 + u64::from(short(&header, 28)?))
}
