//! A file of named tensors: safetensors, or PyTorch's `.ckpt`, `.pt`, `.pth`, `.bin`. Told apart by content, never by extension.
//!
//! A model file is hostile input. Nothing in it is executed; counts, sizes and bounds are checked before anything is allocated; tensors
//! are read by `pread` one at a time into their own buffer, so that a file cut short while it is read is an error and nothing worse.
//!
//! Budgets: a header or pickle takes 16 MiB, a tensor `MAX_TENSOR`, all tensors together `MAX_SHOWN` times their storages. Memory for what
//! a file's number decides is asked for, so that a lack of it is an error too.

mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::engine::cache::regular_file::{self, Links};
use crate::sd::checkpoint::contents::{Contents, DAMAGED, Place, Section};
use crate::sd::checkpoint::shown::shown;
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

/// The largest tensor that is read, 1 GiB. Stable Diffusion's largest takes 0.15.
const MAX_TENSOR: usize = 1 << 30;

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

    /// The path given to [`Self::open`], for messages: the tensors are read from the file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the file from `start` on: of the one that was opened, whatever lies at its path now.
    pub fn bytes(&self, start: u64) -> impl Read + '_ {
        Section { file: &self.file, at: start, end: u64::MAX }
    }

    /// Told from the contents when the file was opened.
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

    fn read_bytes(&self, info: &TensorInfo, place: &Place) -> Result<Vec<u8>> {
        let size = info.dtype.size();
        let length = length_of(info)?;
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
        let crc = self.crc_to_compare(index, start, length)?;
        let mut bytes = zeros(length)?;
        if storage.deflated.is_none() {
            self.file.read_exact_at(&mut bytes, storage.start + start)?;
        } else {
            let mut inflated = storage.reader(&self.file);
            std::io::copy(&mut Read::by_ref(&mut inflated).take(start), &mut std::io::sink())?;
            inflated.read_exact(&mut bytes)?;
        }
        if let Some(crc) = crc {
            ensure!(crc_of(&bytes) == crc, DAMAGED);
            self.checked[index].store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// The checksum that whoever reads these bytes of a storage compares them with; `None` where they are known to be right. Who reads a
    /// part cannot compare it: then all of the storage is looked through here.
    fn crc_to_compare(&self, index: usize, start: u64, length: usize) -> Result<Option<u32>> {
        let (storage, is_checked) = (&self.contents.storages[index], &self.checked[index]);
        let unchecked = storage.crc.filter(|_| !is_checked.load(Ordering::Relaxed));
        if unchecked.is_none() || (start == 0 && length as u64 == storage.length) {
            return Ok(unchecked);
        }
        storage.check(&self.file)?;
        is_checked.store(true, Ordering::Relaxed);
        Ok(None)
    }
}

/// In bytes.
fn length_of(info: &TensorInfo) -> Result<usize> {
    let length = info.byte_length().context("its size overflows")?;
    ensure!(length <= MAX_TENSOR, "it takes {length} bytes, and a tensor may take {MAX_TENSOR}");
    Ok(length)
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
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
