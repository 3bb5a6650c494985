//! Stable Diffusion: text encoder, UNet and VAE of one checkpoint, on one device. Unaware of prompts, samplers and training.

use anyhow::Result;
use burn::tensor::Device;

use crate::sd::checkpoint::drawable::{self, GROUPS};
use crate::sd::checkpoint::family::Predicts;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::diffusion::prediction::Prediction;

mod denoiser;
mod file_weights;
mod vae;

pub use denoiser::{Denoiser, Precisions, load_text_encoder, load_unet};
pub use vae::{LATENT_SCALE, Vae};

/// What the UNet of `base` predicts, if it says so.
///
/// # Errors
/// If it says that it predicts something that is not known here.
pub fn prediction(base: &ModelFile) -> Result<Option<Prediction>> {
    Ok(Predicts::of(base)?.map(|predicts| match predicts {
        Predicts::Epsilon => Prediction::Epsilon,
        Predicts::Velocity => Prediction::Velocity,
        Predicts::VelocityAtZeroSnr => Prediction::VelocityAtZeroSnr,
    }))
}

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
    /// If a file lacks a tensor or holds one of another shape, or is another model than this program knows; the message names it.
    pub fn load(base: &ModelFile, vae: Option<&ModelFile>, device: &Device) -> Result<Self> {
        drawable::check(base, vae)?;
        let denoiser = Denoiser::load(base, Precisions::F32, device)?;
        Ok(Self::new(denoiser, Vae::load(vae.unwrap_or(base), device)?))
    }

    /// Both on one device.
    pub fn new(denoiser: Denoiser, vae: Vae) -> Self {
        Self { denoiser, vae }
    }

    /// Where the weights of all three networks are.
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

    /// From pictures to scaled latents and back. No LoRA adapts it.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }
}
