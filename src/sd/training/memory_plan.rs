//! How much memory a training will need, reckoned from the shapes of its networks before it begins, and which settings need less. Unaware of how
//! much there is.
//!
//! Counts what the operations keep for their gradients; what libraries need beside is an allowance, measured where each constant stands.

use std::collections::BTreeMap;

use burn::tensor::DType;

use crate::sd::device;
use crate::sd::lora::network::LoraNetwork;
use crate::sd::lora::targets::{UNET_PREFIX, name};
use crate::sd::models::layers::AdaptedLinear;
use crate::sd::models::segment::Needs;
use crate::sd::stable_diffusion::Denoiser;

/// What a training asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Images of a forward pass.
    pub batch: usize,
    /// Height and width of a latent.
    pub latent: [usize; 2],
    /// Of a text, all rows together.
    pub tokens: usize,
    pub trains_text_encoder: bool,
    pub checkpointing: bool,
}

/// In bytes, at the moment of most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pub weights: u64,
    /// What the forward pass keeps for the gradients.
    pub activations: u64,
    /// What is needed beside: gradients on their way, the LoRA with gradients and moments, libraries.
    pub others: u64,
}

/// Program and what it lays by with the embedded backend: the example's training peaks at 86 MB, of which 55 MB are networks, activations and
/// factors, and trainings of SD 1.5 peak 0.2 to 0.35 GB below those with libtorch. In a build with libtorch the library is loaded too: one run of
/// the example took 202 MB.
const EMBEDDED: u64 = if cfg!(feature = "libtorch") { 144 << 20 } else { 32 << 20 };
/// Program, libraries and what they lay by on a processor with libtorch: a training of the tiny preset peaks at 0.3 GB.
const ON_PROCESSOR: u64 = 300 << 20;
/// Context, kernels and convolutions' workspace on a card: not measured, of the order that PyTorch's own trainers show.
const ON_CARD: u64 = 800 << 20;

impl MemoryPlan {
    /// With UNet and text encoder both in the type of the UNet.
    pub fn of(model: &Denoiser, network: &LoraNetwork, load: &Load) -> Self {
        Self::in_type(model, network, load, model.unet().dtype())
    }

    /// With UNet and text encoder in another type than theirs.
    fn in_type(model: &Denoiser, network: &LoraNetwork, load: &Load, dtype: DType) -> Self {
        let targets: BTreeMap<&str, usize> = network.targets.iter().map(|target| (target.name.as_str(), network.rank)).collect();
        let adapted = |layer: &AdaptedLinear| targets.get(name(UNET_PREFIX, layer).as_str()).copied();
        let unet = model.unet();
        let mut size = load.latent;
        let needs: Vec<Needs> = unet
            .segments()
            .iter()
            .map(|segment| {
                let needs = segment.needs(size, load.tokens, &adapted);
                size = needs.output;
                needs
            })
            .collect();
        let sum = |part: fn(&Needs) -> usize| needs.iter().map(part).sum::<usize>();
        let most = |part: fn(&Needs) -> usize| needs.iter().map(part).max().unwrap_or(0);
        let text_encoder = model.text_encoder().ok().filter(|_| load.trains_text_encoder);
        let of_texts = text_encoder.map_or(0, |text| load.tokens * text.layers() * text.saved_activations());
        let of_pictures =
            if load.checkpointing { sum(|needs| needs.input) + most(|needs| needs.kept) } else { sum(|needs| needs.kept) };
        let weights = unet.parameter_count() + text_encoder.map_or(0, |text| text.parameter_count());
        let bytes = |elements: usize| (elements * dtype.size()) as u64;
        // Each factor, its gradient and two moments, in f32, and once more where the device has its own copy.
        let factors = 5 * 4 * network.parameter_count() as u64;
        let libraries = match model.device() {
            device if device::is_card(device) => ON_CARD,
            device if device::is_embedded(device) => EMBEDDED,
            _ => ON_PROCESSOR,
        };
        Self {
            weights: bytes(weights),
            activations: bytes(load.batch * (of_pictures + of_texts)),
            others: bytes(load.batch * most(|needs| needs.passing)) + factors + libraries,
        }
    }

    /// In bytes: the three parts together.
    pub fn total(&self) -> u64 {
        self.weights + self.activations + self.others
    }
}

/// Other settings for the same training that need less, each with its plan, the one that changes least first.
pub fn smaller(model: &Denoiser, network: &LoraNetwork, load: &Load) -> Vec<(String, MemoryPlan)> {
    let mut changes: Vec<String> = Vec::new();
    let (mut load, mut dtype) = (*load, model.unet().dtype());
    let mut found: Vec<(String, MemoryPlan)> = Vec::new();
    let mut try_also = |change: &str, load: &Load, dtype: DType| {
        changes.push(change.to_string());
        found.push((changes.join(" and "), MemoryPlan::in_type(model, network, load, dtype)));
    };
    if !load.checkpointing {
        load.checkpointing = true;
        try_also("`checkpointing: true`", &load, dtype);
    }
    if device::is_card(model.device()) && dtype == DType::F32 {
        dtype = DType::F16;
        try_also("`precision: fp16`", &load, dtype);
    }
    if load.batch > 1 {
        let was = load.batch;
        load.batch = 1;
        try_also(&format!("`batch_size: 1` with `gradient_accumulation` times {was}"), &load, dtype);
    }
    if load.trains_text_encoder {
        load.trains_text_encoder = false;
        try_also("`learning_rate.text_encoder: 0`", &load, dtype);
    }
    found
}
