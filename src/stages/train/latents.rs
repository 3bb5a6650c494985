//! The kind `latents`: pictures as the networks see them. A sub-stage of `train`, so that an edited caption encodes nothing
//! again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use safetensors::SafeTensors;

use crate::engine::kind::item::Item;
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{
    Content, Context, Draft, Effort, Files, Finding, Form, ItemStage, Resolved, Stage, Work, Worker,
};
use crate::engine::kind::stage_kind::StageKind;
use crate::params;
use crate::sd::checkpoint::drawable;
use crate::sd::checkpoint::safetensors::to_bytes;
use crate::sd::checkpoint::tensor::TensorData;
use crate::sd::data::decode::Background;
use crate::sd::device;
use crate::sd::training::latent;
use crate::stages::shared::headers;
use crate::stages::shared::linked::linked;
use crate::stages::shared::photo_use::{self, cover_photo};
use crate::stages::train::networks;

/// An item stage on the device, one piece of work per picture. `train` adds one as its sub-stage; a pipeline may also name it.
pub const KIND: StageKind = StageKind { name: "latents", version: 1, writes: &["latent"], ..StageKind::of::<LatentsParams>() };

/// Of the one tensor in the file.
const TENSOR: &str = "latent";

params! {
    /// Encodes pictures with the VAE: what `train` learns from.
    ///
    /// The latent is the mean of the VAE's distribution, scaled, in f32. `train` brings this stage along as `train/latents`.
    pub struct LatentsParams {
        /// The pictures. Their sides must be multiples of 8.
        input images: Reference => Many["image"],
        /// The model whose VAE encodes.
        input base: Reference => One["model"],
    }
}

impl Stage for LatentsParams {
    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        headers::of_base(files, "base", |base| drawable::check_vae(base).map(drop))
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn memory_savers(&self) -> Vec<String> {
        vec!["a smaller `size` of the pictures".to_string()]
    }
}

impl ItemStage for LatentsParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        let base = inputs.one("base", "model")?;
        let works = inputs.items("images").iter().map(|item| {
            let mut work = Work::of_item(item, &["image"]);
            work.inputs.insert("base".into(), base.clone());
            cover_photo(&mut work, item, Background::WHITE);
            work
        });
        Ok(works.collect())
    }

    /// Pixels; where they vary, pictures.
    fn effort(&self, work: &Work, item_size: Option<f64>) -> Option<Effort> {
        let base = work.inputs.get("base")?.digest.short();
        Some(match item_size {
            Some(pixels) => Effort { amount: pixels, like: base },
            None => Effort { amount: 1.0, like: format!("{base} pictures") },
        })
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for LatentsParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        (linked()?.encode)(work, context)
    }
}

impl LatentsParams {
    /// The latent of one picture.
    pub fn encode(work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let picture = photo_use::read(work, Background::WHITE, context)?.picture;
        let vae = networks::vae(context, &work.inputs["base"])?;
        let vae = vae.lock().ok().context("another stage broke down while it used the VAE")?;
        let device = device::named(context.device())?;
        let (shape, values) = latent::encode(&vae, &picture, &device).with_context(|| format!("encoding `{}`", work.name))?;
        let tensors = BTreeMap::from([(TENSOR.to_string(), TensorData::from_f32(&shape, &values))]);
        let bytes = to_bytes(&tensors, &BTreeMap::new())?;
        Ok(vec![Draft::new(&work.name).field("latent", Content::Bytes { bytes, extension: "safetensors" })])
    }
}

/// Pixels of the picture whose latent an item has, by the size of the file; `None` while there is none.
pub fn pixels(item: &Item) -> Option<f64> {
    /// Four numbers of four bytes for each square of eight pixels' side.
    const PIXELS_OF_A_BYTE: f64 = 64.0 / 16.0;
    /// Of the file, before the numbers: about this many bytes.
    const HEADER: u64 = 80;
    let latent = item.fields.get("latent")?;
    (latent.size > HEADER).then(|| (latent.size - HEADER) as f64 * PIXELS_OF_A_BYTE)
}

/// Shape (channels, height, width) and values of the latent of an item.
pub fn read(item: &Item, files: &dyn Files) -> anyhow::Result<([usize; 3], Vec<f32>)> {
    let bytes = files.read(item.fields.get("latent").context("it has none")?)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensor = file.tensor(TENSOR)?;
    let shape = <[usize; 3]>::try_from(tensor.shape())?;
    Ok((shape, tensor.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()))
}
