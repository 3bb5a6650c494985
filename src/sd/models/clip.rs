//! The text model of CLIP (Radford et al. 2021): tokens to the context that the UNet attends to.
//!
//! Field names are those of transformers' `CLIPTextModel`.

use anyhow::Result;
use burn::tensor::{Int, Tensor};

use crate::sd::models::layers::{AdaptedLinear, LayerNorm, Projection, Visit, WithBias};
use crate::sd::models::weights::Source;
use crate::sd::ops::activation::activate;
use crate::sd::ops::arguments::{Activation, Mask};
use crate::sd::ops::attention::attention;

/// The structure of a text model. SD 1.x has that of OpenAI's CLIP ViT-L/14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipTextConfig {
    /// 768 in SD 1.x.
    pub width: usize,
    /// Layers kept: 12 in SD 1.x; 23 of 24 in SD 2.x.
    pub layers: usize,
    pub heads: usize,
    /// Inside the two-layer perceptron: 4 times the width.
    pub hidden: usize,
    pub vocabulary: usize,
    /// 77.
    pub positions: usize,
    pub activation: Activation,
}

/// Token and position embeddings, transformer layers with causal attention, and a final layer norm.
#[derive(Debug)]
pub struct ClipTextModel {
    /// `[vocabulary, width]`.
    token_embedding: Tensor<2>,
    /// `[positions, width]`.
    position_embedding: Tensor<2>,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    parameter_count: usize,
}

impl ClipTextModel {
    /// Takes the weights below `text_model` from `source`. No layer has an adapter yet.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(config: &ClipTextConfig, mut source: Source) -> Result<Self> {
        let mut source = source.at("text_model");
        let mut embeddings = source.at("embeddings");
        let token_embedding = embeddings.tensor("token_embedding.weight", [config.vocabulary, config.width])?;
        let position_embedding = embeddings.tensor("position_embedding.weight", [config.positions, config.width])?;
        let layers = (0..config.layers)
            .map(|layer| EncoderLayer::init(config, source.at(format!("encoder.layers.{layer}"))))
            .collect::<Result<_>>()?;
        let final_layer_norm = LayerNorm::init(source.at("final_layer_norm"), config.width)?;
        let parameter_count = source.parameter_count();
        Ok(Self { token_embedding, position_embedding, layers, final_layer_norm, parameter_count })
    }

    /// The context for `tokens`: the output of the layer `clip_skip` from the end (1 is the last), through the final norm.
    ///
    /// - `tokens`: `[batch, tokens]`, at most as many as there are positions
    /// - `clip_skip`: 1 to the number of layers
    /// - the result: `[batch, tokens, width]`
    ///
    /// # Panics
    /// If there are more tokens than positions or fewer layers than `clip_skip`.
    pub fn forward(&self, tokens: Tensor<2, Int>, clip_skip: usize) -> Tensor<3> {
        let [batch, count] = tokens.dims();
        let [positions, width] = self.position_embedding.dims();
        assert!(count <= positions, "{count} tokens for {positions} positions");
        assert!((1..=self.layers.len()).contains(&clip_skip), "clip skip {clip_skip} of {} layers", self.layers.len());
        let embedded = self.token_embedding.clone().select(0, tokens.reshape([batch * count])).reshape([batch, count, width]);
        let mut x = embedded + self.position_embedding.clone().narrow(0, 0, count).unsqueeze();
        for layer in &self.layers[..=self.layers.len() - clip_skip] {
            x = layer.forward(x);
        }
        self.final_layer_norm.forward(x)
    }

    /// Of all its weights.
    pub fn parameter_count(&self) -> usize {
        self.parameter_count
    }

    /// Elements for each token that one of its layers saves for the backward pass: around attention and perceptron.
    pub fn saved_activations(&self) -> usize {
        let (width, hidden) = (self.position_embedding.dims()[1], self.layers.first().map_or(0, |layer| layer.mlp.fc1.outputs()));
        // Two norms; the input of queries, keys and values; those three; the output; the input of the perceptron.
        8 * width + 2 * hidden
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.token_embedding.dims()[0]
    }

    /// Longest sequence.
    pub fn positions(&self) -> usize {
        self.position_embedding.dims()[0]
    }

    /// Layers, and so the greatest clip skip.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Each layer that kohya's LoRA adapts, in the order of the network.
    pub fn adapted(&mut self, visit: Visit) {
        for layer in &mut self.layers {
            let EncoderLayer { self_attn, mlp, .. } = layer;
            let SelfAttention { q_proj, k_proj, v_proj, out_proj, .. } = self_attn;
            [q_proj, k_proj, v_proj, out_proj, &mut mlp.fc1, &mut mlp.fc2].into_iter().for_each(&mut *visit);
        }
    }
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl EncoderLayer {
    fn init(config: &ClipTextConfig, mut source: Source) -> Result<Self> {
        Ok(Self {
            layer_norm1: LayerNorm::init(source.at("layer_norm1"), config.width)?,
            self_attn: SelfAttention::init(config, source.at("self_attn"))?,
            layer_norm2: LayerNorm::init(source.at("layer_norm2"), config.width)?,
            mlp: Mlp::init(config, source.at("mlp"))?,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let attended = self.self_attn.forward(self.layer_norm1.forward(x.clone()));
        let x = x + attended;
        x.clone() + self.mlp.forward(self.layer_norm2.forward(x))
    }
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: AdaptedLinear,
    k_proj: AdaptedLinear,
    v_proj: AdaptedLinear,
    out_proj: AdaptedLinear,
    heads: usize,
}

impl SelfAttention {
    fn init(config: &ClipTextConfig, mut source: Source) -> Result<Self> {
        let mut projection = |name: &str| adapted(source.at(name), config.width, config.width);
        Ok(Self {
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            heads: config.heads,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (q, k, v) = (self.q_proj.forward(x.clone()), self.k_proj.forward(x.clone()), self.v_proj.forward(x));
        self.out_proj.forward(attention(q, k, v, self.heads, Mask::Causal))
    }
}

#[derive(Debug)]
struct Mlp {
    fc1: AdaptedLinear,
    fc2: AdaptedLinear,
    activation: Activation,
}

impl Mlp {
    fn init(config: &ClipTextConfig, mut source: Source) -> Result<Self> {
        Ok(Self {
            fc1: adapted(source.at("fc1"), config.width, config.hidden)?,
            fc2: adapted(source.at("fc2"), config.hidden, config.width)?,
            activation: config.activation,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(activate(self.fc1.forward(x), self.activation))
    }
}

fn adapted(source: Source, inputs: usize, outputs: usize) -> Result<AdaptedLinear> {
    AdaptedLinear::init(source, inputs, outputs, WithBias::Yes, Projection::Linear)
}
