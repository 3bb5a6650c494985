//! A loaded model that puts on whatever LoRAs a picture wants, kept from picture to picture. Unaware of where pictures go.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use burn::tensor::Device;
use image::RgbImage;
use sha2::{Digest as _, Sha256};

use crate::sd::checkpoint::model_file::{Container, ModelFile};
use crate::sd::diffusion::infotext::Infotext;
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::drawing::adapt::adapt;
use crate::sd::drawing::picture::{Request, draw};
use crate::sd::lora::adapter_config::AdapterConfig;
use crate::sd::lora::file::Lora;
use crate::sd::lora::fit;
use crate::sd::lora::placing::Structure;
use crate::sd::stable_diffusion::{self, StableDiffusion};

/// A base with its VAE on a device.
pub struct Studio {
    model: StableDiffusion,
    base: PathBuf,
    base_hash: FileHash,
    vae_hash: Option<FileHash>,
    /// What the base says that it predicts.
    prediction: Option<Prediction>,
    /// Layers of the base, by which a LoRA names its own.
    structure: Structure,
    remarks: Vec<String>,
    /// What the model carries; `None` while that is being changed.
    worn: Option<Vec<Worn>>,
}

/// A LoRA file with the strength at which a picture wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    pub path: PathBuf,
    /// What peft wrote beside it.
    pub config: Option<AdapterConfig>,
    pub strength: f64,
}

/// A LoRA that the model carries.
struct Worn {
    file: LoraFile,
    /// What webui knows it by, 12 hex digits.
    hash: String,
    /// What a picture's text calls it.
    name: String,
    clip_skip: Option<usize>,
    /// `None` if it does not say so.
    prediction: Option<Prediction>,
    remarks: Vec<String>,
}

/// A picture and how it was drawn.
pub struct Drawn {
    pub picture: RgbImage,
    pub infotext: Infotext,
    /// What the user should know of how the LoRAs were read, each with its file's hash.
    pub remarks: Vec<String>,
}

impl Studio {
    /// Reads the model at `base`, with the VAE at `vae` in place of its own, onto `device`.
    ///
    /// # Errors
    /// If a file cannot be read or is no such model.
    pub fn open(base: &Path, vae: Option<&Path>, device: &Device) -> Result<Self> {
        let vae_file = vae.map(ModelFile::open).transpose()?;
        let base_file = ModelFile::open(base)?;
        let model = StableDiffusion::load(&base_file, vae_file.as_ref(), device)?;
        let (prediction, structure) = (stable_diffusion::prediction(&base_file)?, Structure::of(&base_file));
        let base = base.to_path_buf();
        let remarks = [Some(&base_file), vae_file.as_ref()].into_iter().flatten().filter_map(ModelFile::remark).collect();
        let (base_hash, vae_hash) = (FileHash::of(base_file)?, vae_file.map(FileHash::of).transpose()?);
        Ok(Self { model, base, base_hash, vae_hash, prediction, structure, remarks, worn: Some(Vec::new()) })
    }

    /// What the user should know of the files of the model.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
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
            // A LoRA's own word counts where the base, which predicts, says nothing.
            prediction: self.prediction.or(worn.first().and_then(|lora| lora.prediction)).unwrap_or(Prediction::Epsilon),
            ..request.clone()
        };
        let picture = draw(&self.model, &request, before_step)?;
        let remarks =
            worn.iter().flat_map(|lora| lora.remarks.iter().map(move |remark| format!("the LoRA {}: {remark}", lora.hash)));
        Ok(Drawn { picture, infotext: self.infotext(&request, worn)?, remarks: remarks.collect() })
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
            let opened = ModelFile::open(&file.path)?;
            let lora = Lora::read_for(&opened, file.config.as_ref(), Some(&self.structure))?;
            fit::check(&lora, &self.structure.layers(), &self.base.display().to_string())
                .with_context(|| format!("putting `{}` on the model", file.path.display()))?;
            let noted = |key: &str| lora.metadata.get(key);
            let hash: String = lora_hash(&opened)?.chars().take(12).collect();
            let mut name = name_of(&lora.metadata).unwrap_or_else(|| hash.clone());
            if worn.iter().any(|other: &Worn| other.name == name) {
                name = format!("{name}-{hash}");
            }
            worn.push(Worn {
                hash,
                name,
                clip_skip: noted("ss_clip_skip").and_then(|skip| skip.parse().ok()),
                prediction: match noted("modelspec.prediction_type").map(String::as_str) {
                    Some("v") if noted("ss_zero_terminal_snr").is_some_and(|said| said == "True") => {
                        Some(Prediction::VelocityAtZeroSnr)
                    }
                    Some("v") => Some(Prediction::Velocity),
                    Some("epsilon") => Some(Prediction::Epsilon),
                    _ => None,
                },
                remarks: opened.remark().into_iter().chain(lora.remarks.clone()).collect(),
                file: file.clone(),
            });
            read.push((lora, file.strength));
        }
        let names = || loras.iter().map(|file| format!("`{}`", file.path.display())).collect::<Vec<_>>().join(", ");
        adapt(&mut self.model, &read).with_context(|| format!("putting {} on the model", names()))?;
        self.worn = Some(worn);
        Ok(())
    }

    /// The picture's settings in webui's order. Beside the names of LoRAs stand their hashes, by which webui finds them under the names that
    /// they have there.
    fn infotext(&self, request: &Request, worn: &[Worn]) -> Result<Infotext> {
        let tags: String = worn.iter().map(|lora| format!(" <lora:{}:{}>", lora.name, lora.file.strength)).collect();
        let mut infotext = Infotext::new(format!("{}{tags}", request.prompt), request.negative.clone())
            .pair("Steps", request.steps)
            .pair("Sampler", request.sampler.label())
            .pair("CFG scale", request.guidance)
            .pair("Seed", request.seed)
            .pair("Size", format!("{}x{}", request.width, request.height))
            .pair("Model hash", &self.base_hash.get()?[..10]);
        if let Some(hash) = &self.vae_hash {
            infotext = infotext.pair("VAE hash", &hash.get()?[..10]);
        }
        if request.clip_skip > 1 {
            infotext = infotext.pair("Clip skip", request.clip_skip);
        }
        if !worn.is_empty() {
            let hashes: Vec<String> = worn.iter().map(|lora| format!("{}: {}", lora.name, lora.hash)).collect();
            infotext = infotext.pair("Lora hashes", hashes.join(", "));
        }
        Ok(infotext.pair("RNG", "CPU"))
    }
}

/// The SHA-256 of a model file, taken in a thread of its own: the first picture's text needs it, and nothing before.
struct FileHash {
    thread: Mutex<Option<JoinHandle<Result<String>>>>,
    taken: OnceLock<Result<String>>,
}

impl FileHash {
    /// # Errors
    /// If no thread can be started.
    fn of(file: ModelFile) -> Result<Self> {
        let thread = thread::Builder::new().name("hash".to_string()).spawn(move || sha256(&file, 0))?;
        Ok(Self { thread: Mutex::new(Some(thread)), taken: OnceLock::new() })
    }

    /// In hex; waits until it is known.
    fn get(&self) -> Result<&str> {
        let join = || {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it is joined once");
            thread.join().unwrap_or_else(|_| bail!("the thread that takes the hash of a model file panicked"))
        };
        self.taken.get_or_init(join).as_ref().map(String::as_str).map_err(|error| anyhow!("{error:#}"))
    }
}

/// The name of a LoRA's file as far as its contents tell it, since what a file is called is in no key: what sd-scripts called it, else `e030`
/// after its epoch, as `train` names checkpoints. `None` where it says neither, or what cannot stand in a prompt.
fn name_of(metadata: &BTreeMap<String, String>) -> Option<String> {
    let is_plain = |name: &String| {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '-' | '_' | '+');
        !name.is_empty() && name.len() <= 100 && name.chars().all(allowed) && name.trim() == name
    };
    let epoch = || metadata.get("ss_epoch")?.parse::<u64>().ok().map(|epoch| format!("e{epoch:03}"));
    metadata.get("ss_output_name").cloned().or_else(epoch).filter(is_plain)
}

/// What webui knows a LoRA by: what sd-scripts noted, else the hash of what is behind the header of a safetensors file, else of the whole
/// file. Source: webui's `extensions-builtin/Lora/network.py`, `addnet_hash_safetensors` in its `modules/hashes.py`.
pub fn lora_hash(file: &ModelFile) -> Result<String> {
    if let Some(noted) = noted_hash(file.metadata()) {
        return Ok(noted);
    }
    if file.container() != Container::Safetensors {
        return sha256(file, 0);
    }
    let mut length = [0; 8];
    let read = file.bytes(0).read_exact(&mut length);
    read.with_context(|| format!("reading `{}` for its hash", file.path().display()))?;
    sha256(file, 8 + u64::from_le_bytes(length))
}

/// What sd-scripts noted, if it is the hash that they write: any other text does not belong into a picture's.
fn noted_hash(metadata: &BTreeMap<String, String>) -> Option<String> {
    let is_hash = |noted: &&String| noted.len() == 64 && noted.bytes().all(|byte| byte.is_ascii_hexdigit());
    metadata.get("sshs_model_hash").filter(is_hash).cloned()
}

/// SHA-256 of a file from byte `start` on, in hex: what webui calls its hash.
fn sha256(file: &ModelFile, start: u64) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let (mut bytes, mut hasher, mut buffer) = (file.bytes(start), Sha256::new(), vec![0; 1 << 20]);
        loop {
            match bytes.read(&mut buffer)? {
                0 => break Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    read().with_context(|| format!("reading `{}` for its hash", file.path().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lora_is_called_as_its_file_where_its_contents_tell_it() {
        let name = |said: &[(&str, &str)]| name_of(&said.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        assert_eq!(name(&[("ss_epoch", "30")]).as_deref(), Some("e030"));
        assert_eq!(name(&[("ss_epoch", "30"), ("ss_output_name", "cc_shrug v1.5")]).as_deref(), Some("cc_shrug v1.5"));
        for unusable in ["", "a:1>, <lora:b", "a, b", " a", "a\u{1b}[31m", "\""] {
            assert_eq!(name(&[("ss_output_name", unusable)]), None, "{unusable:?}");
        }
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_noted_hash_is_one() {
        let noted = |hash: &str| noted_hash(&BTreeMap::from([("sshs_model_hash".to_string(), hash.to_string())]));
        assert_eq!(noted(&"0aB9".repeat(16)), Some("0aB9".repeat(16)));
        for other in ["", "abc", "a, b: 1>, Seed", &"\u{1b}[31m".repeat(16)[..64], &"g".repeat(64), &"0".repeat(65)] {
            assert_eq!(noted(other), None, "{other:?}");
        }
        assert_eq!(noted_hash(&BTreeMap::new()), None);
    }
}
