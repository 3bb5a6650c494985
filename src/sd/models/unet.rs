//! The UNet of Stable Diffusion 1.x and 2.x: predicts the noise in latents (Rombach et al. 2022).
//!
//! Field names are those of diffusers' `UNet2DConditionModel`.

use anyhow::Result;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::sd::models::layers::{Convolution, GroupNorm, Linear, Visit, channels_first, channels_last};
use crate::sd::models::resnet::{Downsample, ResnetBlock, Upsample};
use crate::sd::models::segment::{Part, Segment, pass};
use crate::sd::models::transformer::{Transformer, TransformerConfig};
use crate::sd::models::weights::Source;
use crate::sd::ops::activation::activate;
use crate::sd::ops::arguments::{Activation, Groups, Then};

/// The structure of a UNet: its levels, and what all its transformers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetConfig {
    /// 4; 9 in a model for inpainting.
    pub in_channels: usize,
    pub out_channels: usize,
    /// Of each level, from the finest: 320, 640, 1280, 1280 in SD 1.x.
    pub channels: Vec<usize>,
    /// Whether a level has transformers: all but the last in SD 1.x.
    pub attention: Vec<bool>,
    /// Residual blocks a level on the way down, one fewer than on the way up: 2 in SD 1.x.
    pub resnets: usize,
    /// Groups of each group norm: 32.
    pub groups: usize,
    pub transformer: TransformerConfig,
}

impl UnetConfig {
    /// Width of the time embedding.
    fn time_width(&self) -> usize {
        4 * self.channels[0]
    }
}

/// The epsilon of the group norms outside transformers.
const EPSILON: f64 = 1e-5;

/// Levels on the way down, a middle, and levels on the way up, which take the feature maps that the way down left.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    time_embedding: TimeEmbedding,
    conv_in: Convolution,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Convolution,
    parameter_count: usize,
}

impl Unet {
    /// Takes the weights from `source`. No layer has an adapter yet.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(config: &UnetConfig, mut source: Source) -> Result<Self> {
        let (first, last) = (config.channels[0], config.channels[config.channels.len() - 1]);
        let time_embedding = TimeEmbedding::init(source.at("time_embedding"), first, config.time_width())?;
        let conv_in = Convolution::same(source.at("conv_in"), config.in_channels, first)?;
        let levels = config.channels.len();
        // Channels of each feature map that the way down leaves for the way up.
        let mut skips = vec![first];
        let mut down_blocks = Vec::new();
        for level in 0..levels {
            let inputs = *skips.last().expect("the first convolution left one");
            down_blocks.push(DownBlock::init(config, source.at(format!("down_blocks.{level}")), level, inputs)?);
            let left = config.resnets + usize::from(level + 1 < levels);
            skips.extend(std::iter::repeat_n(config.channels[level], left));
        }
        let mid_block = MidBlock::init(config, source.at("mid_block"), last)?;
        let mut inputs = last;
        let mut up_blocks = Vec::new();
        for (block, level) in (0..levels).rev().enumerate() {
            let taken = skips.split_off(skips.len() - config.resnets - 1);
            up_blocks.push(UpBlock::init(config, source.at(format!("up_blocks.{block}")), level, inputs, taken)?);
            inputs = config.channels[level];
        }
        let groups = Groups { count: config.groups, epsilon: EPSILON };
        let conv_norm_out = GroupNorm::init(source.at("conv_norm_out"), first, groups, Then::Silu)?;
        let conv_out = Convolution::same(source.at("conv_out"), first, config.out_channels)?;
        let (config, parameter_count) = (config.clone(), source.parameter_count());
        Ok(Self { config, time_embedding, conv_in, down_blocks, mid_block, up_blocks, conv_norm_out, conv_out, parameter_count })
    }

    /// Predicts the noise (or the velocity) in `latents`.
    ///
    /// - `latents`: `[batch, in_channels, height / 8, width / 8]`; sizes divisible by 2 for each level but the last
    /// - `timesteps`: one for each of the batch, 0 to 999, fractions allowed
    /// - `context`: `[batch, tokens, context_width]`, from the text encoder
    /// - the result: `[batch, out_channels, height / 8, width / 8]`, in the type of `latents`
    pub fn forward(&self, latents: Tensor<4>, timesteps: &[f32], context: &Tensor<3>) -> Tensor<4> {
        let (dtype, latents, context) = (latents.dtype(), latents.cast(self.dtype()), context.clone().cast(self.dtype()));
        let time = self.time(timesteps, &latents.device());
        let x = self.enter(latents);
        let mut skips = vec![x.clone()];
        self.leave(pass(self.segments(), x, &time, &context, &mut skips)).cast(dtype)
    }

    /// The time embedding that all segments share: `[batch, time_width]`.
    pub fn time(&self, timesteps: &[f32], device: &Device) -> Tensor<2> {
        self.time_embedding.forward(timesteps, device)
    }

    /// What comes before the segments. The result is their first input and the first feature map that is left for the way up.
    pub fn enter(&self, latents: Tensor<4>) -> Tensor<4> {
        self.conv_in.forward(channels_last(latents))
    }

    /// Everything between [`Self::enter`] and [`Self::leave`], in order.
    pub fn segments(&self) -> Vec<Segment<'_>> {
        let down = self.down_blocks.iter().flat_map(DownBlock::segments);
        let up = self.up_blocks.iter().flat_map(UpBlock::segments);
        down.chain(self.mid_block.segments()).chain(up).collect()
    }

    /// What comes after the segments.
    pub fn leave(&self, x: Tensor<4>) -> Tensor<4> {
        channels_first(self.conv_out.forward(self.conv_norm_out.forward(x)))
    }

    /// The type that it computes in. What goes into one of its parts has it, and so has what comes out.
    pub fn dtype(&self) -> DType {
        self.time_embedding.linear_1.dtype()
    }

    /// Of all its weights.
    pub fn parameter_count(&self) -> usize {
        self.parameter_count
    }

    /// The structure it was built with. It says which latents and contexts fit.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Each layer that kohya's LoRA adapts, in the order of the network.
    pub fn adapted(&mut self, visit: Visit) {
        let down = self.down_blocks.iter_mut().flat_map(|block| &mut block.attentions);
        let up = self.up_blocks.iter_mut().flat_map(|block| &mut block.attentions);
        down.chain([&mut self.mid_block.attention]).chain(up).for_each(|transformer| transformer.adapted(visit));
    }
}

/// Sines and cosines of the timestep (Vaswani et al. 2017) through two linear layers.
#[derive(Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    width: usize,
}

impl TimeEmbedding {
    fn init(mut source: Source, width: usize, time_width: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::init(source.at("linear_1"), width, time_width)?,
            linear_2: Linear::init(source.at("linear_2"), time_width, time_width)?,
            width,
        })
    }

    /// `[batch, time_width]`, after the SiLU that each residual block would begin with.
    fn forward(&self, timesteps: &[f32], device: &Device) -> Tensor<2> {
        let waves = TensorData::new(sinusoids(timesteps, self.width), [timesteps.len(), self.width]);
        let waves = Tensor::from_data(waves, (device, self.linear_1.dtype()));
        let hidden = activate(self.linear_1.forward(waves), Activation::Silu);
        activate(self.linear_2.forward(hidden), Activation::Silu)
    }
}

/// For each timestep the cosines, then the sines, of its products with frequencies from 1 down to 1/10000.
fn sinusoids(timesteps: &[f32], width: usize) -> Vec<f32> {
    let half = width / 2;
    let frequencies: Vec<f32> = (0..half).map(|i| (-(10_000f64.ln()) * i as f64 / half as f64).exp() as f32).collect();
    let waves = |timestep: &f32| {
        // The product is rounded to f32 before the cosine, as in diffusers: at 999 that matters.
        let angles: Vec<f64> = frequencies.iter().map(|frequency| f64::from(timestep * frequency)).collect();
        let cosines = angles.clone().into_iter().map(f64::cos);
        cosines.chain(angles.into_iter().map(f64::sin)).map(|wave| wave as f32).collect::<Vec<_>>()
    };
    timesteps.iter().flat_map(waves).collect()
}

/// One level on the way down.
#[derive(Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock>,
    /// One for each residual block, or none at all.
    attentions: Vec<Transformer>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    /// `inputs`: channels of what the block gets.
    pub fn init(config: &UnetConfig, mut source: Source, level: usize, inputs: usize) -> Result<Self> {
        let channels = config.channels[level];
        let mut block = Self { resnets: Vec::new(), attentions: Vec::new(), downsampler: None };
        for i in 0..config.resnets {
            let inputs = if i == 0 { inputs } else { channels };
            block.resnets.push(resnet(config, source.at(format!("resnets.{i}")), inputs, channels)?);
            if config.attention[level] {
                block.attentions.push(transformer(config, source.at(format!("attentions.{i}")), channels)?);
            }
        }
        if level + 1 < config.channels.len() {
            block.downsampler = Some(Downsample::symmetric(source.at("downsamplers.0"), channels)?);
        }
        Ok(block)
    }

    /// Adds to `skips` what the way up will take; `x` as `[batch, height, width, inputs]`, `time` as in [`ResnetBlock::forward`].
    pub fn forward(&self, x: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
        pass(self.segments(), x, time, context, skips)
    }

    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = Vec::new();
        for (i, resnet) in self.resnets.iter().enumerate() {
            let resnet = Segment::plain(Part::Resnet(resnet));
            match self.attentions.get(i) {
                Some(attention) => segments.extend([resnet, Segment::plain(Part::Transformer(attention)).leaving()]),
                None => segments.push(resnet.leaving()),
            }
        }
        segments.extend(self.downsampler.iter().map(|downsampler| Segment::plain(Part::Down(downsampler)).leaving()));
        segments
    }
}

/// Between the ways down and up, at the coarsest level.
#[derive(Debug)]
pub struct MidBlock {
    first: ResnetBlock,
    attention: Transformer,
    second: ResnetBlock,
}

impl MidBlock {
    /// `channels`: of the coarsest level.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(config: &UnetConfig, mut source: Source, channels: usize) -> Result<Self> {
        Ok(Self {
            first: resnet(config, source.at("resnets.0"), channels, channels)?,
            attention: transformer(config, source.at("attentions.0"), channels)?,
            second: resnet(config, source.at("resnets.1"), channels, channels)?,
        })
    }

    /// `x` as `[batch, height, width, channels]`, `time` as in [`ResnetBlock::forward`], `context` as in [`Transformer::forward`].
    pub fn forward(&self, x: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>) -> Tensor<4> {
        pass(self.segments(), x, time, context, &mut Vec::new())
    }

    fn segments(&self) -> [Segment<'_>; 3] {
        [Part::Resnet(&self.first), Part::Transformer(&self.attention), Part::Resnet(&self.second)].map(Segment::plain)
    }
}

/// One level on the way up; each residual block takes a feature map that the way down left.
#[derive(Debug)]
pub struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    /// - `inputs`: channels of what the block gets from below
    /// - `skips`: channels of the feature maps left for this level, the one taken last first
    pub fn init(config: &UnetConfig, mut source: Source, level: usize, inputs: usize, skips: Vec<usize>) -> Result<Self> {
        let channels = config.channels[level];
        let mut block = Self { resnets: Vec::new(), attentions: Vec::new(), upsampler: None };
        for (i, skip) in skips.into_iter().rev().enumerate() {
            let inputs = if i == 0 { inputs } else { channels };
            block.resnets.push(resnet(config, source.at(format!("resnets.{i}")), inputs + skip, channels)?);
            if config.attention[level] {
                block.attentions.push(transformer(config, source.at(format!("attentions.{i}")), channels)?);
            }
        }
        if level > 0 {
            block.upsampler = Some(Upsample::init(source.at("upsamplers.0"), channels)?);
        }
        Ok(block)
    }

    /// Takes from the end of `skips` one for each residual block.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn forward(&self, x: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
        pass(self.segments(), x, time, context, skips)
    }

    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = Vec::new();
        for (i, resnet) in self.resnets.iter().enumerate() {
            segments.push(Segment::plain(Part::Resnet(resnet)).taking());
            segments.extend(self.attentions.get(i).map(|attention| Segment::plain(Part::Transformer(attention))));
        }
        segments.extend(self.upsampler.iter().map(|upsampler| Segment::plain(Part::Up(upsampler))));
        segments
    }
}

fn resnet(config: &UnetConfig, source: Source, inputs: usize, outputs: usize) -> Result<ResnetBlock> {
    let groups = Groups { count: config.groups, epsilon: EPSILON };
    ResnetBlock::init(source, inputs, outputs, Some(config.time_width()), groups)
}

fn transformer(config: &UnetConfig, source: Source, channels: usize) -> Result<Transformer> {
    Transformer::init(source, channels, config.groups, &config.transformer)
}
