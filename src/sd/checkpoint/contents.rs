//! What the reader of a container finds in a model file: its tensors, and where their bytes lie. Unaware of how a container writes that down.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};

use crate::sd::checkpoint::tensor::TensorInfo;

/// What a container's reader finds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Where each of `tensors` lies.
    pub(super) places: BTreeMap<String, Place>,
    pub(super) storages: Vec<Storage>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Things that look like a tensor and cannot be read, with the reason.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Objects of other programs that a pickle holds and nobody needs for weights: how many of each class.
    pub(super) strangers: BTreeMap<String, usize>,
}

/// Where a tensor's elements lie.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Index into `Contents::storages`.
    pub(super) storage: usize,
    /// Of the first element, in bytes from the start of the storage.
    pub(super) start: u64,
    /// In elements, one per side; `None` if the elements lie one after the other.
    pub(super) strides: Option<Vec<u64>>,
}

/// A run of bytes in the file.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) start: u64,
    /// In bytes, after inflating.
    pub(super) length: u64,
    /// The bytes it takes in the file, if it is deflated.
    pub(super) deflated: Option<u64>,
    /// The CRC-32 of its bytes after inflating, if the container has one.
    pub(super) crc: Option<u32>,
}

/// The elements that a view may show more than once, beyond those its storage has: room for an expanded index buffer, none for a bomb.
pub(super) const MAX_REPEATED_ELEMENTS: u64 = 1 << 20;

/// How many times over all tensors together may show the bytes of their storages, or have them inflated, beyond `SHOWN_FREELY`. Tied
/// weights are there twice, parts of a joint projection some three times.
const MAX_SHOWN: u64 = 4;
const SHOWN_FREELY: u64 = 64 << 20;

/// What is read of a storage at a time where all of it is only looked through.
const PIECE: usize = 64 << 10;

pub(super) const DAMAGED: &str =
    "its bytes are not those that were written, by their checksum: the file is damaged, download it again";

impl Storage {
    /// Its bytes, inflated if need be.
    pub(super) fn reader<'a>(&self, file: &'a File) -> Box<dyn Read + 'a> {
        let section = |length| Section { file, at: self.start, end: self.start + length };
        match self.deflated {
            None => Box::new(section(self.length)),
            Some(deflated) => Box::new(flate2::read::DeflateDecoder::new(section(deflated))),
        }
    }

    /// Looks through all of it, a piece at a time, and compares it with its checksum.
    pub(super) fn check(&self, file: &File) -> Result<()> {
        let Some(crc) = self.crc else { return Ok(()) };
        let (mut sum, mut reader) = (flate2::Crc::new(), self.reader(file).take(self.length));
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece)? {
                0 => break,
                read => sum.update(&piece[..read]),
            }
        }
        ensure!(sum.sum() == crc, DAMAGED);
        Ok(())
    }
}

impl Place {
    /// The bytes of its storage that a tensor is read from; `None` if they overflow.
    pub(super) fn span(&self, info: &TensorInfo) -> Option<u64> {
        let length = info.byte_length()? as u64;
        let Some(strides) = self.strides.as_ref().filter(|_| length > 0) else { return Some(length) };
        let mut furthest = 0u64;
        for (side, stride) in info.shape.iter().zip(strides) {
            furthest = furthest.checked_add((*side as u64).saturating_sub(1).checked_mul(*stride)?)?;
        }
        furthest.checked_add(1)?.checked_mul(info.dtype.size() as u64)
    }
}

impl Contents {
    /// That the tensors do not show their storages so often, or have to be inflated so often, that a small file makes much of itself.
    ///
    /// # Errors
    /// If reading all of them once takes more than `MAX_SHOWN` times their storages and `SHOWN_FREELY` bytes.
    pub(super) fn check_total(&self) -> Result<()> {
        let held: u64 = self.storages.iter().fold(0, |sum, storage| sum.saturating_add(storage.length));
        let mut shown = 0u64;
        for (name, info) in &self.tensors {
            let place = &self.places[name];
            let span = place.span(info).unwrap_or(u64::MAX);
            // What lies in front of it is inflated too.
            let before = self.storages[place.storage].deflated.map_or(0, |_| place.start);
            let cost = info.byte_length().map_or(u64::MAX, |length| length as u64).max(span.saturating_add(before));
            shown = shown.saturating_add(cost);
        }
        ensure!(
            shown <= held.saturating_mul(MAX_SHOWN).saturating_add(SHOWN_FREELY),
            "its tensors show the {held} bytes that it holds so often that they take {shown}: no model does that; save it again with a \
             storage for each tensor (`tensor.clone()`)"
        );
        Ok(())
    }
}

/// A part of a file as a reader of its own, by `pread`.
pub(super) struct Section<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
