//! What a pickle may ask to be called: the handful of functions that make dictionaries, storages and tensors. None is called; each is
//! written again here. Everything else becomes an opaque value.

use std::rc::Rc;

use anyhow::{Result, bail, ensure};

use crate::checkpoint::pickle::{Id, MAX_OBJECTS, Machine, Object, StorageRef, TensorRef};
use crate::checkpoint::tensor::Dtype;

/// PyTorch allows 64 dimensions.
const MAX_DIMENSIONS: usize = 64;

impl Machine<'_> {
    /// What calling a global would give, for the few that are known.
    pub(super) fn build(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let Object::Global(global) = &self.objects[callable as usize] else {
            return self.push(Object::Opaque("a call of something that is no global".into()));
        };
        let global = global.clone();
        let Object::Tuple(arguments) = &self.objects[arguments as usize] else {
            return self.push(Object::Opaque(global));
        };
        let built = match &*global {
            "collections OrderedDict" => {
                let pairs = self.pairs_of(arguments.first())?;
                self.copied += pairs.len();
                ensure!(self.copied <= MAX_OBJECTS, "more than {MAX_OBJECTS} pairs given to OrderedDict");
                Some(Object::Dict(pairs))
            }
            "collections defaultdict" | "__builtin__ dict" | "builtins dict" => Some(Object::Dict(Vec::new())),
            "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor" => self.tensor(arguments).map(Object::Tensor),
            "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state" => {
                // Only tensors are copied: they are small, and a list might not be.
                arguments.first().map(|data| &self.objects[*data as usize]).filter(|o| matches!(o, Object::Tensor(_))).cloned()
            }
            _ => None,
        };
        self.push(built.unwrap_or(Object::Opaque(global)))
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

    /// `(storage, offset, shape, strides, …)`; `None` if a part is not what it should be.
    fn tensor(&self, arguments: &[Id]) -> Option<TensorRef> {
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
        Some(TensorRef { storage: storage.clone(), offset: natural(offset)?, shape, strides })
    }

    /// `('storage', torch.FloatStorage, key, location, elements, …)`.
    pub(super) fn persistent(&mut self, id: Id) -> Result<()> {
        let storage = self.storage(id);
        self.push(storage.map_or_else(|| Object::Opaque("a storage of unknown kind".into()), Object::Storage))
    }

    fn storage(&self, id: Id) -> Option<StorageRef> {
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
        let dtype = Dtype::from_storage(class.strip_prefix("torch ")?)?;
        Some(StorageRef { dtype, key, elements: u64::try_from(*elements).ok()? })
    }
}
