//! Reads what `torch.save` wrote: a zip archive around a pickle, or the older row of pickles before raw storages. Unaware of what the
//! tensors mean.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::checkpoint::model_file::{Contents, MAX_REPEATED_ELEMENTS, Place, Section, Storage};
use crate::checkpoint::pickle::{Id, Object, Pickle, TensorRef};
use crate::checkpoint::tensor::TensorInfo;

/// A pickle beside the tensors' bytes: a full checkpoint with optimiser state takes 2 MB.
const MAX_PICKLE: u64 = 16 << 20;

/// The bytes read while the zip directory is looked for and read: at 100 bytes a member, room for 160,000 tensors.
const MAX_DIRECTORY: u64 = 16 << 20;

/// How far deflated members may grow together, beyond what the file itself weighs. Weights hardly deflate: this is no real model's limit.
const MAX_INFLATION: u64 = 16;

/// Nested dictionaries and lists that are looked into for tensors.
const MAX_DEPTH: usize = 32;

/// Values that are looked at while tensors are collected: a pickle may name one list many times over.
const MAX_VISITS: usize = 1_000_000;

/// The number with which the older format begins, as a pickled LONG1, little-endian.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// The file of a zip reader, with an end to what it may read.
struct Budget<'a> {
    file: &'a File,
    at: u64,
    length: u64,
    left: &'a Cell<u64>,
}

impl Read for Budget<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other(format!("its zip directory takes more than {MAX_DIRECTORY} bytes")));
        }
        let wanted = buffer.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

impl Seek for Budget<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(distance) => self.length.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = at.ok_or_else(|| io::Error::other("the zip directory points outside the file"))?;
        Ok(self.at)
    }
}

/// Reads the directory and the pickle of a zip archive.
pub(super) fn read_zip(file: &File, length: u64) -> Result<Contents> {
    let left = Cell::new(MAX_DIRECTORY);
    let budget = Budget { file, at: 0, length, left: &left };
    let mut archive = zip::ZipArchive::new(BufReader::with_capacity(1 << 12, budget))
        .context("the zip archive is damaged or cut short: download the file again")?;
    // From here on a buffer is read for each member, of which there are no more than the directory had room for.
    left.set(u64::MAX);
    let mut members: BTreeMap<String, Storage> = BTreeMap::new();
    let mut inflated = 0u64;
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).context("the zip directory is damaged")?;
        let name = String::from_utf8_lossy(member.name_raw()).into_owned();
        let start = member.data_start().with_context(|| format!("member `{name}` has no beginning"))?;
        let (packed, size) = (member.compressed_size(), member.size());
        ensure!(!member.encrypted(), "member `{name}` is encrypted");
        ensure!(
            start.checked_add(packed).is_some_and(|end| end <= length),
            "member `{name}` ends behind the end of the file: it is cut short, download it again"
        );
        let deflated = match member.compression() {
            zip::CompressionMethod::Stored => {
                ensure!(packed == size, "member `{name}` is stored and has two sizes, {packed} and {size}");
                None
            }
            zip::CompressionMethod::Deflated => {
                inflated = inflated.saturating_add(size);
                ensure!(
                    inflated <= length.saturating_mul(MAX_INFLATION) + (1 << 20),
                    "its members would inflate to more than {MAX_INFLATION} times the file: no model does that"
                );
                Some(packed)
            }
            method => bail!("member `{name}` is compressed by {method}, which torch cannot read either"),
        };
        members.insert(name, Storage { start, length: size, deflated });
    }
    let root = members
        .keys()
        .find_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')))
        .context("the zip archive has no `data.pkl`: it is not a model written by `torch.save`")?
        .to_string();
    let order = read_member(file, &members, &format!("{root}/byteorder"), 16)?;
    ensure!(order.is_none_or(|order| order != b"big"), "it was written on a big-endian machine: save it again on another");
    let bytes = read_member(file, &members, &format!("{root}/data.pkl"), MAX_PICKLE)?.expect("the member was found above");
    let pickle = Pickle::run(&bytes)?;
    let mut storages = HashMap::new();
    let mut contents = Contents::default();
    collect(&pickle, &mut contents, |contents, tensor| {
        let key = &*tensor.storage.key;
        let storage = match storages.get(key) {
            Some(index) => *index,
            None => {
                let found = members.get(&format!("{root}/data/{key}"));
                contents
                    .storages
                    .push(found.with_context(|| format!("its bytes, member `{root}/data/{key}`, are missing"))?.clone());
                storages.insert(key.to_string(), contents.storages.len() - 1);
                contents.storages.len() - 1
            }
        };
        let length = contents.storages[storage].length;
        let needed = tensor.storage.elements.checked_mul(tensor.storage.dtype.size() as u64);
        ensure!(
            needed.is_some_and(|needed| needed <= length),
            "its storage has {} elements of {} bytes, and member `{root}/data/{key}` holds {length} bytes",
            tensor.storage.elements,
            tensor.storage.dtype.size()
        );
        Ok(storage)
    })?;
    Ok(contents)
}

/// The whole of a small member; `None` if there is none of that name.
fn read_member(file: &File, members: &BTreeMap<String, Storage>, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(member) = members.get(name) else { return Ok(None) };
    ensure!(member.length <= limit, "member `{name}` claims {} bytes; at most {limit} are read", member.length);
    let end = member.start + member.deflated.unwrap_or(member.length);
    let section = Section { file, at: member.start, end };
    let mut bytes = Vec::new();
    match member.deflated {
        None => BufReader::new(section).read_to_end(&mut bytes),
        Some(_) => flate2::bufread::DeflateDecoder::new(BufReader::new(section)).take(limit).read_to_end(&mut bytes),
    }
    .with_context(|| format!("reading member `{name}`"))?;
    ensure!(bytes.len() as u64 == member.length, "member `{name}` has {} bytes, expected {}", bytes.len(), member.length);
    Ok(Some(bytes))
}

/// Whether a pickle begins with the magic number of the older format.
pub(super) fn is_legacy(head: &[u8]) -> bool {
    head.get(4..14) == Some(&LEGACY_MAGIC)
}

/// Reads the older format: magic, protocol, facts about the system, the object, the keys of the storages, then each storage with its
/// number of elements in front.
pub(super) fn read_legacy(file: &File, length: u64) -> Result<Contents> {
    let mut bytes = Vec::new();
    Section { file, at: 0, end: length.min(MAX_PICKLE) }.read_to_end(&mut bytes)?;
    let mut at = 0;
    let mut next = |what: &str| -> Result<Pickle> {
        let pickle = Pickle::run(&bytes[at..]).with_context(|| format!("reading {what} of the older torch format"))?;
        at += pickle.length;
        Ok(pickle)
    };
    next("the magic number")?;
    let protocol = next("the protocol")?;
    ensure!(
        protocol.int(protocol.root) == Some(LEGACY_PROTOCOL),
        "the older torch format has another protocol than {LEGACY_PROTOCOL}"
    );
    next("the system's facts")?;
    let pickle = next("the object")?;
    let keys = next("the storage keys")?;
    let Object::List(ids) = keys.get(keys.root) else { bail!("the storage keys are no list") };

    // What a storage's elements are is known only from the pickle that uses it.
    let mut sizes: HashMap<&str, (u64, u64)> = HashMap::new();
    for storage in pickle.storages() {
        let size = (storage.dtype.size() as u64, storage.elements);
        let first = *sizes.entry(&storage.key).or_insert(size);
        ensure!(first == size, "storage `{}` is used with two types or sizes", storage.key);
    }
    let mut contents = Contents::default();
    let mut start = at as u64;
    let mut storages = HashMap::new();
    for id in ids {
        let key = match keys.get(*id) {
            Object::Text(key) => key.to_string(),
            Object::Int(key) => key.to_string(),
            _ => bail!("a storage key is no text"),
        };
        let mut count = [0; 8];
        file.read_exact_at(&mut count, start).context("the file is cut short before its last storage: download it again")?;
        let count = u64::from_le_bytes(count);
        // A storage that no tensor uses has an unknown element size, so nothing behind it can be found.
        let (size, elements) = *sizes.get(key.as_str()).with_context(|| format!("nothing says what storage `{key}` holds"))?;
        ensure!(count == elements, "storage `{key}` has {count} elements, expected {elements}");
        let bytes = count.checked_mul(size).context("a storage's size overflows")?;
        let end = (start + 8).checked_add(bytes).filter(|end| *end <= length);
        let end =
            end.with_context(|| format!("storage `{key}` ends behind the end of the file: it is cut short, download it again"))?;
        contents.storages.push(Storage { start: start + 8, length: bytes, deflated: None });
        storages.insert(key, contents.storages.len() - 1);
        start = end;
    }
    collect(&pickle, &mut contents, |_, tensor| {
        storages.get(&*tensor.storage.key).copied().with_context(|| format!("storage `{}` is missing", tensor.storage.key))
    })?;
    Ok(contents)
}

/// Walks the object tree: tensors under dotted names, texts and numbers as metadata. `state_dict` is unwrapped where there is one.
fn collect(
    pickle: &Pickle,
    contents: &mut Contents,
    mut locate: impl FnMut(&mut Contents, &TensorRef) -> Result<usize>,
) -> Result<()> {
    let mut root = pickle.root;
    if let Object::Dict(entries) = pickle.get(root) {
        let inner = entries.iter().rev().find(|(key, _)| pickle.text(*key).is_some_and(|key| &**key == "state_dict"));
        if let Some((_, state)) = inner
            && matches!(pickle.get(*state), Object::Dict(_))
        {
            for (key, value) in entries {
                if let (Some(key), Some(value)) = (pickle.text(*key), plain(pickle, *value)) {
                    contents.metadata.insert(key.to_string(), value);
                }
            }
            root = *state;
        }
    }
    let mut visits = 0;
    let mut open = vec![(String::new(), root, 0usize)];
    while let Some((name, id, depth)) = open.pop() {
        visits += match pickle.get(id) {
            Object::Dict(entries) => entries.len(),
            Object::List(items) | Object::Tuple(items) => items.len(),
            _ => 0,
        };
        ensure!(visits <= MAX_VISITS, "the pickle names values more than {MAX_VISITS} times over");
        let joined = |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        match pickle.get(id) {
            Object::Dict(_) | Object::List(_) | Object::Tuple(_) if depth == MAX_DEPTH => {}
            // From the last to the first: the stack turns them round, so that the last of equal keys is inserted last.
            Object::Dict(entries) => {
                for (key, value) in entries.iter().rev() {
                    if let Some(key) = plain(pickle, *key) {
                        open.push((joined(&key), *value, depth + 1));
                    }
                }
            }
            Object::List(items) | Object::Tuple(items) => {
                for (index, item) in items.iter().enumerate().rev() {
                    open.push((joined(&index.to_string()), *item, depth + 1));
                }
            }
            Object::Tensor(tensor) => {
                let (info, place) = place(contents, tensor, &mut locate).with_context(|| format!("tensor `{name}`"))?;
                contents.tensors.insert(name.clone(), info);
                contents.places.insert(name, place);
            }
            Object::Opaque(maker) if maker.contains("_rebuild") => {
                contents
                    .unreadable
                    .insert(name, format!("it is made by `{}`, which is not supported", maker.replacen(' ', ".", 1)));
            }
            _ => {
                if let Some(value) = plain(pickle, id) {
                    contents.metadata.insert(name, value);
                }
            }
        }
    }
    Ok(())
}

/// A text or number as metadata shows it.
fn plain(pickle: &Pickle, id: Id) -> Option<String> {
    match pickle.get(id) {
        Object::Text(text) => Some(text.to_string()),
        Object::Int(value) => Some(value.to_string()),
        Object::Float(value) => Some(value.to_string()),
        Object::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Checks a view against its storage.
fn place(
    contents: &mut Contents,
    tensor: &TensorRef,
    locate: &mut impl FnMut(&mut Contents, &TensorRef) -> Result<usize>,
) -> Result<(TensorInfo, Place)> {
    let dtype = tensor.storage.dtype;
    let storage = locate(contents, tensor)?;
    let shape: Option<Vec<usize>> = tensor.shape.iter().map(|side| usize::try_from(*side).ok()).collect();
    let info = TensorInfo { dtype, shape: shape.context("its shape overflows")? };
    let elements = info.elements().filter(|_| info.byte_length().is_some()).context("its shape overflows")? as u64;
    ensure!(
        elements <= tensor.storage.elements.saturating_add(MAX_REPEATED_ELEMENTS),
        "its shape {:?} has {elements} elements, and its storage only {}",
        info.shape,
        tensor.storage.elements
    );
    let mut contiguous = 1u64;
    let mut in_order = true;
    let mut furthest = Some(tensor.offset);
    for (side, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        in_order &= *side == 1 || *stride == contiguous;
        contiguous = contiguous.saturating_mul(*side);
        furthest = furthest.and_then(|at| side.saturating_sub(1).checked_mul(*stride)?.checked_add(at));
    }
    ensure!(
        elements == 0 || furthest.is_some_and(|at| at < tensor.storage.elements),
        "its view of shape {:?}, strides {:?}, offset {} leaves its storage of {} elements",
        info.shape,
        tensor.strides,
        tensor.offset,
        tensor.storage.elements
    );
    let start = if elements == 0 { 0 } else { tensor.offset * dtype.size() as u64 };
    let strides = (!in_order && elements > 0).then(|| tensor.strides.clone());
    Ok((info, Place { storage, start, strides }))
}
