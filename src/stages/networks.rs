//! The networks that stages share while a run lasts. Not a kind.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};

use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::tensor::Dtype;
use crate::choice;
use crate::device;
use crate::pipeline::item::Artifact;
use crate::pipeline::stage::Context;
use crate::stable_diffusion::{Denoiser, Vae};

choice! {
    /// The type of a model's weights.
    pub enum Precision {
        /// Half the memory. What most models are published in.
        Fp16 = "fp16",
        /// As exact as the file.
        Fp32 = "fp32"
    }
}

impl Precision {
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Fp16 => Dtype::F16,
            Self::Fp32 => Dtype::F32,
        }
    }

    /// As `ss_mixed_precision` names it.
    pub fn kohya(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Fp32 => "no",
        }
    }
}

/// Text encoder and UNet of `base`, loaded once for all stages that ask for the same.
///
/// Whoever locks them finds them without adapters, and leaves them so. A training that needs no text encoder any more may have given it
/// up: then it is read again.
pub fn denoiser(context: &dyn Context, base: &Artifact, precision: Precision) -> Result<Arc<Mutex<Denoiser>>> {
    let key = format!("denoiser {} {} {}", base.digest.to_hex(), precision.word(), context.device());
    let shared = context.shared(&key, &mut || {
        let device = device::named(context.device())?;
        let base = ModelFile::open(&context.path(base)?)?;
        Ok(Arc::new(Mutex::new(Denoiser::load(&base, precision.dtype(), &device)?)))
    })?;
    let denoiser: Arc<Mutex<Denoiser>> =
        shared.downcast().ok().context("another kind of thing is kept under the name of these networks")?;
    let mut lent = denoiser.lock().ok().context("another stage broke down while it used the networks")?;
    if lent.text_encoder().is_err() {
        let base = ModelFile::open(&context.path(base)?)?;
        lent.read_text_encoder(&base, precision.dtype())?;
    }
    drop(lent);
    Ok(denoiser)
}

/// The VAE of a model file, or of a file of its own, loaded once.
pub fn vae(context: &dyn Context, file: &Artifact) -> Result<Arc<Mutex<Vae>>> {
    let key = format!("vae {} {}", file.digest.to_hex(), context.device());
    let shared = context.shared(&key, &mut || {
        let device = device::named(context.device())?;
        Ok(Arc::new(Mutex::new(Vae::load(&ModelFile::open(&context.path(file)?)?, &device)?)))
    })?;
    shared.downcast().ok().context("another kind of thing is kept under the name of this VAE")
}
