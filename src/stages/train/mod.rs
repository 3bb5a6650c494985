//! The kind `train`: pictures with captions become a LoRA, checkpoint by checkpoint.
//!
//! ```text
//! params       the settings, and what of them the types cannot say
//! latents      the kind `latents`: its pictures, encoded
//! whole        the kind as a stage that runs as a whole: what it will publish, what it costs, how far it came
//! teach        the work
//! networks     the networks, loaded once for a run
//! memory       what it will need, said before it begins
//! checkpoints  its checkpoints to the engine, the user's requests to it
//! metadata     what its files say of it
//! ```

pub mod latents;
pub mod params;

pub mod checkpoints;
pub mod memory;
pub mod metadata;
pub mod networks;
mod teach;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use crate::engine::kind::input_use::{InputShape, InputUse};
use crate::engine::kind::item::Item;
use crate::engine::kind::params::{Declared, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Files, Finding, Form, Resolved, Stage, SubStage};
use crate::engine::kind::stage_kind::{LoadScope, StageKind, Worth};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::drawable;
use crate::sd::data::captions::all_empty;
use crate::sd::prompt::chunks::CHUNK;
use crate::sd::training::adamw::AdamW;
use crate::sd::training::batches::Batches;
use crate::sd::training::instance_prompt::{Doubling, FILEWORDS, InstancePrompt};
use crate::sd::training::learning_rate::{LearningRate, Schedule};
use crate::sd::training::settings::Settings;
use crate::sd::training::texts::Texts;
use crate::stages::shared::headers;
use crate::stages::train::latents::LatentsParams;
use crate::stages::train::networks::Precision;
use crate::stages::train::params::{Compat, ScheduleParam, TrainParams, check};

/// A whole stage on the device. It publishes each checkpoint while it runs, and resumes from its state after an interruption.
pub const KIND: StageKind = StageKind {
    name: "train",
    version: 2,
    writes: &["lora"],
    passes_fields_on: false,
    keeps: true,
    worth: Worth::Precious,
    doc: TrainParams::DOC,
    params: TrainParams::fields,
    load,
};

/// With what it takes from the file around it.
fn load(node: &Node, scope: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = TrainParams::decode_params(node, diagnostics)?;
    check(&params, node, diagnostics)?;
    Some(Box::new(Train {
        instance_token: params.instance_token.clone().unwrap_or_else(|| scope.trigger.to_string()),
        seed: params.seed.unwrap_or(scope.seed),
        latents: Reference::to(format!("{}/latents", scope.stage), &params.images.span),
        params,
    }))
}

/// `train` with what it takes from the file around it.
pub struct Train {
    params: TrainParams,
    instance_token: String,
    seed: u64,
    /// The sub-stage's items: latents with the captions of the pictures.
    latents: Reference,
}

impl Declared for Train {
    fn results(&self) -> Vec<(String, serde_json::Value)> {
        let mut results: BTreeMap<String, serde_json::Value> = self.params.results().into_iter().collect();
        // What was left out counts as what it stands for.
        results.insert("instance_token".into(), json!(self.instance_token));
        results.insert("network.alpha".into(), json!(self.alpha()));
        results.insert("seed".into(), json!(self.seed));
        results.into_iter().collect()
    }

    /// The pictures and a VAE of its own are read by `latents`, and its items in their place.
    fn reads(&self) -> Vec<InputUse> {
        let base = InputUse::of("base", &self.params.base, InputShape::One, &["model"]);
        let images = InputUse::of("images", &self.latents, InputShape::Training, &["latent", "caption"]);
        base.into_iter().chain(images).collect()
    }
}

impl Stage for Train {
    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        // A VAE of its own is seen by `latents`.
        headers::of_base(files, "base", |base| match self.params.vae {
            None => drawable::check(base, None),
            Some(_) => drawable::check_denoiser(base).map(drop),
        })
    }

    fn form(&self) -> Form<'_> {
        Form::Whole(self)
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn memory_savers(&self) -> Vec<String> {
        let params = &self.params;
        let savers = [
            (!params.checkpointing, "`checkpointing: true`"),
            (params.batch_size > 1, "a smaller `batch_size`"),
            (params.precision != Precision::Fp16, "`precision: fp16`"),
            (params.max_token_length > CHUNK as u64, "a smaller `max_token_length`"),
            (true, "a smaller `size` of the pictures"),
        ];
        savers.into_iter().filter(|(helps, _)| *helps).map(|(_, saver)| saver.to_string()).collect()
    }

    fn sub_stages(&self) -> Vec<SubStage> {
        let base = self.params.vae.clone().unwrap_or_else(|| self.params.base.clone());
        let stage = LatentsParams { images: self.params.images.clone(), base };
        vec![SubStage { name: "latents", kind: &latents::KIND, stage: Box::new(stage) }]
    }

    fn lint(&self, inputs: &Resolved, files: &dyn Files) -> Vec<String> {
        let mut lines = Vec::new();
        let texts = self.texts();
        let items = inputs.items("images");
        if items.len() == 1 {
            lines.push(format!("`{}` is the only picture: a LoRA learns it by heart", items[0].name));
        }
        if self.params.instance_prompt.contains(FILEWORDS) {
            // A caption that is not made yet says nothing.
            let captions: anyhow::Result<Vec<String>> = items.iter().map(|item| caption(item, files)).collect();
            lines.extend(captions.ok().and_then(|captions| all_empty(captions.iter().map(|caption| Some(caption.as_str())))));
        }
        for item in items {
            let Ok(caption) = caption(item, files) else { continue };
            let text = texts.of(&caption);
            if text.text.is_empty() {
                lines.push(format!("`{}` has neither a caption nor a token: its text is empty", item.name));
            }
            if text.cut > 0 {
                lines.push(format!(
                    "the text of `{}` is {} tokens longer than the {} that are read: what it says last is not learned",
                    item.name, text.cut, self.params.max_token_length
                ));
            }
        }
        lines
    }
}

impl Train {
    fn alpha(&self) -> f64 {
        self.params.network.alpha.unwrap_or(self.params.network.rank as f64)
    }

    fn texts(&self) -> Texts {
        let doubling = if self.params.compat == Some(Compat::Dreambooth) { Doubling::AsDreambooth } else { Doubling::Never };
        let class_token = self.params.class_token.as_deref().unwrap_or("");
        let prompt = InstancePrompt::new(&self.params.instance_prompt, &self.instance_token, class_token, doubling);
        Texts { prompt, rows: (self.params.max_token_length / CHUNK as u64) as usize }
    }

    fn settings(&self, images: u64) -> Settings {
        let TrainParams { learning_rate: rates, batch_size, gradient_accumulation, .. } = &self.params;
        let schedule = match rates.schedule {
            ScheduleParam::Constant => Schedule::Constant,
            ScheduleParam::Linear => Schedule::Linear,
            ScheduleParam::Cosine => Schedule::Cosine,
            ScheduleParam::Polynomial => Schedule::Polynomial { power: rates.power, end: rates.end },
        };
        Settings {
            batches: Batches { seed: self.seed, images, per_step: batch_size * gradient_accumulation },
            batch_size: *batch_size as usize,
            unet_rate: rates.unet,
            text_encoder_rate: rates.text_encoder,
            learning_rate: LearningRate { schedule, warmup: rates.warmup, total: self.params.epochs * images },
            optimizer: AdamW::default(),
            max_grad_norm: self.params.max_grad_norm,
            scales_loss: false,
            epochs: self.params.stop_at.unwrap_or(self.params.epochs),
            save_every: self.params.save_every,
        }
    }
}

/// The caption of an item; no caption is an empty one.
fn caption(item: &Item, files: &dyn Files) -> anyhow::Result<String> {
    let Some(artifact) = item.fields.get("caption") else { return Ok(String::new()) };
    String::from_utf8(files.read(artifact)?).with_context(|| format!("the caption of `{}` is not UTF-8", item.name))
}
