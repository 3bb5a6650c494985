//! Adds LoRAs to the weights of a model: `W + Σ strength · alpha / rank · up · down`, in f32. Unaware of how the result is stored.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::sd::checkpoint::carry::{Carried, refuse_average_alone, refuse_broken};
use crate::sd::checkpoint::family::Predicts;
use crate::sd::checkpoint::layout::{TextLayout, UnetLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::modules::Network;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};
use crate::sd::lora::file::Lora;
use crate::sd::lora::fit;
use crate::sd::lora::module::LoraModule;
use crate::sd::lora::placing::Structure;

/// Weights that only training needs: the running average of LDM.
const DROPPED: &[&str] = &["model_ema."];

/// A model with LoRAs to be added, tensor by tensor as they are asked for.
pub struct Merge<'a> {
    base: Carried<'a>,
    /// By the name of the weight in the base: strength and factors.
    changes: BTreeMap<String, Vec<(f32, &'a LoraModule)>>,
    /// By which the result says what its UNet predicts, where the base says it in metadata: not every container has any.
    marks: Vec<&'static str>,
}

impl<'a> Merge<'a> {
    /// Finds the weight of every module of every LoRA. `dtype`: the type of all floating-point tensors of the result; `None` keeps each as
    /// it is.
    ///
    /// # Errors
    /// If a LoRA has a module that the base has not, or one of another shape; if a changed weight would be rounded to 8 bits; if the base has
    /// tensors that cannot be carried over, or its UNet only as a running average.
    pub fn new(base: &'a ModelFile, loras: &'a [(Lora, f64)], dtype: Option<Dtype>) -> Result<Self> {
        refuse_average_alone(base)?;
        let uses = |network: Network| loras.iter().any(|(lora, _)| lora.modules.keys().any(|m| m.network == network));
        let structure = Structure {
            unet: uses(Network::Unet).then(|| UnetLayout::infer(base)).transpose()?,
            text: uses(Network::TextEncoder).then(|| TextLayout::infer(base)).transpose()?,
        };
        let layers = structure.layers();
        let carried = Carried::new(base, dtype, |name| !DROPPED.iter().any(|prefix| name.starts_with(prefix)))?;
        let mut changes: BTreeMap<String, Vec<(f32, &LoraModule)>> = BTreeMap::new();
        for (lora, strength) in loras {
            fit::check(lora, &layers, &base.path().display().to_string())?;
            for (module, factors) in &lora.modules {
                let layer = &layers[module];
                let stored = carried.infos().get(&layer.tensor).map(|info| info.dtype);
                ensure!(
                    stored.is_none_or(|dtype| !dtype.is_float8()),
                    "`{}` of `{}` has numbers of 8 bits, in which a LoRA's change is lost: give `dtype: fp16`",
                    layer.tensor,
                    base.path().display()
                );
                changes.entry(layer.tensor.clone()).or_default().push((*strength as f32, factors));
            }
        }
        let marks = Predicts::marks_of(base).iter().copied().filter(|mark| !base.tensors().contains_key(*mark)).collect();
        Ok(Self { base: carried, changes, marks })
    }

    /// What the result holds.
    pub fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let marks = self.marks.iter().map(|mark| (mark.to_string(), TensorInfo { dtype: Dtype::F32, shape: vec![0] }));
        self.base.infos().clone().into_iter().chain(marks).collect()
    }

    /// What of the base is passed over or not carried as it is, as lines for the user.
    pub fn remarks(&self) -> Vec<String> {
        self.base.remarks()
    }

    /// One tensor of the result.
    ///
    /// # Errors
    /// If it or the result is not finite, or too large for its type.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        if self.marks.contains(&name) {
            return Ok(TensorData::from_f32(&[0], &[]));
        }
        let Some(changes) = self.changes.get(name) else { return self.base.cast(name) };
        let tensor = self.base.read(name)?;
        let dtype = self.base.infos()[name].dtype;
        let mut values = tensor.to_f32()?;
        for (strength, factors) in changes {
            for (value, change) in values.iter_mut().zip(&factors.delta().values) {
                *value += strength * change;
            }
        }
        let merged = TensorData::of_f32(&tensor.shape, &values)?;
        let stored = refuse_broken(&merged, name).and_then(|()| merged.cast(dtype));
        stored.with_context(|| format!("tensor `{name}` of the merge"))
    }
}
