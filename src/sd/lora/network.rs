//! A LoRA network: for each adapted module a pair of factors, `down` then `up`, on the host in f32. Unaware of devices and of what the
//! modules compute.
//!
//! A module's output gains `alpha / rank · up(down(x))`. `up` starts at zero, so an untrained network changes nothing; Hu et al. 2021,
//! with kohya's names and shapes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::sd::checkpoint::tensor::{Dtype, TensorData};
use crate::sd::checkpoint::{metadata, safetensors};
use crate::sd::random::stream;

/// A layer that receives an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// kohya's: `lora_unet_mid_block_attentions_0_proj_in`.
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
    /// A 1×1 convolution: its factors have two more sides of length 1.
    pub convolution: bool,
}

/// One factor of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// As in the file: `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`.
    pub name: String,
    /// `down`: `[rank, inputs]`; `up`: `[outputs, rank]`; of convolutions `[.., .., 1, 1]`.
    pub shape: Vec<usize>,
    /// Row-major, as many as the shape says.
    pub values: Vec<f32>,
}

/// All adapters of one training.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraNetwork {
    /// In the order of the networks' modules.
    pub targets: Vec<Target>,
    pub rank: usize,
    pub alpha: f64,
    /// `down` and `up` of each target: those of `targets[i]` are at `2 i` and `2 i + 1`.
    pub factors: Vec<Factor>,
}

impl LoraNetwork {
    /// `down` uniform in ±1/√inputs (Kaiming's with a = √5, PyTorch's default for linear layers), keyed by the seed and the module's name,
    /// so that one module more or less changes no other; `up` zero.
    pub fn new(targets: Vec<Target>, rank: usize, alpha: f64, seed: u64) -> Self {
        let mut factors = Vec::with_capacity(2 * targets.len());
        for target in &targets {
            let bound = 1.0 / (target.inputs as f32).sqrt();
            let mut drawn = stream(seed, &format!("lora_down {}", target.name), 0);
            let down = drawn.uniform(rank * target.inputs).into_iter().map(|unit| (2.0 * unit - 1.0) * bound).collect();
            factors.push(target.factor("lora_down", rank, target.inputs, down));
            factors.push(target.factor("lora_up", target.outputs, rank, vec![0.0; target.outputs * rank]));
        }
        Self { targets, rank, alpha, factors }
    }

    /// The factor of the adapters' outputs.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Values of all factors together.
    pub fn parameter_count(&self) -> usize {
        self.factors.iter().map(|factor| factor.values.len()).sum()
    }

    /// The tensors of a kohya file, `alpha` included, rounded to `dtype`.
    ///
    /// # Errors
    /// If a value is not finite or too large for `dtype`.
    pub fn tensors(&self, dtype: Dtype) -> Result<BTreeMap<String, TensorData>> {
        let mut tensors = BTreeMap::new();
        for factor in &self.factors {
            if let Some(value) = factor.values.iter().find(|value| !value.is_finite()) {
                bail!("`{}` holds {value}: the training broke down, try a lower learning rate", factor.name);
            }
            tensors.insert(factor.name.clone(), TensorData::from_f32(&factor.shape, &factor.values).cast(dtype)?);
        }
        for target in &self.targets {
            let alpha = TensorData::from_f32(&[], &[self.alpha as f32]).cast(dtype)?;
            tensors.insert(format!("{}.alpha", target.name), alpha);
        }
        Ok(tensors)
    }

    /// The bytes of a kohya file. `more` joins the metadata that every LoRA of ours has.
    ///
    /// # Errors
    /// As [`Self::tensors`].
    pub fn to_file(&self, dtype: Dtype, more: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let tensors = self.tensors(dtype)?;
        let mut metadata = metadata::of_lora(self.rank, self.alpha, more);
        metadata::add_hashes(&tensors, &mut metadata)?;
        safetensors::to_bytes(&tensors, &metadata)
    }
}

impl Target {
    fn factor(&self, kind: &str, outputs: usize, inputs: usize, values: Vec<f32>) -> Factor {
        let mut shape = vec![outputs, inputs];
        if self.convolution {
            shape.extend([1, 1]);
        }
        Factor { name: format!("{}.{kind}.weight", self.name), shape, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        let target = |name: &str, inputs, outputs, convolution| Target { name: name.into(), inputs, outputs, convolution };
        vec![target("lora_unet_proj_in", 64, 32, true), target("lora_te_q_proj", 16, 48, false)]
    }

    #[test]
    fn factors_have_kohyas_names_and_shapes() {
        let network = LoraNetwork::new(targets(), 4, 2.0, 7);
        let tensors = network.tensors(Dtype::F16).unwrap();
        let shapes: Vec<(&str, &[usize])> = tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.shape[..])).collect();
        let expected: [(&str, &[usize]); 6] = [
            ("lora_te_q_proj.alpha", &[]),
            ("lora_te_q_proj.lora_down.weight", &[4, 16]),
            ("lora_te_q_proj.lora_up.weight", &[48, 4]),
            ("lora_unet_proj_in.alpha", &[]),
            ("lora_unet_proj_in.lora_down.weight", &[4, 64, 1, 1]),
            ("lora_unet_proj_in.lora_up.weight", &[32, 4, 1, 1]),
        ];
        assert_eq!(shapes, expected);
        assert_eq!(tensors["lora_te_q_proj.alpha"].to_f32().unwrap(), [2.0]);
        assert_eq!(network.scale(), 0.5);
    }

    #[test]
    fn an_untrained_network_fills_down_evenly_and_leaves_up_at_zero() {
        let network = LoraNetwork::new(targets(), 64, 64.0, 7);
        let (down, up) = (&network.factors[0].values, &network.factors[1].values);
        let bound = 1.0 / 8.0;
        assert!(down.iter().all(|value| value.abs() <= bound));
        assert!(down.iter().any(|value| *value > 0.95 * bound) && down.iter().any(|value| *value < -0.95 * bound));
        // Variance of a uniform distribution: bound² / 3.
        let variance = down.iter().map(|value| value * value).sum::<f32>() / down.len() as f32;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.05, "{variance}");
        assert!(up.iter().all(|value| *value == 0.0));
    }

    #[test]
    fn one_module_less_changes_no_other() {
        let both = LoraNetwork::new(targets(), 4, 4.0, 7);
        let second = LoraNetwork::new(targets().split_off(1), 4, 4.0, 7);
        assert_eq!(both.factors[2..], second.factors[..]);
        assert_ne!(both.factors, LoraNetwork::new(targets(), 4, 4.0, 8).factors);
    }

    #[test]
    fn a_broken_factor_is_never_written() {
        let mut network = LoraNetwork::new(targets(), 4, 4.0, 7);
        network.factors[3].values[5] = f32::NAN;
        assert!(network.tensors(Dtype::F16).unwrap_err().to_string().contains("`lora_te_q_proj.lora_up.weight` holds NaN"));
    }
}
