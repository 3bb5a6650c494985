//! The shapes of known models, filled with random weights.

use anyhow::Result;
use burn::tensor::{DType, Device};

use crate::sd::models::clip::{ClipTextConfig, ClipTextModel};
use crate::sd::models::layers::Projection;
use crate::sd::models::transformer::{Heads, TransformerConfig};
use crate::sd::models::unet::{Unet, UnetConfig};
use crate::sd::models::vae::VaeConfig;
use crate::sd::models::weights::{Source, Weights};
use crate::sd::ops::arguments::Activation;
use crate::sd::random::stream;
use crate::sd::stable_diffusion::Vae;

/// A model's shape.
#[derive(Clone, Debug)]
pub struct Preset {
    pub name: &'static str,
    /// What it is measured at unless another size is asked for: pixels of a side.
    pub size: usize,
    channels: &'static [usize],
    attention: &'static [bool],
    resnets: usize,
    heads: Heads,
    projection: Projection,
    text_width: usize,
    text_layers: usize,
    text_activation: Activation,
    vae_channels: &'static [usize],
    vae_resnets: usize,
}

/// The example's model, Stable Diffusion 1.5 and 2.1.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "tiny",
        size: 64,
        channels: &[32, 64, 128],
        attention: &[true, true, false],
        resnets: 1,
        heads: Heads::Count(8),
        projection: Projection::Convolution,
        text_width: 64,
        text_layers: 2,
        text_activation: Activation::QuickGelu,
        vae_channels: &[32, 64, 64],
        vae_resnets: 1,
    },
    Preset {
        name: "sd15",
        size: 512,
        channels: &[320, 640, 1280, 1280],
        attention: &[true, true, true, false],
        resnets: 2,
        heads: Heads::Count(8),
        projection: Projection::Convolution,
        text_width: 768,
        text_layers: 12,
        text_activation: Activation::QuickGelu,
        vae_channels: &[128, 256, 512, 512],
        vae_resnets: 2,
    },
    Preset {
        name: "sd21",
        size: 768,
        channels: &[320, 640, 1280, 1280],
        attention: &[true, true, true, false],
        resnets: 2,
        heads: Heads::Width(64),
        projection: Projection::Linear,
        text_width: 1024,
        text_layers: 23,
        text_activation: Activation::Gelu,
        vae_channels: &[128, 256, 512, 512],
        vae_resnets: 2,
    },
];

/// Groups of all group norms.
const GROUPS: usize = 32;
/// Of a latent.
pub(super) const LATENT_CHANNELS: usize = 4;
/// Tokens of a text.
pub(super) const TOKENS: usize = 77;

impl Preset {
    /// Width of the contexts.
    pub(super) fn text_width(&self) -> usize {
        self.text_width
    }

    /// Pixels for one of a latent.
    pub(super) fn factor(&self) -> usize {
        1 << (self.vae_channels.len() - 1)
    }

    /// With weights of the type that it shall compute in.
    pub(super) fn unet(&self, device: &Device, dtype: DType) -> Result<Unet> {
        let transformer = TransformerConfig { heads: self.heads, context_width: self.text_width, projection: self.projection };
        let config = UnetConfig {
            in_channels: LATENT_CHANNELS,
            out_channels: LATENT_CHANNELS,
            channels: self.channels.to_vec(),
            attention: self.attention.to_vec(),
            resnets: self.resnets,
            groups: GROUPS,
            transformer,
        };
        Unet::init(&config, Source::new(&mut RandomWeights::new(), device).in_type(dtype))
    }

    /// As [`Self::unet`].
    pub(super) fn text_encoder(&self, device: &Device, dtype: DType) -> Result<ClipTextModel> {
        let config = ClipTextConfig {
            width: self.text_width,
            layers: self.text_layers,
            heads: self.text_width / 64,
            hidden: 4 * self.text_width,
            vocabulary: 49408,
            positions: TOKENS,
            activation: self.text_activation,
        };
        ClipTextModel::init(&config, Source::new(&mut RandomWeights::new(), device).in_type(dtype))
    }

    pub(super) fn vae(&self, device: &Device) -> Result<Vae> {
        let config = VaeConfig {
            channels: self.vae_channels.to_vec(),
            resnets: self.vae_resnets,
            latent_channels: LATENT_CHANNELS,
            groups: GROUPS,
        };
        Vae::new(&config, &mut RandomWeights::new(), device)
    }
}

/// Even numbers of a size that keeps activations near 1, the same ones again and again: a whole model's own would take longer to draw
/// than a step takes.
struct RandomWeights {
    /// In ±1, with a variance of 1/3.
    numbers: Vec<f32>,
}

impl RandomWeights {
    /// A prime, so that rows of a weight differ.
    const COUNT: usize = 65_537;

    fn new() -> Self {
        let numbers = stream(0, "weights of a benchmark", 0).uniform(Self::COUNT);
        Self { numbers: numbers.into_iter().map(|unit| 2.0 * unit - 1.0).collect() }
    }
}

impl Weights for RandomWeights {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (offset, scale) = match shape {
            [_] if name.ends_with(".weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            [_, inputs @ ..] => (0.0, (3.0 / inputs.iter().product::<usize>() as f32).sqrt()),
            [] => (0.0, 1.0),
        };
        let count = shape.iter().product();
        Ok(self.numbers.iter().cycle().take(count).map(|number| offset + scale * number).collect())
    }
}
