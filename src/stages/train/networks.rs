//! The networks that stages share while a run lasts. Not a kind.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use burn::tensor::{DType, Device};

use crate::choice;
use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::worker_environment::amd_card;
use crate::engine::kind::item::Artifact;
use crate::engine::kind::stage::Context;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::tensor::Dtype;
use crate::sd::device;
use crate::sd::stable_diffusion::{Denoiser, Precisions, Vae};

choice! {
    /// The type of a model's weights.
    pub enum Precision {
        /// Half the memory. What most models are published in.
        Fp16 = "fp16",
        /// Half the memory, with the range of fp32 and fewer digits. For cards that have it: RDNA 3 and later, NVIDIA from Ampere on.
        Bf16 = "bf16",
        /// As exact as the file.
        Fp32 = "fp32"
    }
}

impl Precision {
    /// The type that weights are rounded to, in the networks and in the checkpoint files.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Fp16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
            Self::Fp32 => Dtype::F32,
        }
    }

    /// What a card computes in.
    fn arithmetic(self) -> DType {
        match self {
            Self::Fp16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Fp32 => DType::F32,
        }
    }

    /// As `ss_mixed_precision` names it.
    pub fn kohya(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "no",
        }
    }
}

/// Text encoder and UNet of `base`, loaded once for all stages that ask for the same.
///
/// Whoever locks them finds them without adapters, and leaves them so. A training that needs no text encoder any more may have
/// given it up: then it is read again.
pub fn denoiser(context: &dyn Context, base: &Artifact, precision: Precision) -> Result<Arc<Mutex<Denoiser>>> {
    let key = format!("denoiser {} {} {}", base.digest.to_hex(), precision.word(), context.device());
    let shared = context.shared(&key, &mut || {
        let device = device::named(context.device())?;
        let base = ModelFile::open(&context.path(base)?)?;
        base.remark().iter().for_each(|remark| context.say(remark));
        Ok(Arc::new(Mutex::new(Denoiser::load(&base, precisions(context.device(), &device, precision)?, &device)?)))
    })?;
    let denoiser: Arc<Mutex<Denoiser>> =
        shared.downcast().ok().context("another kind of thing is kept under the name of these networks")?;
    let mut lent = denoiser.lock().ok().context("another stage broke down while it used the networks")?;
    if lent.text_encoder().is_err() {
        let base = ModelFile::open(&context.path(base)?)?;
        let precisions = precisions(context.device(), lent.device(), precision)?;
        lent.read_text_encoder(&base, precisions)?;
    }
    drop(lent);
    Ok(denoiser)
}

/// What a model is rounded to and what it computes in, on the device of that name.
///
/// # Errors
/// If the card does not compute in bf16: it would be slower than fp32, or wrong.
fn precisions(name: &str, device: &Device, precision: Precision) -> Result<Precisions> {
    let arithmetic = device::arithmetic(device, precision.arithmetic());
    if arithmetic == DType::BF16
        && let Some(gpu) = amd_card(name, &Machine::read(&Host::this()))
    {
        ensure!(gpu.gfx.computes_bf16(), "`precision: bf16`: {} does not compute in bf16; `precision: fp16` does", gpu.gfx);
    }
    Ok(Precisions { weights: precision.dtype(), arithmetic })
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
