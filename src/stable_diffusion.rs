//! Stable Diffusion: text encoder, UNet and VAE of one checkpoint, on one device. Unaware of prompts, samplers and training.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::checkpoint::keys::Key;
use crate::checkpoint::layout::{Naming, TextLayout, UnetLayout, VaeLayout};
use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::tensor::Dtype;
use crate::models::clip::{ClipTextConfig, ClipTextModel};
use crate::models::layers::Projection;
use crate::models::transformer::{Heads, TransformerConfig};
use crate::models::unet::{Unet, UnetConfig};
use crate::models::vae::{AutoencoderKl, VaeConfig};
use crate::models::weights::{Source, Weights};
use crate::ops::activation::Activation;

/// Scales latents to about unit variance; `scaling_factor` in SD 1.5's vae/config.json.
pub const LATENT_SCALE: f64 = 0.18215;

/// Groups of every group norm of UNet and VAE; no tensor's shape tells them.
const GROUPS: usize = 32;

/// The three networks of a checkpoint.
#[derive(Debug)]
pub struct StableDiffusion {
    text_encoder: ClipTextModel,
    unet: Unet,
    vae: Vae,
    device: Device,
}

impl StableDiffusion {
    /// Reads the networks onto `device`, one without autodiff. The VAE is that of `vae`, if given, else that of `base`.
    ///
    /// # Errors
    /// If a file lacks a tensor or holds one of another shape; the message names file and tensor.
    pub fn load(base: &ModelFile, vae: Option<&ModelFile>, device: &Device) -> Result<Self> {
        Self::load_rounded(base, vae, Dtype::F32, device)
    }

    /// As [`Self::load`], with the weights of UNet and text encoder rounded to `dtype`: those of an fp32 file become those of its fp16
    /// copy. The arithmetic is f32 all the same, and the VAE keeps what its file holds.
    pub fn load_rounded(base: &ModelFile, vae: Option<&ModelFile>, dtype: Dtype, device: &Device) -> Result<Self> {
        Ok(Self {
            text_encoder: rounded_text_encoder(base, dtype, device)?,
            unet: rounded_unet(base, dtype, device)?,
            vae: Vae::load(vae.unwrap_or(base), device)?,
            device: device.clone(),
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn text_encoder(&self) -> &ClipTextModel {
        &self.text_encoder
    }

    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// The networks that can carry adapters.
    pub fn networks(&mut self) -> (&mut Unet, &mut ClipTextModel) {
        (&mut self.unet, &mut self.text_encoder)
    }

    /// The context for rows of tokens, all of one length: `[rows, tokens, width]`.
    ///
    /// - `clip_skip`: which layer's output is taken, counted from the end; 1 is the last
    ///
    /// # Errors
    /// If a row is longer than the text encoder's positions or of another length than the first, if a token is beyond the
    /// vocabulary, or if there are fewer layers than `clip_skip`.
    pub fn encode_text(&self, rows: &[Vec<u32>], clip_skip: usize) -> Result<Tensor<3>> {
        let (positions, vocabulary) = (self.text_encoder.positions(), self.text_encoder.vocabulary());
        let layers = self.text_encoder.layers();
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
        Ok(self.text_encoder.forward(tokens, clip_skip))
    }

    /// What the UNet sees in `latents`: for SD 1.x the noise. Shapes as in [`Unet::forward`].
    pub fn predict(&self, latents: Tensor<4>, timesteps: &[f32], context: &Tensor<3>) -> Tensor<4> {
        self.unet.forward(latents, timesteps, context)
    }

    /// Pictures to latents; see [`Vae::encode`].
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.vae.encode(pictures)
    }

    /// Latents to pictures; see [`Vae::decode`].
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.vae.decode(latents)
    }
}

/// The VAE with its latents scaled to what the UNet expects.
#[derive(Debug)]
pub struct Vae {
    network: AutoencoderKl,
}

impl Vae {
    /// Reads the VAE of a whole checkpoint, or of a file of its own, onto `device`.
    ///
    /// # Errors
    /// If the file lacks a tensor or holds one of another shape.
    pub fn load(file: &ModelFile, device: &Device) -> Result<Self> {
        let layout = VaeLayout::infer(file).with_context(|| format!("reading the VAE of `{}`", file.path().display()))?;
        let config = VaeConfig {
            channels: layout.channels.clone(),
            resnets: layout.res_blocks,
            latent_channels: layout.latent_channels,
            groups: GROUPS,
        };
        let mut weights = FileWeights::new(file, layout.keys(), &layout.names);
        Ok(Self { network: AutoencoderKl::init(&config, Source::new(&mut weights, device))? })
    }

    /// The scaled mean of the latents: `[batch, 3, height, width]`, -1 to 1, to `[batch, 4, height / 8, width / 8]`.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.network.encode(pictures) * LATENT_SCALE
    }

    /// `[batch, 4, height / 8, width / 8]`, scaled, to `[batch, 3, height, width]`, about -1 to 1.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.network.decode(latents / LATENT_SCALE)
    }

    /// Pixels of a picture, along one side, for one of its latents: 8 in SD 1.x.
    pub fn factor(&self) -> usize {
        self.network.factor()
    }
}

/// Reads the text encoder of a checkpoint onto `device`.
///
/// # Errors
/// If the file lacks a tensor or holds one of another shape.
pub fn load_text_encoder(file: &ModelFile, device: &Device) -> Result<ClipTextModel> {
    rounded_text_encoder(file, Dtype::F32, device)
}

fn rounded_text_encoder(file: &ModelFile, dtype: Dtype, device: &Device) -> Result<ClipTextModel> {
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
    let mut weights = FileWeights { dtype, ..FileWeights::new(file, layout.keys(), &layout.names) };
    ClipTextModel::init(&config, Source::new(&mut weights, device))
}

/// Reads the UNet of a checkpoint onto `device`.
///
/// # Errors
/// If the file lacks a tensor or holds one of another shape.
pub fn load_unet(file: &ModelFile, device: &Device) -> Result<Unet> {
    rounded_unet(file, Dtype::F32, device)
}

fn rounded_unet(file: &ModelFile, dtype: Dtype, device: &Device) -> Result<Unet> {
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
    let mut weights = FileWeights { dtype, ..FileWeights::new(file, layout.keys(), &layout.names) };
    Unet::init(&config, Source::new(&mut weights, device))
}

/// The tensors of one network in a file, by their names in diffusers.
struct FileWeights<'a> {
    file: &'a ModelFile,
    /// Names in diffusers to names in the file.
    names: HashMap<String, String>,
    /// What the values are rounded to.
    dtype: Dtype,
}

impl<'a> FileWeights<'a> {
    fn new(file: &'a ModelFile, keys: Vec<Key>, naming: &Naming) -> Self {
        let names = keys.into_iter().map(|key| (key.diffusers.clone(), naming.in_file(&key))).collect();
        Self { file, names, dtype: Dtype::F32 }
    }
}

impl Weights for FileWeights<'_> {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let in_file = self.names.get(name).with_context(|| format!("`{name}` belongs to no network of this layout"))?;
        let found = &self.file.info(in_file)?.shape;
        let file = self.file.path().display();
        ensure!(squeezed(found) == squeezed(shape), "tensor `{in_file}` of `{file}` has shape {found:?}: expected {shape:?}");
        if self.dtype == Dtype::F32 {
            return self.file.read_f32(in_file);
        }
        let rounded =
            self.file.read(in_file)?.cast(self.dtype).with_context(|| format!("rounding tensor `{in_file}` of `{file}`"))?;
        rounded.to_f32()
    }
}

/// Without trailing sizes of 1.
fn squeezed(shape: &[usize]) -> &[usize] {
    let kept = shape.iter().rposition(|side| *side != 1).map_or(0, |last| last + 1);
    &shape[..kept]
}
