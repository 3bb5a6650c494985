//! How much two models differ where an extraction does not look: in sums of squares, by kind of tensor.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::sd::checkpoint::key::Key;
use crate::sd::checkpoint::layout::{Naming, TextLayout, UnetLayout, VaeLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::modules::{ModulePath, Network, unet_convolutions};
use crate::sd::lora::module::LoraModule;

/// A model with the layouts of what a LoRA can adapt.
type Model<'a> = (&'a ModelFile, &'a UnetLayout, &'a TextLayout);

/// Sums of squared differences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Differences {
    /// In the blocks that a LoRA of convolutions takes in.
    convolutions: f64,
    /// In layers that no LoRA of kohya's adapts: the ends, the time embedding, the tokens' embeddings.
    other_layers: f64,
    /// In biases and norms.
    vectors: f64,
    pub vae_differs: bool,
}

impl Differences {
    /// Between all tensors of two models but the weights of `looked_at`.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn outside(tuned: Model<'_>, base: Model<'_>, looked_at: &BTreeMap<ModulePath, LoraModule>) -> Result<Self> {
        let (file, unet, text) = tuned;
        let (base_file, base_unet, base_text) = base;
        let convolutions: BTreeSet<ModulePath> = unet_convolutions(unet).into_iter().map(|layer| layer.module).collect();
        let mut found = Self::default();
        let mut add = |network: Network, keys: Vec<Key>, names: [&Naming; 2]| -> Result<()> {
            for key in keys {
                let weight = key.diffusers.strip_suffix(".weight").map(|path| ModulePath::new(network, path));
                if weight.as_ref().is_some_and(|path| looked_at.contains_key(path)) {
                    continue;
                }
                let change = between(file, &names[0].in_file(&key), base_file, &names[1].in_file(&key))?;
                match weight.filter(|_| key.shape.len() > 1) {
                    Some(path) if convolutions.contains(&path) => found.convolutions += change,
                    Some(_) => found.other_layers += change,
                    None => found.vectors += change,
                }
            }
            Ok(())
        };
        add(Network::Unet, unet.keys(), [&unet.names, &base_unet.names])?;
        add(Network::TextEncoder, text.keys(), [&text.names, &base_text.names])?;
        if let (Ok(vae), Ok(base_vae)) = (VaeLayout::infer(file), VaeLayout::infer(base_file)) {
            let same = VaeLayout { names: base_vae.names.clone(), ..vae.clone() } == base_vae;
            found.vae_differs = !same;
            for key in vae.keys().into_iter().take_while(|_| same) {
                let change = between(file, &vae.names.in_file(&key), base_file, &base_vae.names.in_file(&key))?;
                if change > 0.0 {
                    found.vae_differs = true;
                    break;
                }
            }
        }
        Ok(found)
    }

    /// All of it but the VAE.
    pub fn change(&self) -> f64 {
        self.convolutions + self.other_layers + self.vectors
    }

    /// Where it is, as shares of `whole`; `None` where there is none.
    pub fn summary(&self, whole: f64) -> Option<String> {
        if self.change() == 0.0 {
            return None;
        }
        let mut parts = Vec::new();
        let mut part = |change: f64, what: &str| {
            if change > 0.0 {
                parts.push(format!("{} {what}", percent(change / whole)));
            }
        };
        part(self.convolutions, "of the change is in convolutions and what belongs to them: use `conv_rank`");
        part(self.vectors, "is in biases and norms, which no LoRA holds");
        part(self.other_layers, "is in layers that no LoRA adapts (first and last convolution, time and token embeddings)");
        Some(parts.join("; "))
    }
}

/// Sum of the squares of the differences of two tensors.
fn between(tuned: &ModelFile, name: &str, base: &ModelFile, base_name: &str) -> Result<f64> {
    let (a, b) = (tuned.read(name)?, base.read(base_name)?);
    if a.dtype == b.dtype && a.bytes == b.bytes {
        return Ok(0.0);
    }
    Ok(a.to_f32()?.iter().zip(&b.to_f32()?).map(|(a, b)| f64::from(a - b).powi(2)).sum())
}

/// `98.7 %`; less than a tenth is said to be so.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent > 0.0 && percent < 0.05 { "less than 0.1 %".to_string() } else { format!("{percent:.1} %") }
}
