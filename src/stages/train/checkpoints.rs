//! Hands the checkpoints of a training to the engine, and the user's stop and save requests to the training. Unaware of how
//! either works.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::engine::cache::digest::Digest;
use crate::engine::kind::item::Artifact;
use crate::engine::kind::stage::{Content, Context, Draft, Progress, StopRequest};
use crate::sd::lora::network::LoraNetwork;
use crate::sd::training::batches::Batches;
use crate::sd::training::observer::{Observer, Request, StepReport};
use crate::sd::training::settings::Checkpoint;
use crate::stages::train::params::TrainParams;

/// The engine, as the training sees it.
pub struct Publisher<'a> {
    pub params: &'a TrainParams,
    pub seed: u64,
    pub context: &'a dyn Context,
    pub batches: Batches,
    /// What all checkpoints say of the training.
    pub account: BTreeMap<String, String>,
    /// Width and height in pixels of the pictures, and how many have them.
    pub sizes: BTreeMap<[usize; 2], usize>,
}

impl Observer for Publisher<'_> {
    fn request(&mut self) -> Request {
        match self.context.stop_request() {
            StopRequest::GoOn => Request::GoOn,
            StopRequest::SaveNow => Request::SaveNow,
            StopRequest::Stop => Request::Stop,
            StopRequest::Interrupt => Request::Interrupt,
        }
    }

    fn step(&mut self, report: &StepReport) {
        if let Some(scale) = report.overflowed {
            let after = report.seen;
            self.context.say(&format!("the gradients after step {after} overflowed fp16 and were left out; loss scale {scale}"));
        }
        self.context.progress(Progress {
            done: report.seen,
            total: report.total,
            unit: "images",
            values: vec![("loss", f64::from(report.loss)), ("rate", report.rate), ("optimiser step", report.steps as f64)],
        });
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> anyhow::Result<String> {
        let bytes = network.to_file(self.params.precision.dtype(), &self.metadata(checkpoint))?;
        let note = format!("{} {}", Digest::of(&bytes), bytes.len());
        self.publish(checkpoint, Content::Bytes { bytes, extension: "safetensors" })?;
        Ok(note)
    }

    fn exists(&self, note: &str) -> bool {
        artifact(note).is_some_and(|artifact| self.context.read(&artifact).is_ok())
    }

    fn republish(&mut self, checkpoint: &Checkpoint, note: &str) -> anyhow::Result<()> {
        let artifact = artifact(note).context("the training's state names no checkpoint")?;
        self.publish(checkpoint, Content::Same(artifact))
    }
}

impl Publisher<'_> {
    fn publish(&self, checkpoint: &Checkpoint, lora: Content) -> anyhow::Result<()> {
        let draft = Draft { attributes: attributes(checkpoint), ..Draft::new(&checkpoint.name) };
        self.context.publish(draft.field("lora", lora))
    }

    /// kohya's account of the training, as far as the checkpoint follows from it: how long it was meant to last does not.
    fn metadata(&self, checkpoint: &Checkpoint) -> BTreeMap<String, String> {
        let TrainParams { learning_rate: rates, batch_size, gradient_accumulation, max_grad_norm, .. } = self.params;
        let largest = self.sizes.keys().max_by_key(|[width, height]| width * height);
        let [width, height] = largest.copied().unwrap_or_default();
        let mut metadata = BTreeMap::from(
            [
                ("ss_unet_lr", format!("{:?}", rates.unet)),
                ("ss_text_encoder_lr", format!("{:?}", rates.text_encoder)),
                ("ss_lr_scheduler", rates.schedule.word().to_string()),
                ("ss_lr_warmup_steps", rates.warmup.to_string()),
                ("ss_optimizer", "torch.optim.adamw.AdamW".to_string()),
                ("ss_max_grad_norm", format!("{max_grad_norm:?}")),
                ("ss_batch_size_per_device", batch_size.to_string()),
                ("ss_gradient_accumulation_steps", gradient_accumulation.to_string()),
                ("ss_mixed_precision", self.params.precision.kohya().to_string()),
                ("ss_clip_skip", self.params.clip_skip.to_string()),
                ("ss_max_token_length", self.params.max_token_length.to_string()),
                ("ss_seed", self.seed.to_string()),
                ("ss_cache_latents", "True".to_string()),
                ("ss_steps", self.batches.steps_until(checkpoint.seen).to_string()),
                ("modelspec.resolution", format!("{width}x{height}")),
            ]
            .map(|(name, value)| (name.to_string(), value)),
        );
        if self.sizes.len() > 1 {
            let buckets = self.sizes.iter().enumerate().map(|(number, (resolution, count))| {
                (number.to_string(), serde_json::json!({ "resolution": resolution, "count": count }))
            });
            let buckets: serde_json::Map<String, serde_json::Value> = buckets.collect();
            metadata.insert("ss_enable_bucket".into(), "True".into());
            metadata.insert("ss_bucket_info".into(), serde_json::json!({ "buckets": buckets }).to_string());
        }
        metadata.extend(self.account.clone());
        metadata.extend(checkpoint.epoch.map(|epoch| ("ss_epoch".to_string(), epoch.to_string())));
        metadata
    }
}

/// The artifact that a note of [`Publisher::checkpoint`] means.
fn artifact(note: &str) -> Option<Artifact> {
    let (digest, size) = note.split_once(' ')?;
    Some(Artifact { digest: digest.parse().ok()?, size: size.parse().ok()?, extension: "safetensors".into() })
}

/// Epoch and step of a checkpoint, by which references choose it.
pub fn attributes(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let epoch = checkpoint.epoch.map(|epoch| ("epoch".to_string(), epoch.to_string()));
    epoch.into_iter().chain([("step".to_string(), checkpoint.seen.to_string())]).collect()
}
