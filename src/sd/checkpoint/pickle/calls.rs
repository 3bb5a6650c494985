//! What a pickle may ask to be called: the handful of functions that make dictionaries, storages and tensors. None is called; each is
//! written again here. Everything else becomes an opaque value, and is counted.

use std::rc::Rc;

use anyhow::{Result, bail, ensure};

use crate::sd::checkpoint::pickle::{Id, MAX_OBJECTS, MAX_SIDES, Machine, Object, StorageRef, TensorRef};
use crate::sd::checkpoint::shown::shown;

use crate::sd::checkpoint::tensor::Dtype;

/// PyTorch allows 64 dimensions.
const MAX_DIMENSIONS: usize = 64;

/// What torch writes beside tensors: no strangers.
const FAMILIAR: &[&str] = &[
    "__builtin__ frozenset",
    "__builtin__ set",
    "_codecs encode",
    "builtins frozenset",
    "builtins set",
    "numpy dtype",
    "torch device",
    "torch.serialization _get_layout",
    "torch.nn.parameter Parameter",
];

impl Machine<'_> {
    /// What calling a global would give, for the few that are known.
    pub(super) fn build(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let Object::Global(global) = &self.objects[callable as usize] else {
            return self.stranger("what is no class".into());
        };
        let global = global.clone();
        let Object::Tuple(arguments) = &self.objects[arguments as usize] else {
            return self.stranger(global);
        };
        let built = match &*global {
            "collections OrderedDict" => {
                let pairs = self.pairs_of(arguments.first())?;
                self.copied += pairs.len();
                ensure!(self.copied <= MAX_OBJECTS, "more than {MAX_OBJECTS} pairs given to OrderedDict");
                Some(Object::Dict(pairs))
            }
            "collections defaultdict" | "__builtin__ dict" | "builtins dict" => Some(Object::Dict(Vec::new())),
            "torch Size" => match arguments.first().map(|sides| &self.objects[*sides as usize]) {
                Some(Object::Tuple(sides)) if sides.len() <= MAX_DIMENSIONS => {
                    let sides = sides.clone();
                    self.count_sides(sides.len())?;
                    Some(Object::Tuple(sides))
                }
                _ => None,
            },
            "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor" => {
                let (typed, further) = arguments.split_at(arguments.len().min(6));
                let tensor = if self.are_plain(further) { self.tensor(typed, None) } else { None };
                return self.push_tensor(tensor, global, arguments.first().copied());
            }
            "torch._utils _rebuild_tensor_v3" => {
                let (typed, further) = arguments.split_at(arguments.len().min(7));
                let dtype = typed.get(6).map(|dtype| &self.objects[*dtype as usize]);
                let tensor = match dtype {
                    Some(Object::Global(name)) => {
                        let Some(dtype) = name.strip_prefix("torch ").and_then(Dtype::from_torch) else {
                            let reason = format!("{global} of `{}`", name.replacen(' ', ".", 1));
                            return self.push(Object::Opaque(reason.into()));
                        };
                        if self.are_plain(further) { self.tensor(typed, Some(dtype)) } else { None }
                    }
                    _ => None,
                };
                return self.push_tensor(tensor, global, arguments.first().copied());
            }
            "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state" => {
                // What a parameter is made of is a tensor, or what could not be read as one, with its reason.
                arguments.first().map(|data| &self.objects[*data as usize]).and_then(|data| match data {
                    Object::Tensor(_) | Object::Opaque(_) => Some(data.clone()),
                    _ => None,
                })
            }
            _ => return self.stranger(global),
        };
        self.push(built.unwrap_or(Object::Opaque(global)))
    }

    /// An object that is not built here. Tensors of kinds that are not read are named one by one later.
    pub(super) fn stranger(&mut self, global: Rc<str>) -> Result<()> {
        if !global.contains(" _rebuild") && !FAMILIAR.contains(&&*global) {
            *self.strangers.entry(global.clone()).or_default() += 1;
        }
        self.push(Object::Opaque(global))
    }

    /// A tensor, or what it is made by and, if that is why it cannot be read, the type of its storage.
    fn push_tensor(&mut self, tensor: Option<TensorRef>, maker: Rc<str>, storage: Option<Id>) -> Result<()> {
        let Some(tensor) = tensor else {
            let of = match storage.map(|storage| &self.objects[storage as usize]) {
                Some(Object::Opaque(of)) if of.starts_with('`') => Some(of),
                _ => None,
            };
            let maker = of.map_or(maker.clone(), |of| format!("{maker} of {of}").into());
            return self.push(Object::Opaque(maker));
        };
        self.count_sides(tensor.shape.len())?;
        self.push(Object::Tensor(tensor.into()))
    }

    fn count_sides(&mut self, count: usize) -> Result<()> {
        self.sides += count;
        ensure!(self.sides <= MAX_SIDES, "its tensors have more than {MAX_SIDES} sides together");
        Ok(())
    }

    /// Whether arguments that may be left out say nothing: the last one marks a tensor whose values are to be negated or conjugated.
    fn are_plain(&self, arguments: &[Id]) -> bool {
        arguments.iter().all(|id| match &self.objects[*id as usize] {
            Object::None => true,
            Object::Dict(entries) => entries.is_empty(),
            _ => false,
        })
    }

    /// The entries that Python 2 gave to `OrderedDict` as a list of pairs.
    fn pairs_of(&self, list: Option<&Id>) -> Result<Vec<(Id, Id)>> {
        let Some(Object::List(items)) = list.map(|id| &self.objects[*id as usize]) else {
            return Ok(Vec::new());
        };
        let pair = |id: &Id| match &self.objects[*id as usize] {
            Object::Tuple(pair) | Object::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => bail!("OrderedDict from something that is no pair"),
        };
        items.iter().map(pair).collect()
    }

    /// `(storage, offset, shape, strides, …)`; `None` if a part is not what it should be. Without a type it has its storage's.
    fn tensor(&self, arguments: &[Id], dtype: Option<Dtype>) -> Option<TensorRef> {
        let [storage, offset, shape, strides, ..] = arguments else { return None };
        let Object::Storage(storage) = &self.objects[*storage as usize] else { return None };
        let natural = |id: &Id| match &self.objects[*id as usize] {
            Object::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        };
        let naturals = |id: &Id| -> Option<Vec<u64>> {
            match &self.objects[*id as usize] {
                Object::Tuple(items) | Object::List(items) if items.len() <= MAX_DIMENSIONS => {
                    items.iter().map(natural).collect()
                }
                _ => None,
            }
        };
        let (shape, strides) = (naturals(shape)?, naturals(strides)?);
        (shape.len() == strides.len()).then_some(())?;
        let dtype = dtype.unwrap_or(storage.dtype);
        Some(TensorRef { storage: storage.clone(), dtype, offset: natural(offset)?, shape, strides })
    }

    /// `('storage', torch.FloatStorage, key, location, elements, …)`.
    pub(super) fn persistent(&mut self, id: Id) -> Result<()> {
        let storage = self.storage(id);
        self.push(storage.unwrap_or_else(|| Object::Opaque("a storage of unknown kind".into())))
    }

    /// A storage, or the name of its type in backticks if that is not read.
    fn storage(&mut self, id: Id) -> Option<Object> {
        let object = |id: Id| &self.objects[id as usize];
        let Object::Tuple(parts) = object(id) else { return None };
        let [tag, class, key, _location, elements, rest @ ..] = parts.as_slice() else { return None };
        let (Object::Text(tag), Object::Global(class), Object::Int(elements)) = (object(*tag), object(*class), object(*elements))
        else {
            return None;
        };
        (&**tag == "storage").then_some(())?;
        // A storage that is a view of another: PyTorch before 0.4.
        rest.iter().all(|part| matches!(object(*part), Object::None)).then_some(())?;
        let key: Rc<str> = match object(*key) {
            Object::Text(key) => key.clone(),
            Object::Int(key) => key.to_string().into(),
            _ => return None,
        };
        let dtype = match &**class {
            // The bytes alone: what they are is said by each tensor.
            "torch.storage UntypedStorage" | "torch UntypedStorage" => Some(Dtype::U8),
            class => class.strip_prefix("torch ").and_then(Dtype::from_storage),
        };
        let Some(dtype) = dtype else {
            let class: Rc<str> = format!("`{}`", shown(&class.replacen(' ', ".", 1))).into();
            self.foreign.insert(key, class.clone());
            return Some(Object::Opaque(class));
        };
        Some(Object::Storage(StorageRef { dtype, key, elements: u64::try_from(*elements).ok()? }))
    }
}
