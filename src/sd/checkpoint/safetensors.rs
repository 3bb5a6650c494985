//! The safetensors container: a JSON header, then the tensors' bytes without gaps. Unaware of what the tensors mean.
//!
//! Layout: header length as u64, header padded with spaces to a multiple of 8, bytes. Tensors lie in the order of safetensors' own
//! writer, types from wide to narrow, then names, because `sshs_model_hash` covers that order. Metadata is sorted, which the original
//! leaves to chance.
//!
//! What safetensors 0.8 reads is read here, but for headers of more than `MAX_HEADER` bytes and names that come twice, of which it takes
//! the last. A header costs at most some ten times its length in memory, and its bytes are looked at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::engine::cache::batch::Stored;
use crate::engine::cache::file_digest::HashingWriter;
use crate::sd::checkpoint::contents::{Contents, Place, Storage};
use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo, zeros};

/// The longest header that is read or written, 16 MiB. safetensors itself allows 100 MB, which takes 1.5 GB to read; Stable Diffusion has
/// 0.2 MB, and this is room for 100,000 tensors or for the longest lists of tags.
const MAX_HEADER: u64 = 16 << 20;

/// The key of the metadata in the header.
const METADATA: &str = "__metadata__";

/// What else an entry may say is passed over, as safetensors does.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A header in which no name comes twice.
#[derive(Default)]
struct Header {
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of tensor names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut header = Header::default();
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if has_metadata {
                            return Err(M::Error::custom(format!("`{METADATA}` comes twice")));
                        }
                        has_metadata = true;
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    let entry = map.next_value().map_err(|e| M::Error::custom(format!("tensor `{}`: {e}", shown(&name))))?;
                    match header.entries.entry(name) {
                        Slot::Vacant(slot) => drop(slot.insert(entry)),
                        Slot::Occupied(slot) => {
                            return Err(M::Error::custom(format!("tensor `{}` comes twice", shown(slot.key()))));
                        }
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// Reads the header of a file of `length` bytes and checks that the tensors fill it without gaps or overlaps.
pub(super) fn read_header(file: &File, length: u64) -> Result<Contents> {
    let mut first = [0; 8];
    file.read_exact_at(&mut first, 0).context("the file is too short for a safetensors header")?;
    let header_length = u64::from_le_bytes(first);
    ensure!(header_length <= MAX_HEADER, "the header claims {header_length} bytes; at most {MAX_HEADER} are read");
    ensure!(
        header_length <= length.saturating_sub(8),
        "the header claims {header_length} bytes and the file has {length}: it is cut short or no safetensors file"
    );
    let mut bytes = zeros(header_length as usize)?;
    file.read_exact_at(&mut bytes, 8)?;
    let header: Header = serde_json::from_slice(&bytes)
        .map_err(|error| anyhow!(shown(&error.to_string())))
        .context("the safetensors header is not valid")?;
    drop(bytes);
    let start = 8 + header_length;
    let mut contents = Contents { metadata: header.metadata, ..Contents::default() };
    let mut ranges = Vec::new();
    for (name, entry) in header.entries {
        let Some(dtype) = Dtype::from_name(&entry.dtype) else {
            let reason = format!("its type {} is not supported", shown(&entry.dtype));
            contents.unreadable.insert(name.clone(), reason);
            ranges.push((entry.data_offsets, name));
            continue;
        };
        let info = info_of(dtype, &entry).with_context(|| format!("tensor `{}`", shown(&name)))?;
        contents.places.insert(name.clone(), Place { storage: 0, start: entry.data_offsets.0, strides: None });
        ranges.push((entry.data_offsets, name.clone()));
        contents.tensors.insert(name, info);
    }
    ranges.sort();
    let mut at = 0;
    for ((begin, end), name) in &ranges {
        ensure!(begin <= end, "tensor `{}`: its offsets {begin} to {end} run backwards", shown(name));
        ensure!(
            *begin == at,
            "tensor `{}` begins at byte {begin} of the data, expected {at}: tensors overlap or leave a gap",
            shown(name)
        );
        at = *end;
    }
    ensure!(
        start.checked_add(at) == Some(length),
        "the header describes {at} bytes of tensors and the file holds {}: it is {}",
        length - start,
        if at > length - start { "cut short, download it again" } else { "longer than it says" }
    );
    contents.storages.push(Storage { start, length: at, deflated: None, crc: None });
    Ok(contents)
}

/// Type and shape of an entry, whose offsets must leave room for just as many bytes.
fn info_of(dtype: Dtype, entry: &Entry) -> Result<TensorInfo> {
    let shape: Option<Vec<usize>> = entry.shape.iter().map(|side| usize::try_from(*side).ok()).collect();
    let info = TensorInfo { dtype, shape: shape.context("its shape overflows")? };
    let (begin, end) = entry.data_offsets;
    let expected = info.byte_length().with_context(|| format!("its shape {} overflows", info.sides()))? as u64;
    ensure!(
        begin <= end && end - begin == expected,
        "{} of shape {} takes {expected} bytes, its offsets {begin} to {end} give another number",
        dtype.name(),
        info.sides()
    );
    Ok(info)
}

/// The names in the order in which their bytes lie in a file.
pub fn file_order(tensors: &BTreeMap<String, TensorInfo>) -> Vec<(&String, &TensorInfo)> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by(|a, b| b.1.dtype.cmp(&a.1.dtype).then(a.0.cmp(b.0)));
    ordered
}

/// The header with its length in front, padded.
pub(super) fn header(tensors: &BTreeMap<String, TensorInfo>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut text = String::from("{");
    if !metadata.is_empty() {
        text += &format!("\"{METADATA}\":{},", serde_json::to_string(metadata)?);
    }
    let mut at = 0usize;
    for (name, info) in file_order(tensors) {
        ensure!(name != METADATA, "a tensor cannot be called `{METADATA}`");
        let end = info.byte_length().and_then(|length| at.checked_add(length));
        let end = end.with_context(|| format!("tensor `{name}`: its shape {:?} overflows", info.shape))?;
        text += &format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{at},{end}]}},",
            serde_json::to_string(name)?,
            info.dtype.name(),
            serde_json::to_string(&info.shape)?
        );
        at = end;
    }
    if text.ends_with(',') {
        text.pop();
    }
    text.push('}');
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    ensure!(padded as u64 <= MAX_HEADER, "the header would take {padded} bytes; at most {MAX_HEADER} are allowed");
    Ok([&(padded as u64).to_le_bytes(), text.as_bytes()].concat())
}

/// Writes a file atomically, asking `produce` for one tensor at a time: a model never lies in memory as a whole. The digest of the file,
/// taken on the way.
///
/// # Errors
/// If a tensor comes out in another size than `tensors` announced, or the disk is full; then `path` is untouched.
pub fn write_each(
    path: &Path,
    tensors: &BTreeMap<String, TensorInfo>,
    metadata: &BTreeMap<String, String>,
    produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<Stored> {
    crate::sd::checkpoint::write_atomically(path, |file| {
        let mut file = HashingWriter::new(file);
        write_into(&mut file, tensors, metadata, produce)?;
        let (digest, size) = file.finish();
        Ok(Stored { digest, size })
    })
}

/// Writes a file's bytes, asking `produce` for one tensor at a time.
///
/// # Errors
/// As [`write_each`]; then some of the bytes may have been written.
pub fn write_into(
    out: &mut impl Write,
    tensors: &BTreeMap<String, TensorInfo>,
    metadata: &BTreeMap<String, String>,
    mut produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    out.write_all(&header(tensors, metadata)?)?;
    for (name, info) in file_order(tensors) {
        let tensor = produce(name)?;
        check_produced(name, info, &tensor)?;
        out.write_all(&tensor.bytes)?;
    }
    out.flush()?;
    Ok(())
}

/// Writes tensors that are all in memory.
pub fn write(path: &Path, tensors: &BTreeMap<String, TensorData>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let bytes = to_bytes(tensors, metadata)?;
    crate::sd::checkpoint::write_atomically(path, |file| Ok(file.write_all(&bytes)?))
}

/// The bytes of a whole file.
pub fn to_bytes(tensors: &BTreeMap<String, TensorData>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let infos = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    let mut bytes = header(&infos, metadata)?;
    for (name, info) in file_order(&infos) {
        check_produced(name, info, &tensors[name])?;
        bytes.extend_from_slice(&tensors[name].bytes);
    }
    Ok(bytes)
}

/// That a tensor is what the header says of it.
pub(super) fn check_produced(name: &str, info: &TensorInfo, tensor: &TensorData) -> Result<()> {
    if tensor.info() != *info || Some(tensor.bytes.len()) != info.byte_length() {
        bail!(
            "tensor `{name}`: announced as {} {:?}, came as {} {:?} with {} bytes",
            info.dtype.name(),
            info.shape,
            tensor.dtype.name(),
            tensor.shape,
            tensor.bytes.len()
        );
    }
    Ok(())
}
