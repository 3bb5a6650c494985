//! The tensors of one network in a model file, by their names in diffusers.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use crate::sd::checkpoint::key::Key;
use crate::sd::checkpoint::layout::Naming;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::tensor::Dtype;
use crate::sd::models::weights::Weights;

pub(super) struct FileWeights<'a> {
    file: &'a ModelFile,
    /// Names in diffusers to names in the file.
    names: HashMap<String, String>,
    /// What the values are rounded to.
    dtype: Dtype,
}

impl<'a> FileWeights<'a> {
    pub(super) fn new(file: &'a ModelFile, keys: Vec<Key>, naming: &Naming) -> Self {
        let names = keys.into_iter().map(|key| (key.diffusers.clone(), naming.in_file(&key))).collect();
        Self { file, names, dtype: Dtype::F32 }
    }

    pub(super) fn rounded_to(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }
}

impl Weights for FileWeights<'_> {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let in_file = self.names.get(name).with_context(|| format!("`{name}` belongs to no network of this layout"))?;
        let found = &self.file.info(in_file)?.shape;
        let file = self.file.path().display();
        ensure!(squeezed(found) == squeezed(shape), "tensor `{in_file}` of `{file}` has shape {found:?}: expected {shape:?}");
        match self.dtype {
            Dtype::F32 => self.file.read_f32(in_file),
            dtype => self.file.read_rounded(in_file, dtype),
        }
    }
}

/// Without trailing sizes of 1.
fn squeezed(shape: &[usize]) -> &[usize] {
    let kept = shape.iter().rposition(|side| *side != 1).map_or(0, |last| last + 1);
    &shape[..kept]
}
