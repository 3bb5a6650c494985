//! The VAE: pictures to latents and back (Rombach et al. 2022).
//!
//! Field names are those of diffusers' `AutoencoderKL`.

use anyhow::Result;
use burn::tensor::Tensor;

use crate::sd::models::layers::{Convolution, GroupNorm, Linear, channels_first, channels_last};
use crate::sd::models::resnet::{Downsample, ResnetBlock, Upsample};
use crate::sd::models::weights::Source;
use crate::sd::ops::arguments::{Groups, Mask, Then};
use crate::sd::ops::attention::attention;

/// The structure of a VAE: the decoder has the levels of the encoder in reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaeConfig {
    /// Of each level, from the finest: 128, 256, 512, 512 in SD 1.x.
    pub channels: Vec<usize>,
    /// Residual blocks a level in the encoder, one fewer than in the decoder: 2 in SD 1.x.
    pub resnets: usize,
    /// 4.
    pub latent_channels: usize,
    /// Groups of each group norm: 32.
    pub groups: usize,
}

/// Red, green and blue.
const PICTURE_CHANNELS: usize = 3;
/// The epsilon of every group norm in the VAE.
const EPSILON: f64 = 1e-6;

/// Encoder and decoder, each with a 1×1 convolution on the side of the latents.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: VaeConfig,
    encoder: Encoder,
    /// 1×1.
    quant_conv: Linear,
    /// 1×1.
    post_quant_conv: Linear,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Takes the weights of encoder and decoder from `source`.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(config: &VaeConfig, mut source: Source) -> Result<Self> {
        let latent = config.latent_channels;
        Ok(Self {
            config: config.clone(),
            encoder: Encoder::init(config, source.at("encoder"))?,
            quant_conv: Linear::init(source.at("quant_conv"), 2 * latent, 2 * latent)?,
            post_quant_conv: Linear::init(source.at("post_quant_conv"), latent, latent)?,
            decoder: Decoder::init(config, source.at("decoder"))?,
        })
    }

    /// The mean of the latents of `pictures`, not scaled.
    ///
    /// - `pictures`: `[batch, 3, height, width]`, -1 to 1; sizes divisible by [`Self::factor`]
    /// - the result: `[batch, latent_channels, height / factor, width / factor]`
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        let moments = self.quant_conv.forward(self.encoder.forward(channels_last(pictures)));
        // The other half is the logarithm of the variance.
        channels_first(moments.narrow(3, 0, self.config.latent_channels))
    }

    /// The pictures of `latents`, about -1 to 1.
    ///
    /// - `latents`: `[batch, latent_channels, height / factor, width / factor]`, not scaled
    /// - the result: `[batch, 3, height, width]`
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        channels_first(self.decoder.forward(self.post_quant_conv.forward(channels_last(latents))))
    }

    /// Pixels of a picture, along one side, for one of its latents: 8 in SD 1.x.
    pub fn factor(&self) -> usize {
        1 << (self.config.channels.len() - 1)
    }

    /// The structure it was built with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }
}

#[derive(Debug)]
struct Encoder {
    conv_in: Convolution,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Downsample>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Convolution,
}

impl Encoder {
    fn init(config: &VaeConfig, mut source: Source) -> Result<Self> {
        let (first, last) = (config.channels[0], config.channels[config.channels.len() - 1]);
        let mut inputs = first;
        let mut down_blocks = Vec::new();
        for (level, &channels) in config.channels.iter().enumerate() {
            let mut source = source.at(format!("down_blocks.{level}"));
            let resnets = resnets(config, &mut source, inputs, channels, config.resnets)?;
            let is_last = level + 1 == config.channels.len();
            let downsampler = (!is_last).then(|| Downsample::asymmetric(source.at("downsamplers.0"), channels)).transpose()?;
            down_blocks.push((resnets, downsampler));
            inputs = channels;
        }
        Ok(Self {
            conv_in: Convolution::same(source.at("conv_in"), PICTURE_CHANNELS, first)?,
            down_blocks,
            mid_block: MidBlock::init(config, source.at("mid_block"), last)?,
            conv_norm_out: GroupNorm::init(source.at("conv_norm_out"), last, groups(config), Then::Silu)?,
            conv_out: Convolution::same(source.at("conv_out"), last, 2 * config.latent_channels)?,
        })
    }

    fn forward(&self, pictures: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(pictures);
        for (resnets, downsampler) in &self.down_blocks {
            x = resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            if let Some(downsampler) = downsampler {
                x = downsampler.forward(x);
            }
        }
        x = self.mid_block.forward(x);
        self.conv_out.forward(self.conv_norm_out.forward(x))
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Convolution,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    conv_norm_out: GroupNorm,
    conv_out: Convolution,
}

impl Decoder {
    fn init(config: &VaeConfig, mut source: Source) -> Result<Self> {
        let (first, last) = (config.channels[0], config.channels[config.channels.len() - 1]);
        let mut inputs = last;
        let mut up_blocks = Vec::new();
        for (block, &channels) in config.channels.iter().rev().enumerate() {
            let mut source = source.at(format!("up_blocks.{block}"));
            let resnets = resnets(config, &mut source, inputs, channels, config.resnets + 1)?;
            let is_last = block + 1 == config.channels.len();
            let upsampler = (!is_last).then(|| Upsample::init(source.at("upsamplers.0"), channels)).transpose()?;
            up_blocks.push((resnets, upsampler));
            inputs = channels;
        }
        Ok(Self {
            conv_in: Convolution::same(source.at("conv_in"), config.latent_channels, last)?,
            mid_block: MidBlock::init(config, source.at("mid_block"), last)?,
            up_blocks,
            conv_norm_out: GroupNorm::init(source.at("conv_norm_out"), first, groups(config), Then::Silu)?,
            conv_out: Convolution::same(source.at("conv_out"), first, PICTURE_CHANNELS)?,
        })
    }

    fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(self.conv_in.forward(latents));
        for (resnets, upsampler) in &self.up_blocks {
            x = resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            if let Some(upsampler) = upsampler {
                x = upsampler.forward(x);
            }
        }
        self.conv_out.forward(self.conv_norm_out.forward(x))
    }
}

#[derive(Debug)]
struct MidBlock {
    first: ResnetBlock,
    attention: SelfAttention,
    second: ResnetBlock,
}

impl MidBlock {
    fn init(config: &VaeConfig, mut source: Source, channels: usize) -> Result<Self> {
        Ok(Self {
            first: ResnetBlock::init(source.at("resnets.0"), channels, channels, None, groups(config))?,
            attention: SelfAttention::init(config, source.at("attentions.0"), channels)?,
            second: ResnetBlock::init(source.at("resnets.1"), channels, channels, None, groups(config))?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.second.forward(self.attention.forward(self.first.forward(x, None)), None)
    }
}

/// All pixels attend to all, with one head.
#[derive(Debug)]
struct SelfAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    /// `to_out.0` in files.
    to_out: Linear,
}

impl SelfAttention {
    fn init(config: &VaeConfig, mut source: Source, channels: usize) -> Result<Self> {
        Ok(Self {
            group_norm: GroupNorm::init(source.at("group_norm"), channels, groups(config), Then::Nothing)?,
            to_q: Linear::init(source.at("to_q"), channels, channels)?,
            to_k: Linear::init(source.at("to_k"), channels, channels)?,
            to_v: Linear::init(source.at("to_v"), channels, channels)?,
            to_out: Linear::init(source.at("to_out.0"), channels, channels)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let [batch, height, width, channels] = shape;
        let tokens = self.group_norm.forward(x.clone()).reshape([batch, height * width, channels]);
        let (q, k) = (self.to_q.forward(tokens.clone()), self.to_k.forward(tokens.clone()));
        let attended = attention(q, k, self.to_v.forward(tokens), 1, Mask::Open);
        x + self.to_out.forward(attended).reshape(shape)
    }
}

fn resnets(config: &VaeConfig, source: &mut Source, inputs: usize, channels: usize, count: usize) -> Result<Vec<ResnetBlock>> {
    (0..count)
        .map(|i| {
            let inputs = if i == 0 { inputs } else { channels };
            ResnetBlock::init(source.at(format!("resnets.{i}")), inputs, channels, None, groups(config))
        })
        .collect()
}

fn groups(config: &VaeConfig) -> Groups {
    Groups { count: config.groups, epsilon: EPSILON }
}
