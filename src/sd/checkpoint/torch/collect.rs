//! The tensors of a pickle's objects: their names, their shapes and where they lie. Unaware of containers.
//!
//! Budgets: `MAX_VISITS` values are looked at, `MAX_TENSORS` tensors found, and names and texts take `MAX_LETTERS` together, however often
//! the pickle refers to one list or text.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::contents::{Contents, MAX_REPEATED_ELEMENTS, Place};
use crate::sd::checkpoint::pickle::{Id, Object, Pickle, TensorRef};
use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::{TensorInfo, sides};

/// Nested dictionaries and lists that are looked into for tensors.
const MAX_DEPTH: usize = 32;

/// Values that are looked at while tensors are collected: a pickle may name one list many times over.
const MAX_VISITS: usize = 1_000_000;

/// Stable Diffusion with its running average and two moments of an optimiser has 5,000.
const MAX_TENSORS: usize = 200_000;

/// Letters of all names and texts that are put together: those of 200,000 tensors have some 20 million.
const MAX_LETTERS: usize = 64 << 20;

/// Walks the object tree: tensors under dotted names, texts and numbers as metadata. `state_dict` is unwrapped where there is one.
///
/// # Errors
/// If a tensor leaves its storage, two have one name, the tree is deeper or larger than a model's, or `state_dict` is an object that is not
/// built here.
pub(super) fn collect(
    pickle: &Pickle,
    contents: &mut Contents,
    locate: impl FnMut(&mut Contents, &TensorRef) -> Result<usize>,
) -> Result<()> {
    contents.strangers = pickle.strangers.iter().map(|(maker, count)| (maker.replacen(' ', ".", 1), *count)).collect();
    let mut walk = Walk { pickle, contents, locate, open: Vec::new(), visits: 0, letters: 0 };
    let root = walk.state_dict()?;
    walk.open.push((String::new(), root, 0));
    while let Some((name, id, depth)) = walk.open.pop() {
        walk.visit(name, id, depth)?;
    }
    Ok(())
}

struct Walk<'a, L> {
    pickle: &'a Pickle,
    contents: &'a mut Contents,
    locate: L,
    /// Name, object and depth of what is still to be looked at.
    open: Vec<(String, Id, usize)>,
    visits: usize,
    letters: usize,
}

impl<L: FnMut(&mut Contents, &TensorRef) -> Result<usize>> Walk<'_, L> {
    /// Where the tensors begin. What lies beside `state_dict` is metadata, if it is plain.
    fn state_dict(&mut self) -> Result<Id> {
        let pickle = self.pickle;
        let root = pickle.root;
        let Object::Dict(entries) = pickle.get(root) else { return Ok(root) };
        let inner = entries.iter().rev().find(|(key, _)| pickle.text(*key).is_some_and(|key| &**key == "state_dict"));
        let Some((_, state)) = inner else { return Ok(root) };
        match pickle.get(*state) {
            Object::Dict(_) => {}
            Object::Opaque(maker) => bail!(
                "its `state_dict` is made by `{}`, which is not supported: save it as a plain dictionary",
                shown(&maker.replacen(' ', ".", 1))
            ),
            _ => return Ok(root),
        }
        for (key, value) in entries {
            if let (Some(key), Some(value)) = (pickle.text(*key), plain(pickle, *value)) {
                self.count(key.len() + value.len())?;
                self.contents.metadata.insert(key.to_string(), value);
            }
        }
        Ok(*state)
    }

    fn count(&mut self, letters: usize) -> Result<()> {
        self.letters += letters;
        ensure!(self.letters <= MAX_LETTERS, "the names in the pickle have more than {MAX_LETTERS} letters together");
        Ok(())
    }

    fn joined(&mut self, name: &str, key: &str) -> Result<String> {
        self.count(name.len() + key.len() + 1)?;
        Ok(if name.is_empty() { key.to_string() } else { format!("{name}.{key}") })
    }

    fn visit(&mut self, name: String, id: Id, depth: usize) -> Result<()> {
        let pickle = self.pickle;
        match pickle.get(id) {
            Object::Dict(entries) => {
                self.enter(&name, entries.len(), depth)?;
                self.open_entries(&name, entries, depth)?;
            }
            Object::List(items) | Object::Tuple(items) => {
                self.enter(&name, items.len(), depth)?;
                for (index, item) in items.iter().enumerate().rev() {
                    let name = self.joined(&name, &index.to_string())?;
                    self.open.push((name, *item, depth + 1));
                }
            }
            Object::Tensor(tensor) => {
                let found = place(self.contents, tensor, &mut self.locate);
                let (info, place) = found.with_context(|| format!("tensor `{}`", shown(&name)))?;
                self.contents.places.insert(name.clone(), place);
                let twice = self.contents.tensors.insert(name.clone(), info);
                ensure!(twice.is_none(), "two tensors have the name `{}`", shown(&name));
                ensure!(self.contents.tensors.len() <= MAX_TENSORS, "it has more than {MAX_TENSORS} tensors");
            }
            object => match unreadable(object) {
                Some(reason) => drop(self.contents.unreadable.insert(name, reason)),
                None => {
                    if let Some(value) = plain(pickle, id) {
                        self.count(value.len())?;
                        self.contents.metadata.insert(name, value);
                    }
                }
            },
        }
        Ok(())
    }

    fn enter(&mut self, name: &str, entries: usize, depth: usize) -> Result<()> {
        self.visits += entries;
        ensure!(self.visits <= MAX_VISITS, "the pickle names values more than {MAX_VISITS} times over");
        ensure!(depth < MAX_DEPTH, "dictionaries and lists are nested more than {MAX_DEPTH} deep, as at `{}`", shown(name));
        Ok(())
    }

    /// Of equal keys the last counts, as in Python. A tensor under a key that is no name must not get lost.
    fn open_entries(&mut self, name: &str, entries: &[(Id, Id)], depth: usize) -> Result<()> {
        let pickle = self.pickle;
        let mut last: HashMap<Key<'_>, usize> = HashMap::new();
        for (index, (key, value)) in entries.iter().enumerate() {
            match Key::of(pickle.get(*key)) {
                Some(key) => {
                    // A long one may be there many times, and each costs to be looked up.
                    self.count(key.length())?;
                    last.insert(key, index);
                }
                None => {
                    let value = pickle.get(*value);
                    let is_tensor = matches!(value, Object::Tensor(_)) || unreadable(value).is_some();
                    ensure!(!is_tensor, "a tensor in `{}` has a name that is neither text nor number", shown(name));
                }
            }
        }
        let mut last: Vec<usize> = last.into_values().collect();
        last.sort_unstable();
        // From the last to the first: the stack turns them round.
        for (key, value) in last.into_iter().rev().map(|index| entries[index]) {
            if let Some(key) = plain(pickle, key) {
                let name = self.joined(name, &key)?;
                self.open.push((name, value, depth + 1));
            }
        }
        Ok(())
    }
}

/// What makes two keys of a dictionary the same one.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Int(i64),
    Float(u64),
}

impl<'a> Key<'a> {
    fn of(object: &'a Object) -> Option<Self> {
        Some(match object {
            Object::Text(text) => Self::Text(text),
            Object::Int(value) => Self::Int(*value),
            Object::Bool(value) => Self::Int(i64::from(*value)),
            Object::Float(value) => Self::Float(value.to_bits()),
            _ => return None,
        })
    }

    fn length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Int(_) | Self::Float(_) => 8,
        }
    }
}

/// Why an object that stands for a tensor is none here; `None` if it does not stand for one.
fn unreadable(object: &Object) -> Option<String> {
    let maker = match object {
        Object::Opaque(maker) => maker,
        Object::Storage(storage) => return Some(format!("it is a bare storage of {} and has no shape", storage.dtype.name())),
        _ => return None,
    };
    // A storage of a type that is not read.
    if maker.starts_with('`') {
        return Some(format!("it is a bare storage, {maker}, which is not supported"));
    }
    let is_numpy = maker.starts_with("numpy") && [" _reconstruct", " _frombuffer"].iter().any(|end| maker.ends_with(end));
    if !is_numpy && !maker.contains(" _rebuild") && !maker.starts_with("a storage") {
        return None;
    }
    let maker = shown(&maker.replacen(' ', ".", 1));
    Some(match &*maker {
        made if made.ends_with("._rebuild_qtensor") => format!("it is quantised (`{made}`): save it with `.dequantize()`"),
        made if made.contains("._rebuild_sparse") => format!("it is sparse (`{made}`): save it with `.to_dense()`"),
        made if is_numpy => format!("it is an array of NumPy (`{made}`): save it with `torch.from_numpy`"),
        made => match made.split_once(" of ") {
            Some((_, kind)) => format!("its type is {kind}, which is not supported"),
            None => format!("it is made by `{made}`, which is not supported"),
        },
    })
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
    let (dtype, size) = (tensor.dtype, tensor.dtype.size() as u64);
    let storage = locate(contents, tensor)?;
    let held = tensor.storage.elements.saturating_mul(tensor.storage.dtype.size() as u64) / size;
    let shape: Option<Vec<usize>> = tensor.shape.iter().map(|side| usize::try_from(*side).ok()).collect();
    let info = TensorInfo { dtype, shape: shape.context("its shape overflows")? };
    let elements = info.elements().filter(|_| info.byte_length().is_some()).context("its shape overflows")? as u64;
    ensure!(
        elements <= held.saturating_add(MAX_REPEATED_ELEMENTS),
        "its shape {} has {elements} elements, and its storage only {held}",
        info.sides()
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
        elements == 0 || furthest.is_some_and(|at| at < held),
        "its view of shape {}, strides {}, offset {} leaves its storage of {held} elements",
        info.sides(),
        sides(&tensor.strides),
        tensor.offset
    );
    let start = if elements == 0 { 0 } else { tensor.offset * size };
    // A side of 1 is never walked along, whatever its stride.
    let walked = || tensor.shape.iter().zip(&tensor.strides).map(|(side, stride)| if *side == 1 { 0 } else { *stride }).collect();
    Ok((info, Place { storage, start, strides: (!in_order && elements > 0).then(walked) }))
}
