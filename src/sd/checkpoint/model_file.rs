//! A file of named tensors: safetensors, or PyTorch's `.ckpt`, `.pt`, `.pth`, `.bin`. Told apart by content, never by extension.
//!
//! A model file is hostile input. Nothing in it is executed; counts, sizes and bounds are checked before anything is allocated; tensors
//! are read by `pread` one at a time into their own buffer, so that a file cut short while it is read is an error and nothing worse.
//!
//! Budgets: a header or pickle takes 16 MiB, a tensor `MAX_TENSOR`, all tensors together `MAX_SHOWN` times their storages. Memory for what
//! a file's number decides is asked for, so that a lack of it is an error too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::engine::cache::regular_file::{self, Links};
use crate::sd::checkpoint::tensor::{TensorData, TensorInfo, room, zeros};
use crate::sd::checkpoint::{safetensors, torch};

/// An open model file.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    file: File,
    container: Container,
    contents: Contents,
    /// Of each storage, whether its bytes are known to have their checksum.
    checked: Vec<AtomicBool>,
}

/// How a file wraps its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Safetensors,
    /// PyTorch since 1.6: a zip archive with a pickle inside.
    TorchZip,
    /// PyTorch before 1.6: pickles, then raw storages.
    TorchLegacy,
}

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

/// The largest tensor that is read, 1 GiB. Stable Diffusion's largest takes 0.15.
const MAX_TENSOR: usize = 1 << 30;

/// How many times over all tensors together may show the bytes of their storages, or have them inflated, beyond `SHOWN_FREELY`. Tied
/// weights are there twice, parts of a joint projection some three times.
const MAX_SHOWN: u64 = 4;
const SHOWN_FREELY: u64 = 64 << 20;

/// What is read of a storage at a time where all of it is only looked through.
const PIECE: usize = 64 << 10;

/// The letters of a name or text that a message has room for.
const SHOWN_LETTERS: usize = 200;

/// A name or text out of a file for a message, of a length that a line has room for.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LETTERS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_string(),
    }
}

impl ModelFile {
    /// Opens a file and reads its table of tensors.
    ///
    /// # Errors
    /// If it is no model file, is cut short, or its table contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path).with_context(|| format!("reading the model file `{}`", path.display()))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        let mut file = regular_file::open(path, Links::Followed).map_err(|error| match error.kind() {
            ErrorKind::IsADirectory => anyhow!("this is a folder: name a model file"),
            _ => error.into(),
        })?;
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(64).read_to_end(&mut head)?;
        ensure!(!head.is_empty(), "the file is empty");
        if head.starts_with(b"version https://git-lfs") {
            bail!("this is a git-lfs pointer, not the model: run `git lfs pull`");
        }
        // JSON may begin with spaces.
        let begins_as_json = head.get(8..).and_then(|rest| rest.trim_ascii_start().first().or(rest.first()));
        let (container, contents) = if head.starts_with(b"PK\x03\x04") {
            (Container::TorchZip, torch::read_zip(&file, length)?)
        } else if head[0] == 0x80 && torch::is_legacy(&head) {
            (Container::TorchLegacy, torch::read_legacy(&file, length)?)
        } else if begins_as_json.is_some_and(|byte| *byte == b'{' || byte.is_ascii_whitespace()) {
            (Container::Safetensors, safetensors::read_header(&file, length)?)
        } else {
            bail!("neither safetensors nor a file written by `torch.save`: download or export the model again");
        };
        let checked = contents.storages.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { path: path.to_path_buf(), file, container, contents, checked })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the file from `start` on: of the one that was opened, whatever lies at its path now.
    pub fn bytes(&self, start: u64) -> impl Read + '_ {
        Section { file: &self.file, at: start, end: u64::MAX }
    }

    pub fn container(&self) -> Container {
        self.container
    }

    /// Type and shape of every tensor by its name in the file; the inside of `state_dict` where there is one. Tensors in nested
    /// dictionaries and lists have dotted names.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.contents.tensors
    }

    /// safetensors' `__metadata__`, or the texts and numbers that lie beside the tensors of a pickle.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// Tensors of kinds that are not read (sparse, quantised, types of other programs) by their names, each with the reason.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.contents.unreadable
    }

    /// What of the file is passed over, as a line for the user: objects of other programs that a pickle has beside its tensors.
    pub fn remark(&self) -> Option<String> {
        let strangers = &self.contents.strangers;
        let named = |(class, count): (&String, &usize)| match count {
            1 => format!("`{}`", shown(class)),
            _ => format!("`{}` ({count})", shown(class)),
        };
        let mut names: Vec<String> = strangers.iter().take(3).map(named).collect();
        if strangers.len() > names.len() {
            names.push(format!("{} more kinds", strangers.len() - names.len()));
        }
        let (total, path) = (strangers.values().sum::<usize>(), self.path.display());
        match total {
            0 => None,
            1 => Some(format!("one object of another program in `{path}` was passed over: {}", names.join(", "))),
            _ => Some(format!("{total} objects of other programs in `{path}` were passed over: {}", names.join(", "))),
        }
    }

    /// Type and shape of one tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.contents.tensors.get(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> anyhow::Error {
        let path = self.path.display();
        let reason = self.contents.unreadable.get(name);
        let name = shown(name);
        match reason {
            Some(reason) => anyhow!("tensor `{name}` of `{path}` cannot be read: {reason}"),
            None => anyhow!("`{path}` has no tensor `{name}`"),
        }
    }

    /// One tensor, contiguous.
    ///
    /// # Errors
    /// If there is no such tensor, it takes more than 1 GiB or than there is memory, its bytes are not those of the container's checksum, or
    /// the file was cut short since it was opened.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let info = self.info(name)?;
        let place = &self.contents.places[name];
        let bytes =
            self.read_bytes(info, place).with_context(|| format!("reading tensor `{name}` of `{}`", self.path.display()))?;
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    /// The values of one tensor in f32, row-major.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.read(name)?;
        tensor.to_f32().with_context(|| format!("reading tensor `{name}` of `{}`", self.path.display()))
    }

    fn read_bytes(&self, info: &TensorInfo, place: &Place) -> Result<Vec<u8>> {
        let size = info.dtype.size();
        let length = info.byte_length().context("its size overflows")?;
        ensure!(length <= MAX_TENSOR, "it takes {length} bytes, and a tensor may take {MAX_TENSOR}");
        let span = usize::try_from(place.span(info).context("its size overflows")?)?;
        let spanned = self.read_storage(place.storage, place.start, span)?;
        match &place.strides {
            None => Ok(spanned),
            Some(strides) => gather(&spanned, size, &info.shape, strides, length),
        }
    }

    /// Bytes of a storage; when it is first asked for, all of it is compared with its checksum.
    fn read_storage(&self, index: usize, start: u64, length: usize) -> Result<Vec<u8>> {
        let storage = &self.contents.storages[index];
        let is_checked = &self.checked[index];
        let is_whole = start == 0 && length as u64 == storage.length;
        if !is_whole && storage.crc.is_some() && !is_checked.load(Ordering::Relaxed) {
            storage.check(&self.file)?;
            is_checked.store(true, Ordering::Relaxed);
        }
        let mut bytes = zeros(length)?;
        if storage.deflated.is_none() {
            self.file.read_exact_at(&mut bytes, storage.start + start)?;
        } else {
            let mut inflated = storage.reader(&self.file);
            std::io::copy(&mut Read::by_ref(&mut inflated).take(start), &mut std::io::sink())?;
            inflated.read_exact(&mut bytes)?;
        }
        if let Some(crc) = storage.crc
            && is_whole
            && !is_checked.load(Ordering::Relaxed)
        {
            ensure!(crc_of(&bytes) == crc, DAMAGED);
            is_checked.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

pub(super) const DAMAGED: &str =
    "its bytes are not those that were written, by their checksum: the file is damaged, download it again";

fn crc_of(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

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
    fn span(&self, info: &TensorInfo) -> Option<u64> {
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

/// Elements of `size` bytes picked by strides, in row-major order.
fn gather(spanned: &[u8], size: usize, shape: &[usize], strides: &[u64], length: usize) -> Result<Vec<u8>> {
    let mut bytes = room(length)?;
    let mut index = vec![0usize; shape.len()];
    let mut element = 0usize;
    while bytes.len() < length {
        bytes.extend_from_slice(&spanned[element * size..][..size]);
        for side in (0..shape.len()).rev() {
            index[side] += 1;
            element += strides[side] as usize;
            if index[side] < shape[side] {
                break;
            }
            element -= strides[side] as usize * shape[side];
            index[side] = 0;
        }
    }
    Ok(bytes)
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
