//! A file of named tensors: safetensors, or PyTorch's `.ckpt`, `.pt`, `.pth`, `.bin`. Told apart by content, never by extension.
//!
//! A model file is hostile input. Nothing in it is executed; counts, sizes and bounds are checked before anything is allocated; tensors
//! are read by `pread` one at a time into their own buffer, so that a file cut short while it is read is an error and nothing worse.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::checkpoint::tensor::{TensorData, TensorInfo};
use crate::checkpoint::{safetensors, torch};

/// An open model file.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    file: File,
    container: Container,
    contents: Contents,
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
}

/// The elements that a view may show more than once, beyond those its storage has: room for an expanded index buffer, none for a bomb.
pub(super) const MAX_REPEATED_ELEMENTS: u64 = 1 << 20;

impl ModelFile {
    /// Opens a file and reads its table of tensors.
    ///
    /// # Errors
    /// If it is no model file, is cut short, or its table contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path).with_context(|| format!("reading the model file `{}`", path.display()))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(64).read_to_end(&mut head)?;
        ensure!(!head.is_empty(), "the file is empty");
        if head.starts_with(b"version https://git-lfs") {
            bail!("this is a git-lfs pointer, not the model: run `git lfs pull`");
        }
        let (container, contents) = if head.starts_with(b"PK\x03\x04") {
            (Container::TorchZip, torch::read_zip(&file, length)?)
        } else if head[0] == 0x80 && torch::is_legacy(&head) {
            (Container::TorchLegacy, torch::read_legacy(&file, length)?)
        } else if head.get(8) == Some(&b'{') {
            (Container::Safetensors, safetensors::read_header(&file, length)?)
        } else {
            bail!("neither safetensors nor a file written by `torch.save`: download or export the model again");
        };
        Ok(Self { path: path.to_path_buf(), file, container, contents })
    }

    pub fn path(&self) -> &Path {
        &self.path
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

    /// Type and shape of one tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.contents.tensors.get(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> anyhow::Error {
        let path = self.path.display();
        match self.contents.unreadable.get(name) {
            Some(reason) => anyhow!("tensor `{name}` of `{path}` cannot be read: {reason}"),
            None => anyhow!("`{path}` has no tensor `{name}`"),
        }
    }

    /// One tensor, contiguous.
    ///
    /// # Errors
    /// If there is no such tensor, or the file was cut short since it was opened.
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
        let storage = &self.contents.storages[place.storage];
        let size = info.dtype.size();
        let length = info.byte_length().context("its size overflows")?;
        let Some(strides) = &place.strides else {
            return self.read_storage(storage, place.start, length);
        };
        let furthest: u64 = info.shape.iter().zip(strides).map(|(side, stride)| (*side as u64).saturating_sub(1) * stride).sum();
        let span = if length == 0 { 0 } else { (furthest as usize + 1) * size };
        let spanned = self.read_storage(storage, place.start, span)?;
        Ok(gather(&spanned, size, &info.shape, strides, length))
    }

    fn read_storage(&self, storage: &Storage, start: u64, length: usize) -> Result<Vec<u8>> {
        let Some(deflated) = storage.deflated else {
            let mut bytes = vec![0; length];
            self.file.read_exact_at(&mut bytes, storage.start + start)?;
            return Ok(bytes);
        };
        let raw = Section { file: &self.file, at: storage.start, end: storage.start + deflated };
        let mut inflated = flate2::read::DeflateDecoder::new(raw);
        std::io::copy(&mut Read::by_ref(&mut inflated).take(start), &mut std::io::sink())?;
        let mut bytes = vec![0; length];
        inflated.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Elements of `size` bytes picked by strides, in row-major order.
fn gather(spanned: &[u8], size: usize, shape: &[usize], strides: &[u64], length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
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
    bytes
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
