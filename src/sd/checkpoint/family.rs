//! Which model a file holds, told by the names and shapes of its tensors and by what it says of itself. Unaware of what is to be done with it.
//!
//! Sources: the probes of ComfyUI's `model_detection.py`, webui's `sd_models_config.py` and diffusers' `single_file_utils.py`.

use std::fmt;

use anyhow::{Result, bail};

use crate::sd::checkpoint::key::UNET_PREFIX;
use crate::sd::checkpoint::model_file::ModelFile;

/// A kind of model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    StableDiffusion1,
    StableDiffusion2,
    /// Another model, by its name, and what tells.
    Other(&'static str, String),
    /// No model that draws: a VAE alone, a text encoder alone, a LoRA, something unknown.
    Part(&'static str),
}

/// The empty tensor by which a file says that its UNet predicts velocity.
pub const V_PRED: &str = "v_pred";
/// The empty tensor by which a file says, beside [`V_PRED`], that the last timestep of its noise schedule is pure noise.
pub const ZTSNR: &str = "ztsnr";

/// What a model's UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicts {
    Epsilon,
    Velocity,
    /// Trained with a schedule whose last timestep is pure noise.
    VelocityAtZeroSnr,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StableDiffusion1 => f.write_str("Stable Diffusion 1.x"),
            Self::StableDiffusion2 => f.write_str("Stable Diffusion 2.x"),
            Self::Other(name, tells) => write!(f, "{name} ({tells})"),
            Self::Part(what) => f.write_str(what),
        }
    }
}

/// Parts of names that only one family has. The first that is found counts.
const MARKS: &[(&str, &str)] = &[
    ("joint_blocks.0.", "Stable Diffusion 3"),
    ("distilled_guidance_layer.", "Chroma"),
    ("double_blocks.0.", "Flux"),
    ("single_transformer_blocks.0.", "Flux"),
    ("clf.1.weight", "Stable Cascade"),
    ("clip_txt_mapper.weight", "Stable Cascade"),
    ("mlp_t5.0.weight", "HunyuanDiT"),
    ("double_layers.0.attn.w1q.weight", "AuraFlow"),
    ("cap_embedder.0.weight", "Lumina 2"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("motion_modules", "AnimateDiff"),
    ("time_stack", "Stable Video Diffusion"),
    ("edm_mean", "Playground 2.5"),
    ("edm_vpred.sigma_max", "CosXL"),
    ("conditioner.embedders.0.model.", "the SDXL refiner"),
    ("depth_model.", "a depth model of Stable Diffusion 2"),
    ("cond_stage_model.roberta.", "AltDiffusion"),
    ("embedder.model.ln_final.", "Stable Diffusion 2 unCLIP"),
    ("time_embed.cond_proj.", "a guidance-distilled model (LCM)"),
    ("time_embedding.cond_proj.", "a guidance-distilled model (LCM)"),
];

/// First convolution of the UNet, by LDM's and by diffusers' names.
const FIRST: &[&str] =
    &["model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight", "unet.conv_in.weight", "conv_in.weight"];

impl Family {
    /// Of the model in `file`.
    pub fn of(file: &ModelFile) -> Self {
        let names = || file.tensors().keys();
        let any = |part: &str| names().any(|name| name.contains(part));
        for (mark, family) in MARKS {
            if let Some(name) = names().find(|name| name.contains(mark)) {
                return Self::Other(family, format!("it has `{name}`"));
            }
        }
        let shape = |name: &str| file.tensors().get(name).map(|info| info.shape.clone());
        let Some(first) = FIRST.iter().find_map(|name| shape(name)).filter(|shape| shape.len() == 4) else {
            return Self::Part(part(file));
        };
        let channels = |name| Self::Other(name, format!("its UNet takes {} channels, not 4", first[1]));
        match first[1] {
            9 => return channels("an inpainting model"),
            8 => return channels("an instruct-pix2pix model"),
            7 => return channels("the x4 upscaler of Stable Diffusion 2"),
            5 => return channels("a depth model of Stable Diffusion 2"),
            _ => {}
        }
        let context = context_width(file);
        let added = names().find(|name| name.contains("label_emb.") || name.contains("add_embedding.linear_1"));
        if any("conditioner.embedders.") || context == Some(2048) {
            return sdxl(file);
        }
        if context == Some(1280) {
            return Self::Other("the SDXL refiner", "its texts are 1280 wide".into());
        }
        if let Some(name) = added {
            return Self::Other("a model with a further condition (SDXL or unCLIP)", format!("it has `{name}`"));
        }
        let has_middle = any("middle_block.") || any("mid_block.");
        if !has_middle {
            return Self::Other("a distilled model of fewer blocks (small-sd and its like)", "its UNet has no middle".into());
        }
        let is_second = any("cond_stage_model.model.") || context == Some(1024);
        if is_second { Self::StableDiffusion2 } else { Self::StableDiffusion1 }
    }

    /// That this program can draw with such a model and train on it.
    ///
    /// # Errors
    /// Names what it is.
    pub fn check_use(&self, file: &ModelFile) -> Result<()> {
        let path = file.path().display();
        match self {
            Self::StableDiffusion1 => Ok(()),
            Self::StableDiffusion2 => bail!(
                "`{path}` is Stable Diffusion 2.x (texts by OpenCLIP): `train` and `sample` know models of Stable Diffusion 1.x"
            ),
            Self::Other(..) => {
                bail!("`{path}` is {self}: `train` and `sample` know models of Stable Diffusion 1.x that draw from text alone")
            }
            Self::Part(what) => bail!("`{path}` is {what}: a whole model of Stable Diffusion 1.x is needed"),
        }
    }
}

/// What a file without a UNet is.
fn part(file: &ModelFile) -> &'static str {
    let any = |test: &dyn Fn(&str) -> bool| file.tensors().keys().any(|name| test(name));
    if any(&|name| name.contains("lora_") || name.contains(".lora.") || name.contains("hada_") || name.contains("lokr_")) {
        "a LoRA or another adapter"
    } else if any(&|name| name.starts_with("model_ema.")) {
        "the running average (EMA) of a model without the model itself"
    } else if any(&|name| name.contains("encoder.conv_in.") || name.contains("decoder.conv_in.")) {
        "a VAE alone"
    } else if any(&|name| name.contains("embeddings.token_embedding.") || name.contains("token_embedding.weight")) {
        "a text encoder alone"
    } else if any(&|name| name.starts_with("string_to_param")) {
        "an embedding (textual inversion)"
    } else {
        "no model of Stable Diffusion"
    }
}

/// Of the texts that the UNet attends to.
fn context_width(file: &ModelFile) -> Option<usize> {
    let reads_text = |name: &str| name.ends_with(".attn2.to_k.weight");
    file.tensors().iter().find(|(name, _)| reads_text(name)).and_then(|(_, info)| info.shape.get(1).copied())
}

/// SDXL, and its distilled relatives by the depth of their transformers.
fn sdxl(file: &ModelFile) -> Family {
    let depth = |block: &str| {
        let block = format!("{UNET_PREFIX}{block}.transformer_blocks.");
        let number = |name: &String| name.strip_prefix(&block)?.split('.').next()?.parse::<usize>().ok();
        file.tensors()
            .range(block.clone()..)
            .take_while(|(name, _)| name.starts_with(&block))
            .filter_map(|(name, _)| number(name))
            .max()
    };
    let tells = || "it has a second text encoder or texts 2048 wide".to_string();
    match depth("input_blocks.7.1").map(|last| last + 1) {
        Some(4) => Family::Other("SSD-1B, a distilled SDXL", tells()),
        Some(2) => Family::Other("Vega, a distilled SDXL", tells()),
        Some(5 | 6) => Family::Other("KOALA, a distilled SDXL", tells()),
        _ => Family::Other("SDXL", tells()),
    }
}

impl Predicts {
    /// The marks by which a file says it.
    pub const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Epsilon => &[],
            Self::Velocity => &[V_PRED],
            Self::VelocityAtZeroSnr => &[V_PRED, ZTSNR],
        }
    }

    /// The marks by which a copy of `file` says what the file says; none if that contradicts itself.
    pub fn marks_of(file: &ModelFile) -> &'static [&'static str] {
        Self::of(file).ok().flatten().map_or(&[], Self::marks)
    }

    /// What a model says its UNet predicts; `None` if it says nothing. The empty tensors `v_pred` and `ztsnr` are ComfyUI's and webui's
    /// marks, `modelspec.prediction_type` is the model spec's.
    ///
    /// # Errors
    /// If it predicts something else, or claims what cannot be.
    pub fn of(file: &ModelFile) -> Result<Option<Self>> {
        let path = file.path().display();
        let is_marked = |mark: &str| file.tensors().contains_key(mark) || file.metadata().contains_key(mark);
        let said = match file.metadata().get("modelspec.prediction_type").map(|said| said.trim().to_lowercase()) {
            None => None,
            Some(said) => match said.as_str() {
                "" | "none" => None,
                "epsilon" | "eps" => Some(Self::Epsilon),
                "v" | "v_prediction" | "v-prediction" | "velocity" => Some(Self::Velocity),
                _ => bail!(
                    "`{path}` says that it predicts {said:?}: `train` and `sample` know noise (`epsilon`) and velocity (`v`)"
                ),
            },
        };
        let said = if is_marked(V_PRED) { Some(Self::Velocity) } else { said };
        match (said, is_marked(ZTSNR)) {
            (said, false) => Ok(said),
            (Some(Self::Velocity | Self::VelocityAtZeroSnr), true) => Ok(Some(Self::VelocityAtZeroSnr)),
            (None | Some(Self::Epsilon), true) => bail!(
                "`{path}` says that its last timestep is pure noise (`ztsnr`) and not that it predicts velocity (`v_pred`): noise alone \
                 cannot be predicted from"
            ),
        }
    }
}

impl fmt::Display for Predicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epsilon => "predicts noise",
            Self::Velocity => "predicts velocity",
            Self::VelocityAtZeroSnr => "predicts velocity, zero terminal SNR",
        })
    }
}
