//! The VAE with its latents scaled to what the UNet expects. Unaware of the other networks.

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};

use crate::sd::checkpoint::drawable;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::models::vae::{AutoencoderKl, VaeConfig};
use crate::sd::models::weights::{Source, Weights};
use crate::sd::stable_diffusion::GROUPS;
use crate::sd::stable_diffusion::file_weights::FileWeights;

/// Scales latents to about unit variance; `scaling_factor` in SD 1.5's vae/config.json.
pub const LATENT_SCALE: f64 = 0.18215;

/// The VAE with its latents scaled to what the UNet expects.
#[derive(Debug)]
pub struct Vae {
    network: AutoencoderKl,
}

impl Vae {
    /// Reads the VAE of a whole checkpoint, or of a file of its own, onto `device`.
    ///
    /// # Errors
    /// If the file lacks a tensor or holds one of another shape.
    pub fn load(file: &ModelFile, device: &Device) -> Result<Self> {
        let layout = drawable::check_vae(file).with_context(|| format!("reading the VAE of `{}`", file.path().display()))?;
        let config = VaeConfig {
            channels: layout.channels.clone(),
            resnets: layout.res_blocks,
            latent_channels: layout.latent_channels,
            groups: GROUPS,
        };
        let mut weights = FileWeights::new(file, layout.keys(), &layout.names);
        Self::new(&config, &mut weights, device)
    }

    /// A VAE of that structure.
    ///
    /// # Errors
    /// If `weights` lack a tensor or give one of another shape.
    pub fn new(config: &VaeConfig, weights: &mut dyn Weights, device: &Device) -> Result<Self> {
        Ok(Self { network: AutoencoderKl::init(config, Source::new(weights, device))? })
    }

    /// The scaled mean of the latents: `[batch, 3, height, width]`, -1 to 1, to `[batch, 4, height / 8, width / 8]`.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.network.encode(pictures) * LATENT_SCALE
    }

    /// `[batch, 4, height / 8, width / 8]`, scaled, to `[batch, 3, height, width]`, about -1 to 1.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.network.decode(latents / LATENT_SCALE)
    }

    /// Pixels of a picture, along one side, for one of its latents: 8 in SD 1.x.
    pub fn factor(&self) -> usize {
        self.network.factor()
    }
}
