//! Puts a model into other names, types or containers, tensor by tensor. Unaware of LoRAs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::engine::cache::batch::Stored;
use crate::sd::checkpoint::carry::{Carried, refuse_average_alone};
use crate::sd::checkpoint::family::Predicts;
use crate::sd::checkpoint::key::{Key, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX};
use crate::sd::checkpoint::layout::{Naming, TextLayout, UnetLayout, VaeLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};
use crate::sd::checkpoint::{ckpt, safetensors};

/// A file to be written from another: for each of its tensors the source's name and the shape it gets.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Where diffusers keeps it in a model's folder: `unet/diffusion_pytorch_model`. `None` for a model in one file.
    pub place: Option<&'static str>,
    carried: Carried<'a>,
    sources: BTreeMap<String, (String, TensorInfo)>,
    /// Empty tensors by which the result says what its UNet predicts: the file may say it in metadata, which not every container has.
    marks: &'static [&'static str],
    /// What is left out of the file, as lines for the user.
    left_out: Vec<String>,
}

/// How a file is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Safetensors,
    /// PyTorch's zip archive.
    Torch,
}

/// What a single file of LDM holds beside its networks, and nobody misses in another.
const BUFFERS: &[&str] = &[
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
];
const BESIDE: &[&str] = &["model_ema.", "loss.", "first_stage_model.loss."];

impl<'a> Plan<'a> {
    /// The same names; floating-point tensors in `dtype`, or each in its own.
    ///
    /// # Errors
    /// If the file has no tensors, or some that cannot be carried over.
    pub fn same_names(file: &'a ModelFile, dtype: Option<Dtype>) -> Result<Self> {
        let carried = Carried::new(file, dtype, |_| true)?;
        let sources = carried.infos().iter().map(|(name, info)| (name.clone(), (name.clone(), info.clone()))).collect();
        Ok(Self { place: None, carried, sources, marks: Predicts::marks_of(file), left_out: Vec::new() })
    }

    /// The names of a single file, as CompVis' LDM and webui have them, for every network that `file` holds. A VAE alone gets the bare
    /// names of a `.vae.pt`. What belongs to no network (schedule buffers, EMA) is left out.
    ///
    /// # Errors
    /// If the file holds none of the networks, one of them is incomplete or has tensors that cannot be carried over, or the UNet is there
    /// only as a running average.
    pub fn to_ldm(file: &'a ModelFile, dtype: Option<Dtype>) -> Result<Self> {
        let networks = Networks::of(file)?;
        let alone = networks.vae.is_some() && networks.unet.is_none() && networks.text.is_none();
        let rename = |key: &Key| {
            let bare = key.ldm.strip_prefix(VAE_PREFIX).filter(|_| alone);
            (bare.unwrap_or(&key.ldm).to_string(), key.ldm_shape.clone())
        };
        let parts = networks.parts();
        let marks = if networks.unet.is_some() { Predicts::marks_of(file) } else { &[] };
        let left_out = networks.left_out(file, &parts, marks);
        let carried = carried_of(file, dtype, &parts)?;
        let mut sources = BTreeMap::new();
        for (_, names, keys) in &parts {
            sources.extend(renamed(&carried, names, keys, rename)?);
        }
        Ok(Self { place: None, carried, sources, marks, left_out })
    }

    /// The files of a diffusers folder, one per network that `file` holds.
    ///
    /// # Errors
    /// As `to_ldm`.
    pub fn to_diffusers(file: &'a ModelFile, dtype: Option<Dtype>) -> Result<Vec<Self>> {
        let networks = Networks::of(file)?;
        let parts = networks.parts();
        let mut left_out = networks.left_out(file, &parts, &[]);
        let mut plans = Vec::new();
        for part in &parts {
            let (place, names, keys) = part;
            let carried = carried_of(file, dtype, std::slice::from_ref(part))?;
            let sources = renamed(&carried, names, keys, |key| (key.diffusers.clone(), key.shape.clone()))?;
            plans.push(Self { place: Some(*place), carried, sources, marks: &[], left_out: std::mem::take(&mut left_out) });
        }
        Ok(plans)
    }

    /// What is left out or not carried as it is, as lines for the user.
    pub fn remarks(&self) -> Vec<String> {
        [self.carried.remarks(), self.left_out.clone()].concat()
    }

    /// What the written file will hold.
    pub fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let marks = self.marks.iter().map(|mark| (mark.to_string(), TensorInfo { dtype: Dtype::F32, shape: vec![0] }));
        marks.chain(self.sources.iter().map(|(name, (_, info))| (name.clone(), info.clone()))).collect()
    }

    /// One tensor of the written file.
    ///
    /// # Errors
    /// If it cannot be read, holds NaN, or a value is too large for its type.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        if self.marks.contains(&name) && !self.sources.contains_key(name) {
            return Ok(TensorData::from_f32(&[0], &[]));
        }
        let (source, info) = self.sources.get(name).with_context(|| format!("no tensor `{name}` is to be written"))?;
        let mut tensor = self.carried.cast(source)?;
        tensor.shape = info.shape.clone();
        Ok(tensor)
    }

    /// Writes the file, one tensor in memory at a time. As [`write`].
    pub fn write(&self, path: &Path, target: Target) -> Result<Option<Stored>> {
        write(path, target, &self.tensors(), |name| self.tensor(name))
    }
}

/// Writes a model's tensors in either container; `format: pt` is all the metadata a model needs. The digest of the file, where it is written
/// from front to back: a zip archive is not.
pub fn write(
    path: &Path,
    target: Target,
    tensors: &BTreeMap<String, TensorInfo>,
    produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<Option<Stored>> {
    match target {
        Target::Safetensors => {
            let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            safetensors::write_each(path, tensors, &metadata, produce).map(Some)
        }
        Target::Torch => ckpt::write_each(path, tensors, produce).map(|()| None),
    }
}

/// The tensors of some networks of a file.
fn carried_of<'a>(file: &'a ModelFile, dtype: Option<Dtype>, parts: &[Part]) -> Result<Carried<'a>> {
    let names = names_of(parts);
    Carried::new(file, dtype, |name| names.contains(name))
}

/// By their names in the file.
fn names_of(parts: &[Part]) -> BTreeSet<String> {
    parts.iter().flat_map(|(_, names, keys)| keys.iter().map(|key| names.in_file(key))).collect()
}

fn renamed(
    carried: &Carried<'_>,
    names: &Naming,
    keys: &[Key],
    rename: impl Fn(&Key) -> (String, Vec<usize>),
) -> Result<BTreeMap<String, (String, TensorInfo)>> {
    let mut sources = BTreeMap::new();
    for key in keys {
        let source = names.in_file(key);
        let (name, shape) = rename(key);
        let info = carried.infos().get(&source).with_context(|| format!("tensor `{source}` is missing"))?;
        let info = TensorInfo { dtype: info.dtype, shape };
        sources.insert(name, (source, info));
    }
    Ok(sources)
}

/// Of a network the place of its file in a diffusers folder, its names and its keys.
type Part = (&'static str, Naming, Vec<Key>);

/// The networks that a file holds.
struct Networks {
    unet: Option<UnetLayout>,
    vae: Option<VaeLayout>,
    text: Option<TextLayout>,
}

impl Networks {
    /// A network counts as held if any of its tensors is there; then all must be.
    fn of(file: &ModelFile) -> Result<Self> {
        let any = |marks: &[&str]| file.tensors().keys().any(|name| marks.iter().any(|mark| name.starts_with(mark)));
        refuse_average_alone(file)?;
        let networks = Self {
            unet: any(&[UNET_PREFIX, "unet.", "input_blocks.", "time_embedding."])
                .then(|| UnetLayout::infer(file))
                .transpose()?,
            vae: any(&[VAE_PREFIX, "vae.", "encoder.conv_in", "decoder.conv_in"]).then(|| VaeLayout::infer(file)).transpose()?,
            text: any(&[TEXT_PREFIX, "text_encoder.", "text_model.", "embeddings."])
                .then(|| TextLayout::infer(file))
                .transpose()?,
        };
        if networks.unet.is_none() && networks.vae.is_none() && networks.text.is_none() {
            bail!("`{}` holds neither a UNet nor a VAE nor a text encoder of SD 1.x by its names", file.path().display());
        }
        Ok(networks)
    }

    /// Of each network that is there.
    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some(unet) = &self.unet {
            parts.push(("unet/diffusion_pytorch_model", unet.names.clone(), unet.keys()));
        }
        if let Some(vae) = &self.vae {
            parts.push(("vae/diffusion_pytorch_model", vae.names.clone(), vae.keys()));
        }
        if let Some(text) = &self.text {
            parts.push(("text_encoder/model", text.names.clone(), text.keys()));
        }
        parts
    }

    /// What of a file is in none of these networks nor among `marks` and might be missed, and which network a model lacks, as lines for
    /// the user.
    fn left_out(&self, file: &ModelFile, parts: &[Part], marks: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        let (path, used) = (file.path().display(), names_of(parts));
        let missing = match (&self.unet, &self.vae, &self.text) {
            (None, Some(_), Some(_)) => Some("UNet"),
            (Some(_), None, Some(_)) => Some("VAE"),
            (Some(_), Some(_), None) => Some("text encoder"),
            _ => None,
        };
        lines.extend(missing.map(|network| format!("`{path}` has no {network}, so the result has none")));
        let is_known = |name: &str| {
            BUFFERS.contains(&name)
                || marks.contains(&name)
                || BESIDE.iter().any(|prefix| name.starts_with(prefix))
                || name.ends_with(".position_ids")
        };
        let names = file.tensors().keys().chain(file.unreadable().keys());
        let lost: Vec<&String> = names.filter(|name| !used.contains(*name) && !is_known(name)).collect();
        if !lost.is_empty() {
            let named: Vec<String> = lost.iter().take(3).map(|name| format!("`{}`", shown(name))).collect();
            let more = if lost.len() > named.len() { ", …" } else { "" };
            let (count, named) = (lost.len(), named.join(", "));
            lines.push(format!("tensors of `{path}` that belong to no network are left out, {count} of them: {named}{more}"));
        }
        lines
    }
}
