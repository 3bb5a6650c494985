//! Where the weights of a network come from, by name.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Result;
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Gives the tensors of one network by their names in diffusers (in transformers for the text encoder).
pub trait Weights {
    /// The values of tensor `name` in row-major order.
    ///
    /// An error says what is missing, or what was found, if there is no such tensor of that shape. Trailing sizes of 1 do not
    /// matter: `[out, in, 1, 1]` and `[out, in]` hold the same values.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
}

/// A place in the tree of names, while a network is built.
pub struct Source<'a> {
    weights: &'a mut dyn Weights,
    device: &'a Device,
    dtype: DType,
    path: String,
    /// Of all tensors that were taken, here and elsewhere in the tree.
    parameter_count: Rc<Cell<usize>>,
}

impl<'a> Source<'a> {
    /// The root: tensors go to `device`, which must be one without autodiff, in f32.
    pub fn new(weights: &'a mut dyn Weights, device: &'a Device) -> Self {
        Self { weights, device, dtype: DType::F32, path: String::new(), parameter_count: Rc::default() }
    }

    /// The same with tensors of another type, in which the network then computes.
    pub fn in_type(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The place `name` below this one.
    pub fn at(&mut self, name: impl AsRef<str>) -> Source<'_> {
        let path = self.name(name.as_ref());
        Source {
            weights: self.weights,
            device: self.device,
            dtype: self.dtype,
            path,
            parameter_count: Rc::clone(&self.parameter_count),
        }
    }

    /// Of the tensors that were taken so far, in the whole tree.
    pub fn parameter_count(&self) -> usize {
        self.parameter_count.get()
    }

    /// The full name of this place.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Tensor `name` of exactly this shape.
    pub fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let values = self.weights.take(&self.name(name), &shape)?;
        self.parameter_count.set(self.parameter_count.get() + values.len());
        Ok(Tensor::from_data(TensorData::new(values, shape), (self.device, self.dtype)))
    }

    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}
