//! Layers that the networks share: frozen weights around an operation, and the adapter a linear layer may carry.

use anyhow::Result;
use burn::tensor::{DType, Tensor};

use crate::sd::models::weights::Source;
use crate::sd::ops::arguments::{Groups, Placement, Then};
use crate::sd::ops::conv2d::{Kernel, conv2d};
use crate::sd::ops::group_norm::group_norm;
use crate::sd::ops::layer_norm::layer_norm;
use crate::sd::ops::linear::{adapted_linear, linear};

/// Whether a layer adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithBias {
    Yes,
    No,
}

/// A linear layer that stays as it is.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor<2>,
    bias: Tensor<1>,
}

impl Linear {
    /// Takes `weight`, `[outputs, inputs]`, and `bias`, `[outputs]`, from `source`.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: source.tensor("weight", [outputs, inputs])?, bias: source.tensor("bias", [outputs])? })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, &self.weight, Some(&self.bias))
    }

    /// The type that it computes in.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }
}

/// How a checkpoint and LoRA files store a layer that mixes channels: the product is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// `[out, in]`.
    Linear,
    /// `[out, in, 1, 1]`.
    Convolution,
}

/// What a LoRA adds to a layer: `scale · up · down`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[rank, inputs]`.
    pub down: Tensor<2>,
    /// `[outputs, rank]`.
    pub up: Tensor<2>,
    /// alpha / rank, times the strength at which it is used.
    pub scale: f64,
}

/// A linear layer, or a 1×1 convolution, that can carry an adapter. Its own weights are frozen.
#[derive(Debug)]
pub struct AdaptedLinear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    projection: Projection,
    adapter: Option<Adapter>,
    path: String,
}

impl AdaptedLinear {
    /// Takes `weight`, `[outputs, inputs]`, and `bias`, `[outputs]`, if the layer adds one, from `source`. It has no adapter yet.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, inputs: usize, outputs: usize, with_bias: WithBias, projection: Projection) -> Result<Self> {
        let weight = source.tensor("weight", [outputs, inputs])?;
        let bias = match with_bias {
            WithBias::Yes => Some(source.tensor("bias", [outputs])?),
            WithBias::No => None,
        };
        Ok(Self { weight, bias, projection, adapter: None, path: source.path().to_owned() })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.adapter {
            None => linear(x, &self.weight, self.bias.as_ref()),
            Some(Adapter { down, up, scale }) => adapted_linear(x, &self.weight, self.bias.as_ref(), down, up, *scale),
        }
    }

    /// Puts `adapter` beside the weights, or takes it away. Factors on a device with autodiff that require a gradient get
    /// one, in their own type; the arithmetic is that of the weights.
    ///
    /// # Panics
    /// If the factors do not fit [`Self::inputs`] and [`Self::outputs`].
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        let dtype = self.weight.dtype();
        let adapter = adapter.map(|Adapter { down, up, scale }| Adapter { down: down.cast(dtype), up: up.cast(dtype), scale });
        if let Some(Adapter { down, up, .. }) = &adapter {
            let [[rank, inputs], [outputs, up_rank]] = [down.dims(), up.dims()];
            assert_eq!((inputs, outputs, up_rank), (self.inputs(), self.outputs(), rank), "adapter of `{}`", self.path);
        }
        self.adapter = adapter;
    }

    /// What [`Self::set_adapter`] set, its factors in the type of the weights.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Channels of what goes in.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Channels of what comes out.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// How files store this layer, and so the factors of its adapter.
    pub fn projection(&self) -> Projection {
        self.projection
    }

    /// The path of the module in diffusers, as `down_blocks.0.attentions.0.proj_in`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Calls a visitor with each layer of a network that a LoRA adapts.
pub type Visit<'a> = &'a mut dyn FnMut(&mut AdaptedLinear);

/// A convolution with a kernel larger than one pixel.
#[derive(Debug)]
pub struct Convolution {
    kernel: Kernel,
}

impl Convolution {
    /// Takes `weight`, `[outputs, inputs, size, size]`, and `bias`, `[outputs]`, from `source`; `size` is that of `placement`.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, inputs: usize, outputs: usize, placement: Placement) -> Result<Self> {
        let weight = source.tensor("weight", [outputs, inputs, placement.size, placement.size])?;
        Ok(Self { kernel: Kernel::new(weight, source.tensor("bias", [outputs])?, placement) })
    }

    /// 3×3, keeping the size.
    pub fn same(source: Source, inputs: usize, outputs: usize) -> Result<Self> {
        Self::init(source, inputs, outputs, Placement::SAME_SIZE)
    }

    /// `[batch, height, width, inputs]` to `[batch, .., .., outputs]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(x, &self.kernel)
    }
}

/// Layer normalisation over the channels of each token, with a frozen weight and bias.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
}

impl LayerNorm {
    /// The epsilon of every layer norm in CLIP and the UNet.
    const EPSILON: f64 = 1e-5;

    /// Takes `weight` and `bias`, each `[width]`, from `source`.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, width: usize) -> Result<Self> {
        Ok(Self { weight: source.tensor("weight", [width])?, bias: source.tensor("bias", [width])? })
    }

    /// `[.., width]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, &self.weight, &self.bias, Self::EPSILON)
    }
}

/// Group normalisation with a frozen weight and bias, followed by SiLU if it was built with [`Then::Silu`].
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: Groups,
    then: Then,
}

impl GroupNorm {
    /// Takes `weight` and `bias`, each `[channels]`, from `source`. `channels` is a multiple of the number of groups.
    ///
    /// # Errors
    /// If `source` lacks a tensor or has one of another shape.
    pub fn init(mut source: Source, channels: usize, groups: Groups, then: Then) -> Result<Self> {
        Ok(Self { weight: source.tensor("weight", [channels])?, bias: source.tensor("bias", [channels])?, groups, then })
    }

    /// Of what goes in and comes out.
    pub fn channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// `[batch, .., channels]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        group_norm(x, &self.weight, &self.bias, self.groups, self.then)
    }
}

/// `[batch, channels, height, width]`, the order of files and samplers, to `[batch, height, width, channels]`.
pub fn channels_last(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// The way back of [`channels_last`].
pub fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}
