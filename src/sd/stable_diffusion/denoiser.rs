//! UNet and text encoder of one checkpoint: what a LoRA adapts and what training needs. Unaware of pixels, prompts and samplers.

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::sd::checkpoint::drawable;
use crate::sd::checkpoint::layout::{TextLayout, UnetLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::tensor::Dtype;
use crate::sd::models::clip::{ClipTextConfig, ClipTextModel};
use crate::sd::models::layers::Projection;
use crate::sd::models::transformer::{Heads, TransformerConfig};
use crate::sd::models::unet::{Unet, UnetConfig};
use crate::sd::models::weights::Source;
use crate::sd::ops::arguments::Activation;
use crate::sd::stable_diffusion::GROUPS;
use crate::sd::stable_diffusion::file_weights::FileWeights;

/// What a model is rounded to, and what it computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precisions {
    /// What the weights of the file are rounded to: those of an fp32 file become those of its fp16 copy.
    pub weights: Dtype,
    /// What is computed in.
    pub arithmetic: DType,
}

impl Precisions {
    /// As exact as the file.
    pub const F32: Self = Self { weights: Dtype::F32, arithmetic: DType::F32 };
}

/// The networks that can carry adapters. What goes in and comes out is f32, whatever it computes in.
#[derive(Debug)]
pub struct Denoiser {
    text_encoder: Option<ClipTextModel>,
    unet: Unet,
    device: Device,
}

impl Denoiser {
    /// Reads both networks onto `device`, one without autodiff, as `precisions` say.
    ///
    /// # Errors
    /// If the file lacks a tensor or holds one of another shape, or is another model than this program knows; the message names it.
    pub fn load(base: &ModelFile, precisions: Precisions, device: &Device) -> Result<Self> {
        drawable::check_denoiser(base)?;
        let text_encoder = Some(text_encoder(base, precisions, device)?);
        Ok(Self { text_encoder, unet: unet(base, precisions, device)?, device: device.clone() })
    }

    /// A UNet whose contexts come from elsewhere.
    pub fn of_unet(unet: Unet, device: &Device) -> Self {
        Self { text_encoder: None, unet, device: device.clone() }
    }

    /// Where the weights of both networks are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// With the adapters that were set through [`Self::networks`].
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// # Errors
    /// If it was given away, or never there.
    pub fn text_encoder(&self) -> Result<&ClipTextModel> {
        self.text_encoder.as_ref().context("this model holds no text encoder")
    }

    /// Both, to put adapters on.
    pub fn networks(&mut self) -> (&mut Unet, Option<&mut ClipTextModel>) {
        (&mut self.unet, self.text_encoder.as_mut())
    }

    /// Reads the text encoder again; see [`Self::load`].
    pub fn read_text_encoder(&mut self, base: &ModelFile, precisions: Precisions) -> Result<()> {
        self.text_encoder = Some(text_encoder(base, precisions, &self.device)?);
        Ok(())
    }

    /// Replaces the text encoder, or adds one to a model [`Self::of_unet`]. Its weights must be on [`Self::device`].
    pub fn put_text_encoder(&mut self, text_encoder: ClipTextModel) {
        self.text_encoder = Some(text_encoder);
    }

    /// Takes the text encoder out, so that its memory is free when it is dropped.
    pub fn take_text_encoder(&mut self) -> Option<ClipTextModel> {
        self.text_encoder.take()
    }

    /// The context for rows of tokens, all of one length: `[rows, tokens, width]`, in f32.
    ///
    /// - `clip_skip`: which layer's output is taken, counted from the end; 1 is the last
    ///
    /// # Errors
    /// If a row is longer than the text encoder's positions or of another length than the first, if a token is beyond the
    /// vocabulary, or if there are fewer layers than `clip_skip`.
    pub fn encode_text(&self, rows: &[Vec<u32>], clip_skip: usize) -> Result<Tensor<3>> {
        let text_encoder = self.text_encoder()?;
        let (positions, vocabulary, layers) = (text_encoder.positions(), text_encoder.vocabulary(), text_encoder.layers());
        let length = rows.first().map_or(0, Vec::len);
        ensure!((1..=positions).contains(&length), "{length} tokens for the {positions} positions of the text encoder");
        ensure!(rows.iter().all(|row| row.len() == length), "rows of tokens differ in length");
        ensure!((1..=layers).contains(&clip_skip), "clip skip {clip_skip}: the text encoder has {layers} layers");
        let outside = rows.iter().flatten().find(|token| **token as usize >= vocabulary);
        if let Some(token) = outside {
            bail!("token {token} is beyond the vocabulary of {vocabulary}");
        }
        let tokens: Vec<i32> = rows.iter().flatten().map(|token| *token as i32).collect();
        let tokens = TensorData::new(tokens, [rows.len(), length]);
        let tokens = Tensor::<2, Int>::from_data(tokens, (&self.device, DType::I32));
        Ok(text_encoder.forward(tokens, clip_skip).cast(DType::F32))
    }

    /// What the UNet sees in `latents`: for SD 1.x the noise. Shapes as in [`Unet::forward`].
    pub fn predict(&self, latents: Tensor<4>, timesteps: &[f32], context: &Tensor<3>) -> Tensor<4> {
        self.unet.forward(latents, timesteps, context)
    }
}

/// Reads the text encoder of a checkpoint onto `device`.
///
/// # Errors
/// If the file lacks a tensor or holds one of another shape.
pub fn load_text_encoder(file: &ModelFile, device: &Device) -> Result<ClipTextModel> {
    text_encoder(file, Precisions::F32, device)
}

fn text_encoder(file: &ModelFile, precisions: Precisions, device: &Device) -> Result<ClipTextModel> {
    let layout = TextLayout::infer(file).with_context(|| format!("reading the text encoder of `{}`", file.path().display()))?;
    let config = ClipTextConfig {
        width: layout.width,
        layers: layout.layers,
        heads: layout.heads(),
        hidden: layout.mlp_width,
        vocabulary: layout.vocabulary,
        positions: layout.positions,
        activation: Activation::QuickGelu,
    };
    let mut weights = FileWeights::new(file, layout.keys(), &layout.names).rounded_to(precisions.weights);
    ClipTextModel::init(&config, Source::new(&mut weights, device).in_type(precisions.arithmetic))
}

/// Reads the UNet of a checkpoint onto `device`.
///
/// # Errors
/// If the file lacks a tensor or holds one of another shape.
pub fn load_unet(file: &ModelFile, device: &Device) -> Result<Unet> {
    unet(file, Precisions::F32, device)
}

fn unet(file: &ModelFile, precisions: Precisions, device: &Device) -> Result<Unet> {
    let layout = UnetLayout::infer(file).with_context(|| format!("reading the UNet of `{}`", file.path().display()))?;
    let (projection, heads) = match layout.linear_projections {
        false => (Projection::Convolution, Heads::Count(8)),
        true => (Projection::Linear, Heads::Width(64)),
    };
    let config = UnetConfig {
        in_channels: layout.in_channels,
        out_channels: layout.out_channels,
        channels: layout.channels.clone(),
        attention: layout.attention.clone(),
        resnets: layout.res_blocks,
        groups: GROUPS,
        transformer: TransformerConfig { heads, context_width: layout.context_width, projection },
    };
    let mut weights = FileWeights::new(file, layout.keys(), &layout.names).rounded_to(precisions.weights);
    Unet::init(&config, Source::new(&mut weights, device).in_type(precisions.arithmetic))
}
