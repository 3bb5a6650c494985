//! Puts LoRAs onto networks as adapters, the way they are used without a merge. Unaware of how they were trained.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::sd::checkpoint::modules::{ModulePath, Network};
use crate::sd::lora::file::Lora;
use crate::sd::lora::module::LoraModule;
use crate::sd::models::layers::{AdaptedLinear, Adapter};
use crate::sd::stable_diffusion::StableDiffusion;

/// Replaces the adapters of `model` by those of `loras`, each with its strength; several add up. An empty list leaves the bare model.
///
/// # Errors
/// If a LoRA adapts a layer that the model lacks or that cannot carry an adapter, or one of another shape. The adapters are then in no
/// defined state.
pub fn adapt(model: &mut StableDiffusion, loras: &[(Lora, f64)]) -> Result<()> {
    let mut wanted: BTreeMap<&ModulePath, Vec<(&LoraModule, f64)>> = BTreeMap::new();
    for (lora, strength) in loras {
        for (path, module) in &lora.modules {
            ensure!(
                module.kernel.is_none_or(|kernel| kernel == [1, 1]),
                "the LoRA adapts the convolution `{path}`, which is only possible merged: use `merge`, and draw with the result"
            );
            wanted.entry(path).or_default().push((module, *strength));
        }
    }
    let device = model.device().clone();
    let mut misfit = None;
    let mut set = |network: Network, layer: &mut AdaptedLinear| {
        let parts = wanted.remove(&ModulePath { network, path: layer.path().to_string() }).unwrap_or_default();
        let (inputs, outputs) = (layer.inputs(), layer.outputs());
        if let Some((module, _)) = parts.iter().find(|(module, _)| module.down.columns != inputs || module.up.rows != outputs) {
            let (path, found) = (layer.path(), module.weight_shape());
            misfit.get_or_insert(format!(
                "the LoRA does not fit the base: `{path}` is [{outputs}, {inputs}], the LoRA's {found:?}"
            ));
            return;
        }
        layer.set_adapter((!parts.is_empty()).then(|| stacked(&parts, inputs, outputs, &device)));
    };
    let (unet, text_encoder) = model.denoiser_mut().networks();
    unet.adapted(&mut |layer| set(Network::Unet, layer));
    if let Some(text_encoder) = text_encoder {
        text_encoder.adapted(&mut |layer| set(Network::TextEncoder, layer));
    }
    if let Some(misfit) = misfit {
        bail!(misfit);
    }
    if let Some(path) = wanted.keys().next() {
        bail!("the LoRA adapts `{path}`, which the base has not: it was trained on another kind of model");
    }
    Ok(())
}

/// One adapter that does what all `parts` do together: their factors one below, and one beside, the other.
fn stacked(parts: &[(&LoraModule, f64)], inputs: usize, outputs: usize, device: &Device) -> Adapter {
    let rank: usize = parts.iter().map(|(module, _)| module.rank()).sum();
    let down: Vec<f32> = parts.iter().flat_map(|(module, _)| &module.down.values).copied().collect();
    let mut up = Vec::with_capacity(outputs * rank);
    for row in 0..outputs {
        for (module, strength) in parts {
            let scale = (f64::from(module.scale()) * strength) as f32;
            up.extend(module.up.values[row * module.rank()..][..module.rank()].iter().map(|value| value * scale));
        }
    }
    let tensor = |values, shape: [usize; 2]| Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
    Adapter { down: tensor(down, [rank, inputs]), up: tensor(up, [outputs, rank]), scale: 1.0 }
}
