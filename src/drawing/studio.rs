//! A loaded model that puts on whatever LoRAs a picture wants, kept from picture to picture. Unaware of where pictures go.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use image::RgbImage;
use sha2::{Digest as _, Sha256};

use crate::checkpoint::model_file::ModelFile;
use crate::diffusion::infotext::Infotext;
use crate::diffusion::prediction::Prediction;
use crate::drawing::adapt::adapt;
use crate::drawing::picture::{Request, draw};
use crate::lora::file::Lora;
use crate::stable_diffusion::StableDiffusion;

/// A base with its VAE on a device.
pub struct Studio {
    model: StableDiffusion,
    /// SHA-256 in hex.
    base_hash: String,
    vae_hash: Option<String>,
    /// What the model carries; `None` while that is being changed.
    worn: Option<Vec<Worn>>,
}

/// A LoRA file with the strength at which a picture wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    pub path: PathBuf,
    pub strength: f64,
}

/// A LoRA that the model carries.
struct Worn {
    file: LoraFile,
    /// What webui knows it by, 12 hex digits.
    hash: String,
    clip_skip: Option<usize>,
    prediction: Prediction,
}

/// A picture and how it was drawn.
pub struct Drawn {
    pub picture: RgbImage,
    pub infotext: Infotext,
}

impl Studio {
    /// Reads the model at `base`, with the VAE at `vae` in place of its own, onto `device`.
    ///
    /// # Errors
    /// If a file cannot be read or is no such model.
    pub fn open(base: &Path, vae: Option<&Path>, device: &Device) -> Result<Self> {
        let vae_file = vae.map(ModelFile::open).transpose()?;
        let model = StableDiffusion::load(&ModelFile::open(base)?, vae_file.as_ref(), device)?;
        let (base_hash, vae_hash) = (sha256(base)?, vae.map(sha256).transpose()?);
        Ok(Self { model, base_hash, vae_hash, worn: Some(Vec::new()) })
    }

    /// Draws one picture with these LoRAs. `clip_skip` overrules what the first LoRA was trained with; the last layer is taken where
    /// neither says anything. `before_step` as in [`draw`].
    ///
    /// # Errors
    /// If a LoRA cannot be read or does not fit the model, or the picture cannot be drawn.
    pub fn draw(
        &mut self,
        request: &Request,
        loras: &[LoraFile],
        clip_skip: Option<usize>,
        before_step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Drawn> {
        self.wear(loras)?;
        let worn = self.worn.as_deref().expect("`wear` has just succeeded");
        let trained = worn.iter().find_map(|lora| lora.clip_skip);
        let request = Request {
            clip_skip: clip_skip.or(trained).unwrap_or(1),
            prediction: worn.first().map_or(Prediction::Epsilon, |lora| lora.prediction),
            ..request.clone()
        };
        let picture = draw(&self.model, &request, before_step)?;
        Ok(Drawn { picture, infotext: self.infotext(&request, worn) })
    }

    fn wear(&mut self, loras: &[LoraFile]) -> Result<()> {
        let same = |worn: &[Worn]| worn.iter().map(|worn| &worn.file).eq(loras);
        if self.worn.as_deref().is_some_and(same) {
            return Ok(());
        }
        self.worn = None;
        let mut read = Vec::new();
        let mut worn = Vec::new();
        for file in loras {
            let lora = Lora::read(&ModelFile::open(&file.path)?)?;
            let noted = |key: &str| lora.metadata.get(key);
            worn.push(Worn {
                hash: noted("sshs_model_hash")
                    .map_or_else(|| sha256(&file.path), |hash| Ok(hash.clone()))?
                    .chars()
                    .take(12)
                    .collect(),
                clip_skip: noted("ss_clip_skip").and_then(|skip| skip.parse().ok()),
                prediction: match noted("modelspec.prediction_type").map(String::as_str) {
                    Some("v") => Prediction::Velocity,
                    _ => Prediction::Epsilon,
                },
                file: file.clone(),
            });
            read.push((lora, file.strength));
        }
        let names = || loras.iter().map(|file| format!("`{}`", file.path.display())).collect::<Vec<_>>().join(", ");
        adapt(&mut self.model, &read).with_context(|| format!("putting {} on the model", names()))?;
        self.worn = Some(worn);
        Ok(())
    }

    /// The picture's settings in webui's order. LoRAs are named by their hashes, which webui turns into the names they have there.
    fn infotext(&self, request: &Request, worn: &[Worn]) -> Infotext {
        let tags: String = worn.iter().map(|lora| format!(" <lora:{}:{}>", lora.hash, lora.file.strength)).collect();
        let mut infotext = Infotext::new(format!("{}{tags}", request.prompt), request.negative.clone())
            .pair("Steps", request.steps)
            .pair("Sampler", request.sampler.label())
            .pair("CFG scale", request.guidance)
            .pair("Seed", request.seed)
            .pair("Size", format!("{}x{}", request.width, request.height))
            .pair("Model hash", &self.base_hash[..10]);
        if let Some(hash) = &self.vae_hash {
            infotext = infotext.pair("VAE hash", &hash[..10]);
        }
        if request.clip_skip > 1 {
            infotext = infotext.pair("Clip skip", request.clip_skip);
        }
        if !worn.is_empty() {
            let hashes: Vec<String> = worn.iter().map(|lora| format!("{0}: {0}", lora.hash)).collect();
            infotext = infotext.pair("Lora hashes", hashes.join(", "));
        }
        infotext.pair("RNG", "CPU")
    }
}

/// SHA-256 of a file in hex: what webui calls its hash.
fn sha256(path: &Path) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let (mut file, mut hasher, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => break Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    read().with_context(|| format!("reading `{}` for its hash", path.display()))
}
