//! Adds LoRAs to the weights of a model: `W + Σ strength · alpha / rank · up · down`, in f32. Unaware of how the result is stored.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::checkpoint::layout::{TextLayout, UnetLayout};
use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::modules::{Layer, ModulePath, Network, text_layers, unet_layers};
use crate::checkpoint::tensor::{Dtype, TensorData, TensorInfo};
use crate::lora::file::{Lora, LoraModule};

/// Weights that only training needs: the running average of LDM.
const DROPPED: &[&str] = &["model_ema."];

/// A model with LoRAs to be added, tensor by tensor as they are asked for.
pub struct Merge<'a> {
    base: &'a ModelFile,
    /// By the name of the weight in the base: strength and factors.
    changes: BTreeMap<String, Vec<(f32, &'a LoraModule)>>,
    /// The type of all floating-point tensors of the result; `None` keeps each as it is.
    dtype: Option<Dtype>,
}

impl<'a> Merge<'a> {
    /// Finds the weight of every module of every LoRA.
    ///
    /// # Errors
    /// If a LoRA has a module that the base has not, or one of another shape.
    pub fn new(base: &'a ModelFile, loras: &'a [(Lora, f64)], dtype: Option<Dtype>) -> Result<Self> {
        let mut layers: BTreeMap<ModulePath, Layer> = BTreeMap::new();
        let uses = |network: Network| loras.iter().any(|(lora, _)| lora.modules.keys().any(|m| m.network == network));
        if uses(Network::Unet) {
            layers.extend(unet_layers(&UnetLayout::infer(base)?).into_iter().map(|layer| (layer.module.clone(), layer)));
        }
        if uses(Network::TextEncoder) {
            layers.extend(text_layers(&TextLayout::infer(base)?).into_iter().map(|layer| (layer.module.clone(), layer)));
        }
        let mut changes: BTreeMap<String, Vec<(f32, &LoraModule)>> = BTreeMap::new();
        for (lora, strength) in loras {
            for (module, factors) in &lora.modules {
                let layer = layers.get(module).with_context(|| {
                    format!(
                        "the LoRA changes `{module}`, which `{}` has not: it was trained on another model",
                        base.path().display()
                    )
                })?;
                let (found, expected) = (factors.weight_shape(), &layer.shape);
                // Old LoRAs of SD 2.x adapt its linear projections as 1×1 convolutions, and the other way round.
                let plain = |shape: &[usize]| shape.strip_suffix(&[1, 1]).unwrap_or(shape).to_vec();
                ensure!(
                    plain(&found) == plain(expected),
                    "module `{module}` of the LoRA is for a weight of shape {found:?}, and `{}` of `{}` has {expected:?}",
                    layer.tensor,
                    base.path().display()
                );
                changes.entry(layer.tensor.clone()).or_default().push((*strength as f32, factors));
            }
        }
        Ok(Self { base, changes, dtype })
    }

    /// What the result holds.
    pub fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let kept = self.base.tensors().iter().filter(|(name, _)| !DROPPED.iter().any(|prefix| name.starts_with(prefix)));
        kept.map(|(name, info)| (name.clone(), TensorInfo { dtype: self.dtype_of(info), shape: info.shape.clone() })).collect()
    }

    fn dtype_of(&self, info: &TensorInfo) -> Dtype {
        self.dtype.filter(|_| info.dtype.is_float()).unwrap_or(info.dtype)
    }

    /// One tensor of the result.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let tensor = self.base.read(name)?;
        let dtype = self.dtype_of(&tensor.info());
        let Some(changes) = self.changes.get(name) else {
            return if dtype.is_float() { tensor.cast(dtype) } else { Ok(tensor) }.with_context(|| format!("tensor `{name}`"));
        };
        let mut values = tensor.to_f32()?;
        for (strength, factors) in changes {
            for (value, change) in values.iter_mut().zip(&factors.delta().values) {
                *value += strength * change;
            }
        }
        TensorData::from_f32(&tensor.shape, &values).cast(dtype).with_context(|| format!("tensor `{name}` of the merge"))
    }
}
