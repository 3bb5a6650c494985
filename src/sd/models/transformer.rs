//! The transformer between convolutions of the UNet: self-attention, cross-attention to the text, a gated perceptron.
//!
//! Field names are those of diffusers' `Transformer2DModel` and `BasicTransformerBlock`.

use anyhow::Result;
use burn::tensor::Tensor;

use crate::sd::models::layers::{AdaptedLinear, GroupNorm, LayerNorm, Projection, Visit, WithBias};
use crate::sd::models::weights::Source;
use crate::sd::ops::arguments::{Groups, Mask, Then};
use crate::sd::ops::attention::attention;
use crate::sd::ops::geglu::geglu;

/// What all transformers of a UNet share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformerConfig {
    pub heads: Heads,
    /// Width of the context: 768 in SD 1.x, 1024 in SD 2.x.
    pub context_width: usize,
    /// How `proj_in` and `proj_out` are stored: convolutions in SD 1.x, linear layers in SD 2.x.
    pub projection: Projection,
}

/// How channels are split into attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// As many at every level: 8 in SD 1.x.
    Count(usize),
    /// As wide at every level: 64 in SD 2.x.
    Width(usize),
}

impl Heads {
    fn of(self, channels: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Width(width) => channels / width,
        }
    }
}

/// A group norm, `proj_in`, one transformer block and `proj_out`. The input is added to the result.
#[derive(Debug)]
pub struct Transformer {
    norm: GroupNorm,
    proj_in: AdaptedLinear,
    block: Block,
    proj_out: AdaptedLinear,
}

impl Transformer {
    /// The epsilon of the group norm before a transformer, unlike that in a residual block.
    const EPSILON: f64 = 1e-6;

    /// Takes the weights from `source`. No layer has an adapter yet.
    ///
    /// - `channels`: of what goes in and comes out
    /// - `groups`: of the group norm
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, channels: usize, groups: usize, config: &TransformerConfig) -> Result<Self> {
        let groups = Groups { count: groups, epsilon: Self::EPSILON };
        let projection = |source: Source| AdaptedLinear::init(source, channels, channels, WithBias::Yes, config.projection);
        Ok(Self {
            norm: GroupNorm::init(source.at("norm"), channels, groups, Then::Nothing)?,
            proj_in: projection(source.at("proj_in"))?,
            block: Block::init(source.at("transformer_blocks.0"), channels, config)?,
            proj_out: projection(source.at("proj_out"))?,
        })
    }

    /// - `x`: `[batch, height, width, channels]`
    /// - `context`: `[batch, context_tokens, context_width]`
    pub fn forward(&self, x: Tensor<4>, context: &Tensor<3>) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let tokens = self.norm.forward(x.clone()).reshape([batch, height * width, channels]);
        let tokens = self.block.forward(self.proj_in.forward(tokens), context);
        x + self.proj_out.forward(tokens).reshape([batch, height, width, channels])
    }

    /// Of what goes in and comes out.
    pub fn channels(&self) -> usize {
        self.norm.channels()
    }

    /// Elements that are saved for the backward pass: for each pixel, and for each token of the context. `adapted` says which layers carry an
    /// adapter, of which rank.
    pub fn saved_activations(&self, adapted: &dyn Fn(&AdaptedLinear) -> Option<usize>) -> [usize; 2] {
        let Block { attn1, attn2, ff, .. } = &self.block;
        let channels = self.channels();
        let hidden = FeedForward::EXPANSION * channels;
        // An adapted layer needs its input, which those that share it keep once, and what its narrow factor made of it.
        let inputs = |layers: &[&AdaptedLinear], width: usize| {
            let ranks: Vec<usize> = layers.iter().filter_map(|layer| adapted(layer)).collect();
            if ranks.is_empty() { 0 } else { width + ranks.iter().sum::<usize>() }
        };
        let norms = 4 * channels;
        // Queries, keys and values, and the output, which the last layer shares.
        let attention = 4 * channels + inputs(&[&attn1.to_q, &attn1.to_k, &attn1.to_v], channels) + inputs(&[&attn1.to_out], 0);
        let cross_attention = 2 * channels + inputs(&[&attn2.to_q], channels) + inputs(&[&attn2.to_out], 0);
        let feed_forward = inputs(&[&ff.proj], channels) + 2 * hidden + inputs(&[&ff.out], hidden);
        let projections = inputs(&[&self.proj_in], channels) + inputs(&[&self.proj_out], channels);
        [norms + attention + cross_attention + feed_forward + projections, 2 * channels + inputs(&[&attn2.to_k, &attn2.to_v], 0)]
    }

    /// Elements for each pixel that are there for a moment during the backward pass: the gradients around the gate, the widest layer.
    pub fn temporary_activations(&self) -> usize {
        4 * FeedForward::EXPANSION * self.channels()
    }

    /// Whether a layer carries an adapter.
    pub fn is_adapted(&self) -> bool {
        let Block { attn1, attn2, ff, .. } = &self.block;
        let attention = [attn1, attn2].into_iter().flat_map(|a| [&a.to_q, &a.to_k, &a.to_v, &a.to_out]);
        [&self.proj_in, &self.proj_out, &ff.proj, &ff.out].into_iter().chain(attention).any(|layer| layer.adapter().is_some())
    }

    /// Each layer that kohya's LoRA adapts, in the order of the network.
    pub fn adapted(&mut self, visit: Visit) {
        visit(&mut self.proj_in);
        let Block { attn1, attn2, ff, .. } = &mut self.block;
        for Attention { to_q, to_k, to_v, to_out, .. } in [attn1, attn2] {
            [to_q, to_k, to_v, to_out].into_iter().for_each(&mut *visit);
        }
        visit(&mut ff.proj);
        visit(&mut ff.out);
        visit(&mut self.proj_out);
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl Block {
    fn init(mut source: Source, channels: usize, config: &TransformerConfig) -> Result<Self> {
        let heads = config.heads.of(channels);
        Ok(Self {
            norm1: LayerNorm::init(source.at("norm1"), channels)?,
            attn1: Attention::init(source.at("attn1"), channels, channels, heads)?,
            norm2: LayerNorm::init(source.at("norm2"), channels)?,
            attn2: Attention::init(source.at("attn2"), channels, config.context_width, heads)?,
            norm3: LayerNorm::init(source.at("norm3"), channels)?,
            ff: FeedForward::init(source.at("ff.net"), channels)?,
        })
    }

    /// `[batch, tokens, channels]`.
    fn forward(&self, x: Tensor<3>, context: &Tensor<3>) -> Tensor<3> {
        // 1. tokens among themselves
        let normed = self.norm1.forward(x.clone());
        let x = x + self.attn1.forward(normed.clone(), &normed);
        // 2. tokens to the text
        let x = x.clone() + self.attn2.forward(self.norm2.forward(x), context);
        // 3. each token alone
        x.clone() + self.ff.forward(self.norm3.forward(x))
    }
}

#[derive(Debug)]
struct Attention {
    to_q: AdaptedLinear,
    to_k: AdaptedLinear,
    to_v: AdaptedLinear,
    /// `to_out.0` in files.
    to_out: AdaptedLinear,
    heads: usize,
}

impl Attention {
    fn init(mut source: Source, channels: usize, context_width: usize, heads: usize) -> Result<Self> {
        let mut projection = |name: &str, inputs: usize, with_bias: WithBias| {
            AdaptedLinear::init(source.at(name), inputs, channels, with_bias, Projection::Linear)
        };
        Ok(Self {
            to_q: projection("to_q", channels, WithBias::No)?,
            to_k: projection("to_k", context_width, WithBias::No)?,
            to_v: projection("to_v", context_width, WithBias::No)?,
            to_out: projection("to_out.0", channels, WithBias::Yes)?,
            heads,
        })
    }

    fn forward(&self, x: Tensor<3>, context: &Tensor<3>) -> Tensor<3> {
        let q = self.to_q.forward(x);
        let (k, v) = (self.to_k.forward(context.clone()), self.to_v.forward(context.clone()));
        self.to_out.forward(attention(q, k, v, self.heads, Mask::Open))
    }
}

#[derive(Debug)]
struct FeedForward {
    /// `net.0.proj` in files: both halves of the gated projection.
    proj: AdaptedLinear,
    /// `net.2` in files.
    out: AdaptedLinear,
}

impl FeedForward {
    /// Times the channels, inside.
    const EXPANSION: usize = 4;

    fn init(mut source: Source, channels: usize) -> Result<Self> {
        let hidden = Self::EXPANSION * channels;
        let mut layer = |name: &str, inputs: usize, outputs: usize| {
            AdaptedLinear::init(source.at(name), inputs, outputs, WithBias::Yes, Projection::Linear)
        };
        Ok(Self { proj: layer("0.proj", channels, 2 * hidden)?, out: layer("2", hidden, channels)? })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.out.forward(geglu(self.proj.forward(x)))
    }
}
