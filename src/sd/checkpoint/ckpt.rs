//! Writes PyTorch's `.ckpt` and `.pt`: a zip archive that `torch.load(weights_only=True)` reads, and whose members pass
//! stable-diffusion-webui's filter `^[^/]+/(data/\d+|version|data\.pkl)$`. Newer records that torch writes (`byteorder`,
//! `.format_version`) would be refused there, so they are left out; torch does not need them.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use zip::write::SimpleFileOptions;

use crate::sd::checkpoint::safetensors::check_produced;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};

/// The folder of the members; any name without `/` will do.
const ROOT: &str = "archive";

/// From here on a zip member needs 64-bit sizes.
const ZIP64_FROM: usize = u32::MAX as usize;

/// Whether the tensors lie in a dictionary of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapping {
    /// `{"state_dict": {name: tensor, …}}`, as models are kept.
    StateDict,
    /// `{name: tensor, …}`, as LoRAs are: sd-scripts, diffusers and webui take every key of the file for a tensor's name.
    Flat,
}

/// Writes `{"state_dict": {name: tensor, …}}` atomically, asking `produce` for one tensor at a time, in the order of the names.
///
/// # Errors
/// If a tensor has a type that PyTorch's pickles cannot name, comes out in another size than `tensors` announced, or the disk is full.
pub fn write_each(
    path: &Path,
    tensors: &BTreeMap<String, TensorInfo>,
    produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<()> {
    write_wrapped(path, tensors, Wrapping::StateDict, produce)
}

fn write_wrapped(
    path: &Path,
    tensors: &BTreeMap<String, TensorInfo>,
    wrapping: Wrapping,
    mut produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<()> {
    let pickle = pickle(tensors, wrapping)?;
    crate::sd::checkpoint::write_atomically(path, |file| {
        let mut archive = zip::ZipWriter::new(BufWriter::with_capacity(1 << 20, file));
        let mut member = |name: &str, bytes: &[u8]| -> Result<()> {
            // The zip crate's default time is 1980-01-01: the bytes depend on the tensors alone.
            let options = SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored)
                .last_modified_time(zip::DateTime::default())
                .large_file(bytes.len() >= ZIP64_FROM);
            archive.start_file(format!("{ROOT}/{name}"), options)?;
            Ok(archive.write_all(bytes)?)
        };
        member("data.pkl", &pickle)?;
        for (index, (name, info)) in tensors.iter().enumerate() {
            let tensor = produce(name)?;
            check_produced(name, info, &tensor)?;
            member(&format!("data/{index}"), &tensor.bytes)?;
        }
        member("version", b"3\n")?;
        archive.finish()?.flush()?;
        Ok(())
    })
}

/// Writes tensors that are all in memory.
pub fn write(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let infos = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    write_each(path, &infos, |name| Ok(tensors[name].clone()))
}

/// Writes the tensors of a LoRA, all in memory, as `{name: tensor, …}`.
///
/// # Errors
/// As [`write_each`].
pub fn write_flat(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let infos = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    write_wrapped(path, &infos, Wrapping::Flat, |name| Ok(tensors[name].clone()))
}

/// Protocol 2, without a memo.
fn pickle(tensors: &BTreeMap<String, TensorInfo>, wrapping: Wrapping) -> Result<Vec<u8>> {
    let is_wrapped = match wrapping {
        Wrapping::StateDict => true,
        Wrapping::Flat => false,
    };
    let mut out = vec![0x80, 2, b'}'];
    if is_wrapped {
        text(&mut out, "state_dict");
        out.push(b'}');
    }
    out.push(b'(');
    for (index, (name, info)) in tensors.iter().enumerate() {
        text(&mut out, name);
        tensor(&mut out, index, info).with_context(|| format!("tensor `{name}`"))?;
    }
    out.push(b'u');
    if is_wrapped {
        out.push(b's');
    }
    out.push(b'.');
    Ok(out)
}

/// `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
fn tensor(out: &mut Vec<u8>, index: usize, info: &TensorInfo) -> Result<()> {
    let Some(class) = info.dtype.storage() else {
        bail!(
            "PyTorch's pickles have no storage of type {}: write safetensors instead, or give weights a `dtype`",
            info.dtype.name()
        );
    };
    let elements = info.elements().context("its shape overflows")?;
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(format!("ctorch\n{class}\n").bytes());
    text(out, &index.to_string());
    text(out, "cpu");
    int(out, elements);
    out.extend(b"tQ"); // the storage, by its persistent id
    int(out, 0);
    let mut strides = vec![1; info.shape.len()];
    for side in (1..info.shape.len()).rev() {
        strides[side - 1] = strides[side] * info.shape[side].max(1);
    }
    for numbers in [&info.shape, &strides] {
        out.push(b'(');
        numbers.iter().for_each(|number| int(out, *number));
        out.push(b't');
    }
    out.push(0x89); // requires_grad: False
    out.extend(b"ccollections\nOrderedDict\n)RtR");
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn int(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value @ 0..=255) => out.extend([b'K', value as u8]),
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]); // LONG1; shapes fit i64
            out.extend((value as i64).to_le_bytes());
        }
    }
}

/// Whether every tensor has a type that a `.ckpt` can hold.
pub fn can_hold(dtype: Dtype) -> bool {
    dtype.storage().is_some()
}
