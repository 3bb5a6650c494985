//! Reads what `torch.save` wrote: a zip archive around a pickle, or the older row of pickles before raw storages. Unaware of what the
//! tensors mean.
//!
//! Budgets: 16 MiB of pickle and as much directory; deflated members grow to at most `MAX_INFLATION` times the file; what the pickle makes
//! of its bytes is bounded there (`pickle`) and where its tensors are collected.

mod collect;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::contents::{Contents, Section, Storage};
use crate::sd::checkpoint::pickle::{Object, Pickle};
use crate::sd::checkpoint::torch::collect::collect;
use crate::sd::checkpoint::zip_members;

/// A pickle beside the tensors' bytes: a full checkpoint with optimiser state takes 2 MB.
const MAX_PICKLE: u64 = 16 << 20;

/// How far deflated members may grow together, beyond what the file itself weighs. Weights hardly deflate: this is no real model's limit.
const MAX_INFLATION: u64 = 16;

/// The number with which the older format begins, as a pickled LONG1, little-endian.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// Reads the directory and the pickle of a zip archive.
pub(super) fn read_zip(file: &File, length: u64) -> Result<Contents> {
    let members = zip_members::members(file, length)?;
    let inflated = members.values().filter(|member| member.deflated.is_some());
    let inflated = inflated.fold(0, |sum: u64, member| sum.saturating_add(member.length));
    ensure!(
        inflated <= length.saturating_mul(MAX_INFLATION) + (1 << 20),
        "its members would inflate to more than {MAX_INFLATION} times the file: no model does that"
    );
    let mut roots = members.keys().filter_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
    let root = roots.next().context("the zip archive has no `data.pkl`: it is not a model written by `torch.save`")?.to_string();
    ensure!(roots.next().is_none(), "the zip archive has a `data.pkl` in two folders: programs differ in which they read");
    let program = members.keys().find(|name| name.strip_prefix(&root).is_some_and(|inner| inner.starts_with("/code/")));
    if program.is_some() {
        bail!(
            "this file carries code: it is a TorchScript program; save its weights alone (`torch.save(model.state_dict(), …)`)"
        );
    }
    let order = read_member(file, &members, &format!("{root}/byteorder"), 16)?;
    ensure!(order.is_none_or(|order| order != b"big"), "it was written on a big-endian machine: save it again on another");
    let bytes = read_member(file, &members, &format!("{root}/data.pkl"), MAX_PICKLE)?.expect("the member was found above");
    let pickle = Pickle::run(&bytes)?;
    drop(bytes);
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
    contents.check_total()?;
    Ok(contents)
}

/// The whole of a small member; `None` if there is none of that name.
fn read_member(file: &File, members: &BTreeMap<String, Storage>, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(member) = members.get(name) else { return Ok(None) };
    ensure!(member.length <= limit, "member `{name}` claims {} bytes; at most {limit} are read", member.length);
    let mut bytes = Vec::new();
    let mut read = || -> Result<()> {
        member.check(file)?;
        member.reader(file).take(limit).read_to_end(&mut bytes)?;
        Ok(())
    };
    read().with_context(|| format!("reading member `{name}`"))?;
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

    let sizes = sizes_of_storages(&pickle)?;
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
        let Some((size, elements)) = sizes.get(key.as_str()).copied() else {
            match pickle.foreign.get(key.as_str()) {
                Some(class) => bail!("storage `{key}` is {class}, a type that is not supported: save the model without it"),
                None => bail!("nothing says what storage `{key}` holds"),
            }
        };
        ensure!(count == elements, "storage `{key}` has {count} elements, expected {elements}");
        let bytes = count.checked_mul(size).context("a storage's size overflows")?;
        let end = (start + 8).checked_add(bytes).filter(|end| *end <= length);
        let end =
            end.with_context(|| format!("storage `{key}` ends behind the end of the file: it is cut short, download it again"))?;
        contents.storages.push(Storage { start: start + 8, length: bytes, deflated: None, crc: None });
        storages.insert(key, contents.storages.len() - 1);
        start = end;
    }
    collect(&pickle, &mut contents, |_, tensor| {
        storages.get(&*tensor.storage.key).copied().with_context(|| format!("storage `{}` is missing", tensor.storage.key))
    })?;
    contents.check_total()?;
    Ok(contents)
}

/// Bytes of an element and number of elements of each storage by its key: known only from the pickle that uses it.
fn sizes_of_storages(pickle: &Pickle) -> Result<HashMap<&str, (u64, u64)>> {
    let mut sizes: HashMap<&str, (u64, u64)> = HashMap::new();
    for storage in pickle.storages() {
        let size = (storage.dtype.size() as u64, storage.elements);
        let first = *sizes.entry(&storage.key).or_insert(size);
        ensure!(first == size, "storage `{}` is used with two types or sizes", storage.key);
    }
    Ok(sizes)
}
