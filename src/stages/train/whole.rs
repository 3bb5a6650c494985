//! `train` as a stage that runs as a whole: what it will publish, what it costs and how far it came. Unaware of how it is done.

use std::collections::BTreeMap;
use std::path::Path;

use crate::engine::kind::stage::{Context, Effort, Ended, Epochs, Reached, Resolved, WholeStage};
use crate::sd::training::settings::{Checkpoint, Settings};
use crate::sd::training::state::StateFolder;
use crate::stages::shared::linked::linked;
use crate::stages::train::checkpoints::attributes;
use crate::stages::train::params::ScheduleParam;
use crate::stages::train::{Train, latents};

impl WholeStage for Train {
    fn run(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<Ended> {
        (linked()?.train)(self, inputs, context)
    }

    fn forecast(&self, inputs: &Resolved) -> Vec<(String, BTreeMap<String, String>)> {
        let images = inputs.items("images").len() as u64;
        // While pictures are still being made only the epochs are known.
        let known = inputs.complete && images > 0;
        let checkpoints = self.settings(images.max(1)).checkpoints();
        let attributes = |checkpoint: &Checkpoint| {
            let mut attributes = attributes(checkpoint);
            if !known {
                attributes.remove("step");
            }
            attributes
        };
        checkpoints.iter().map(|checkpoint| (checkpoint.name.clone(), attributes(checkpoint))).collect()
    }

    /// Pixels of all pictures, as often as they are seen.
    fn effort(&self, inputs: &Resolved, item_size: Option<f64>) -> Option<Effort> {
        let items = inputs.items("images");
        let base = inputs.one("base", "model").ok()?.digest.short();
        let known: Vec<f64> = items.iter().filter_map(latents::pixels).collect();
        // What is still to be encoded is taken to be as large as the settings say, else as what is there.
        let mean = || (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        let each = if known.len() == items.len() { mean() } else { item_size.or_else(mean) };
        let texts = if self.params.learning_rate.text_encoder > 0.0 { " with texts" } else { "" };
        let again = if self.params.checkpointing { " with checkpointing" } else { "" };
        let amount = each? * self.settings(items.len() as u64).total() as f64;
        Some(Effort { amount, like: format!("{base}{texts}{again}") })
    }

    fn reached(&self, inputs: &Resolved, state: &Path, is_published: &dyn Fn(&str) -> bool) -> Reached {
        let images = inputs.items("images").len() as u64;
        let settings = self.settings(images.max(1));
        let total = settings.total();
        let checkpoints = settings.checkpoints();
        let is_taken_up = |seen: u64| {
            let mut passed = checkpoints.iter().take_while(|checkpoint| checkpoint.seen <= seen);
            seen <= total && passed.all(|checkpoint| is_published(&checkpoint.name))
        };
        // Which states are sound is known when they are read.
        let states = StateFolder::new(state).seen().unwrap_or_default();
        match states.into_iter().find(|seen| is_taken_up(*seen)) {
            None | Some(0) => Reached::Start,
            Some(seen) => Reached::Part { share: seen as f64 / total as f64, words: reached(seen, images.max(1), &settings) },
        }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(Epochs { every: self.params.save_every, last: self.params.stop_at.unwrap_or(self.params.epochs) })
    }

    fn horizon_components(&self) -> &'static [&'static str] {
        match self.params.learning_rate.schedule {
            ScheduleParam::Constant => &["epochs", "save_every", "stop_at"],
            ScheduleParam::Linear | ScheduleParam::Cosine | ScheduleParam::Polynomial => &["save_every", "stop_at"],
        }
    }
}

/// How far a training came: "in epoch 13 of 30 (290 of 720 images)"
fn reached(seen: u64, images: u64, settings: &Settings) -> String {
    let (epochs, total) = (settings.epochs, settings.total());
    let epoch = match (seen / images, seen % images) {
        (done, 0) => format!("after epoch {done}"),
        (done, _) => format!("in epoch {}", done + 1),
    };
    format!("{epoch} of {epochs} ({seen} of {total} images)")
}
