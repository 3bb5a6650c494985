//! Puts a model into other names, types or containers, tensor by tensor. Unaware of LoRAs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::checkpoint::keys::{Key, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX};
use crate::checkpoint::layout::{Naming, TextLayout, UnetLayout, VaeLayout};
use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::tensor::{Dtype, TensorData, TensorInfo};
use crate::checkpoint::{ckpt, safetensors};

/// A file to be written from another: for each of its tensors the source's name and the shape it gets.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where diffusers keeps it in a model's folder: `unet/diffusion_pytorch_model`. `None` for a model in one file.
    pub place: Option<&'static str>,
    sources: BTreeMap<String, (String, TensorInfo)>,
}

/// How a file is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Safetensors,
    /// PyTorch's zip archive.
    Torch,
}

fn with_dtype(info: &TensorInfo, dtype: Option<Dtype>) -> TensorInfo {
    let dtype = dtype.filter(|_| info.dtype.is_float()).unwrap_or(info.dtype);
    TensorInfo { dtype, shape: info.shape.clone() }
}

impl Plan {
    /// The same names; floating-point tensors in `dtype`, or each in its own.
    pub fn same_names(file: &ModelFile, dtype: Option<Dtype>) -> Self {
        let source = |(name, info): (&String, &TensorInfo)| (name.clone(), (name.clone(), with_dtype(info, dtype)));
        Self { place: None, sources: file.tensors().iter().map(source).collect() }
    }

    /// The names of a single file, as CompVis' LDM and webui have them, for every network that `file` holds. A VAE alone gets the bare
    /// names of a `.vae.pt`. What belongs to no network (schedule buffers, EMA) is left out.
    ///
    /// # Errors
    /// If the file holds none of the networks, or one of them is incomplete.
    pub fn to_ldm(file: &ModelFile, dtype: Option<Dtype>) -> Result<Self> {
        let networks = Networks::of(file)?;
        let alone = networks.vae.is_some() && networks.unet.is_none() && networks.text.is_none();
        let rename = |key: &Key| {
            let bare = key.ldm.strip_prefix(VAE_PREFIX).filter(|_| alone);
            (bare.unwrap_or(&key.ldm).to_string(), key.ldm_shape.clone())
        };
        let mut sources = BTreeMap::new();
        for (names, keys) in networks.parts().into_iter().map(|(_, names, keys)| (names, keys)) {
            sources.extend(renamed(file, &names, &keys, dtype, rename)?);
        }
        Ok(Self { place: None, sources })
    }

    /// The files of a diffusers folder, one per network that `file` holds.
    ///
    /// # Errors
    /// As `to_ldm`.
    pub fn to_diffusers(file: &ModelFile, dtype: Option<Dtype>) -> Result<Vec<Self>> {
        let mut plans = Vec::new();
        for (place, names, keys) in Networks::of(file)?.parts() {
            let sources = renamed(file, &names, &keys, dtype, |key| (key.diffusers.clone(), key.shape.clone()))?;
            plans.push(Self { place: Some(place), sources });
        }
        Ok(plans)
    }

    /// What the written file will hold.
    pub fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        self.sources.iter().map(|(name, (_, info))| (name.clone(), info.clone())).collect()
    }

    /// One tensor of the written file.
    pub fn tensor(&self, file: &ModelFile, name: &str) -> Result<TensorData> {
        let (source, info) = self.sources.get(name).with_context(|| format!("no tensor `{name}` is to be written"))?;
        let tensor = file.read(source)?;
        let mut tensor = match info.dtype.is_float() {
            true => tensor.cast(info.dtype).with_context(|| format!("tensor `{source}` of `{}`", file.path().display()))?,
            false => tensor,
        };
        tensor.shape = info.shape.clone();
        Ok(tensor)
    }

    /// Writes the file, one tensor in memory at a time.
    pub fn write(&self, file: &ModelFile, path: &Path, target: Target) -> Result<()> {
        write(path, target, &self.tensors(), |name| self.tensor(file, name))
    }
}

/// Writes a model's tensors in either container; `format: pt` is all the metadata a model needs.
pub fn write(
    path: &Path,
    target: Target,
    tensors: &BTreeMap<String, TensorInfo>,
    produce: impl FnMut(&str) -> Result<TensorData>,
) -> Result<()> {
    match target {
        Target::Safetensors => {
            let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            safetensors::write_each(path, tensors, &metadata, produce)
        }
        Target::Torch => ckpt::write_each(path, tensors, produce),
    }
}

fn renamed(
    file: &ModelFile,
    names: &Naming,
    keys: &[Key],
    dtype: Option<Dtype>,
    rename: impl Fn(&Key) -> (String, Vec<usize>),
) -> Result<BTreeMap<String, (String, TensorInfo)>> {
    let mut sources = BTreeMap::new();
    for key in keys {
        let source = names.in_file(key);
        let (name, shape) = rename(key);
        let info = with_dtype(&TensorInfo { dtype: file.info(&source)?.dtype, shape }, dtype);
        sources.insert(name, (source, info));
    }
    Ok(sources)
}

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

    /// Of each network the place of its file in a diffusers folder, its names and its keys.
    fn parts(&self) -> Vec<(&'static str, Naming, Vec<Key>)> {
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
}
