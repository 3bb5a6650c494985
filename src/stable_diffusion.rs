//! Stable Diffusion: text encoder, UNet and VAE of one checkpoint, on one device. Unaware of prompts, samplers and training.

use anyhow::Result;
use burn::tensor::Device;

use crate::checkpoint::model_file::ModelFile;

mod denoiser;
mod file_weights;
mod vae;

pub use denoiser::{Denoiser, Numbers, load_text_encoder, load_unet};
pub use vae::{LATENT_SCALE, Vae};

/// Groups of every group norm of UNet and VAE; no tensor's shape tells them.
const GROUPS: usize = 32;

/// The three networks of a checkpoint.
#[derive(Debug)]
pub struct StableDiffusion {
    denoiser: Denoiser,
    vae: Vae,
}

impl StableDiffusion {
    /// Reads the networks onto `device`, one without autodiff. The VAE is that of `vae`, if given, else that of `base`.
    ///
    /// # Errors
    /// If a file lacks a tensor or holds one of another shape; the message names file and tensor.
    pub fn load(base: &ModelFile, vae: Option<&ModelFile>, device: &Device) -> Result<Self> {
        let denoiser = Denoiser::load(base, Numbers::F32, device)?;
        Ok(Self::new(denoiser, Vae::load(vae.unwrap_or(base), device)?))
    }

    /// Both on one device.
    pub fn new(denoiser: Denoiser, vae: Vae) -> Self {
        Self { denoiser, vae }
    }

    pub fn device(&self) -> &Device {
        self.denoiser.device()
    }

    /// UNet and text encoder.
    pub fn denoiser(&self) -> &Denoiser {
        &self.denoiser
    }

    /// UNet and text encoder, to put adapters on.
    pub fn denoiser_mut(&mut self) -> &mut Denoiser {
        &mut self.denoiser
    }

    pub fn vae(&self) -> &Vae {
        &self.vae
    }
}
