//! The residual block of UNet and VAE: two convolutions, each behind a group norm with SiLU.
//!
//! Field names are those of diffusers' `ResnetBlock2D`, `Downsample2D` and `Upsample2D`.

use anyhow::Result;
use burn::tensor::Tensor;

use crate::sd::models::layers::{Convolution, GroupNorm, Linear};
use crate::sd::models::weights::Source;
use crate::sd::ops::arguments::{Groups, Placement, Then};
use crate::sd::ops::upsample::upsample;

/// Two 3×3 convolutions, each behind a group norm with SiLU; the UNet adds the time embedding between them. The input is added to the result.
#[derive(Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Convolution,
    /// Only in the UNet.
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Convolution,
    /// A 1×1 convolution where the number of channels changes.
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock {
    /// `time_width`: of the time embedding, if the block gets one.
    pub fn init(mut source: Source, inputs: usize, outputs: usize, time_width: Option<usize>, groups: Groups) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::init(source.at("norm1"), inputs, groups, Then::Silu)?,
            conv1: Convolution::same(source.at("conv1"), inputs, outputs)?,
            time_emb_proj: time_width.map(|width| Linear::init(source.at("time_emb_proj"), width, outputs)).transpose()?,
            norm2: GroupNorm::init(source.at("norm2"), outputs, groups, Then::Silu)?,
            conv2: Convolution::same(source.at("conv2"), outputs, outputs)?,
            conv_shortcut: match inputs == outputs {
                true => None,
                false => Some(Linear::init(source.at("conv_shortcut"), inputs, outputs)?),
            },
        })
    }

    /// Channels of what goes in.
    pub fn inputs(&self) -> usize {
        self.norm1.channels()
    }

    /// Elements for each pixel that are saved for the backward pass: what goes into the two norms.
    pub fn saved_activations(&self) -> usize {
        self.norm1.channels() + self.norm2.channels()
    }

    /// - `x`: `[batch, height, width, inputs]`
    /// - `time`: `[batch, time_width]`, the time embedding after SiLU; only for a block with `time_width`
    /// - the result: `[batch, height, width, outputs]`
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let mut hidden = self.conv1.forward(self.norm1.forward(x.clone()));
        if let (Some(projection), Some(time)) = (&self.time_emb_proj, time) {
            let shift = projection.forward(time.clone());
            let [batch, channels] = shift.dims();
            hidden = hidden + shift.reshape([batch, 1, 1, channels]);
        }
        let hidden = self.conv2.forward(self.norm2.forward(hidden));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// A convolution that halves height and width.
#[derive(Debug)]
pub struct Downsample {
    conv: Convolution,
}

impl Downsample {
    /// The UNet pads all sides.
    pub fn symmetric(source: Source, channels: usize) -> Result<Self> {
        Self::init(source, channels, Placement { size: 3, stride: 2, before: 1, after: 1 })
    }

    /// The VAE pads only right and below.
    pub fn asymmetric(source: Source, channels: usize) -> Result<Self> {
        Self::init(source, channels, Placement { size: 3, stride: 2, before: 0, after: 1 })
    }

    fn init(mut source: Source, channels: usize, placement: Placement) -> Result<Self> {
        Ok(Self { conv: Convolution::init(source.at("conv"), channels, channels, placement)? })
    }

    /// `[batch, height, width, channels]` to `[batch, height / 2, width / 2, channels]`, for even sizes.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

/// Doubles height and width, then convolves.
#[derive(Debug)]
pub struct Upsample {
    conv: Convolution,
}

impl Upsample {
    /// A 3×3 convolution that keeps the number of channels.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, channels: usize) -> Result<Self> {
        Ok(Self { conv: Convolution::same(source.at("conv"), channels, channels)? })
    }

    /// `[batch, height, width, channels]` to `[batch, 2 height, 2 width, channels]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(upsample(x))
    }
}
