//! What a training does with the networks: from latents and captions to checkpoints. Unaware of keys and of how a run is resumed.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use burn::tensor::DType;

use crate::engine::kind::item::{Item, by_content};
use crate::engine::kind::stage::{Context, Ended, Files, Resolved};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::lora::network::LoraNetwork;
use crate::sd::lora::targets;
use crate::sd::models::unet::UnetConfig;
use crate::sd::stable_diffusion;
use crate::sd::training::denoising::{Denoising, Example};
use crate::sd::training::memory_plan::Load;
use crate::sd::training::run::{Ending, train};
use crate::sd::training::settings::Settings;
use crate::sd::training::state::StateFolder;
use crate::stages::train::checkpoints::Publisher;
use crate::stages::train::networks::Precision;
use crate::stages::train::{Train, caption, latents, memory, metadata, networks};

impl Train {
    /// Teaches, and publishes checkpoint by checkpoint.
    pub fn teach(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<Ended> {
        // Captions and latents decide the order; names are for messages alone.
        let items = by_content(inputs.items("images"), &["latent", "caption"]);
        ensure!(!items.is_empty(), "there are no pictures to learn from");
        let base = inputs.one("base", "model")?;
        let precision = self.params.precision;
        let model = networks::denoiser(context, base, precision)?;
        let examples = self.examples(&items, context)?;
        let largest = examples.iter().map(|example| example.shape).max_by_key(|[_, height, width]| height * width);
        let [_, height, width] = largest.context("there are no pictures to learn from")?;
        let (settings, network, layers, memory) = {
            let mut lent = model.lock().ok().context("another stage broke down while it used the networks")?;
            let arithmetic = lent.unet().dtype();
            if precision != Precision::Fp32 && arithmetic == DType::F32 {
                context.say(&format!("weights and files in {}, arithmetic in f32", precision.word()));
            }
            let settings = Settings { scales_loss: arithmetic == DType::F16, ..self.settings(items.len() as u64) };
            fits(&examples, lent.unet().config())?;
            let (unet, text_encoder) = lent.networks();
            let mut adapted = Vec::new();
            if settings.unet_rate > 0.0 {
                adapted.extend(targets::of_unet(unet));
            }
            let text_encoder = text_encoder.context("the base was read without its text encoder")?;
            if settings.text_encoder_rate > 0.0 {
                adapted.extend(targets::of_text_encoder(text_encoder));
            }
            let network = LoraNetwork::new(adapted, self.params.network.rank as usize, self.alpha(), self.seed);
            let layers = text_encoder.layers();
            let load = Load {
                batch: (self.params.batch_size as usize).min(items.len()),
                latent: [height, width],
                tokens: examples[0].rows.iter().map(Vec::len).sum(),
                trains_text_encoder: settings.text_encoder_rate > 0.0,
                checkpointing: self.params.checkpointing,
            };
            let memory = memory::message(context.device(), &lent, &network, &load);
            (settings, network, layers, memory)
        };
        let clip_skip = self.params.clip_skip as usize;
        ensure!(clip_skip <= layers, "`clip_skip` is {clip_skip}, and the text encoder has {layers} layers");
        context.say(&format!(
            "{} pictures, {} modules of rank {}, {} parameters, {} steps (images seen), {} optimiser steps",
            items.len(),
            network.targets.len(),
            network.rank,
            network.parameter_count(),
            settings.total(),
            settings.batches.steps(0..settings.epochs)
        ));
        context.say(&memory);
        let train_text_encoder = settings.text_encoder_rate > 0.0;
        let base_file = ModelFile::open(&context.path(base)?)?;
        let prediction = stable_diffusion::prediction(&base_file)?.unwrap_or(Prediction::Epsilon);
        if prediction != Prediction::Epsilon {
            context.say("the base says that it predicts velocity: so the LoRA learns to");
        }
        let mut objective = Denoising::new(&model, &examples, settings.batches, clip_skip, train_text_encoder)?
            .with_checkpointing(self.params.checkpointing)
            .predicting(prediction);
        let states = StateFolder::new(context.state()?);
        let captions = items.iter().map(|item| caption(item, context)).collect::<anyhow::Result<Vec<_>>>()?;
        let account = metadata::account(&base_file, &self.instance_token, &captions, prediction)?;
        let (params, batches, sizes) = (&self.params, settings.batches, sizes(&examples));
        let mut publisher = Publisher { params, seed: self.seed, context, batches, account, sizes };
        Ok(match train(&settings, network, &mut objective, &states, &mut publisher)? {
            Ending::Finished => Ended::Done,
            Ending::Stopped { epoch } => Ended::Stopped(format!("stopped at epoch {epoch} of {}", self.params.epochs)),
            Ending::Interrupted => Ended::Interrupted,
        })
    }

    fn examples(&self, items: &[&Item], files: &dyn Files) -> anyhow::Result<Vec<Example>> {
        let texts = self.texts();
        let example = |item: &&Item| {
            let (shape, latent) = latents::read(item, files).with_context(|| format!("reading the latent of `{}`", item.name))?;
            Ok(Example { name: item.name.clone(), shape, latent, rows: texts.of(&caption(item, files)?).rows })
        };
        items.iter().map(example).collect()
    }
}

/// Pixels of a side for one of a latent's, in every model of Stable Diffusion.
const FACTOR: usize = 8;

/// That a UNet takes latents of these channels, and can halve every one often enough.
fn fits(examples: &[Example], unet: &UnetConfig) -> anyhow::Result<()> {
    let unit = 1 << (unet.channels.len() - 1);
    for Example { name, shape: [channels, height, width], .. } in examples {
        ensure!(
            *channels == unet.in_channels,
            "the latent of `{name}` has {channels} channels, and this model takes {}: the VAE belongs to another model",
            unet.in_channels
        );
        ensure!(
            height % unit == 0 && width % unit == 0,
            "the latent of `{name}` is {width} by {height}, and this model learns from sides in multiples of {unit}: put a `resize` before \
             `train` (Stable Diffusion's own models want sides in multiples of 64 pixels)"
        );
    }
    Ok(())
}

/// Width and height in pixels of all pictures, and how many have them.
fn sizes(examples: &[Example]) -> BTreeMap<[usize; 2], usize> {
    let mut sizes = BTreeMap::new();
    for Example { shape: [_, height, width], .. } in examples {
        *sizes.entry([width * FACTOR, height * FACTOR]).or_default() += 1;
    }
    sizes
}
