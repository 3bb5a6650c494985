//! The kind `train`: pictures with captions become a LoRA, checkpoint by checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use burn::tensor::DType;
use serde_json::json;

use crate::engine::kind::item::{Item, by_content};
use crate::engine::kind::params::{ParamDoc, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{
    Context, Effort, Ended, Epochs, Files, Finding, Form, InputShape, InputUse, LoadScope, Reached, Resolved, Stage, StageKind,
    SubStage, WholeStage, Worth,
};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::drawable;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::data::captions::all_empty;
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::lora::network::LoraNetwork;
use crate::sd::lora::targets;
use crate::sd::models::unet::UnetConfig;
use crate::sd::prompt::chunks::CHUNK;
use crate::sd::stable_diffusion;
use crate::sd::training::adamw::AdamW;
use crate::sd::training::batches::Batches;
use crate::sd::training::denoising::{Denoising, Example};
use crate::sd::training::instance_prompt::{Doubling, FILEWORDS, InstancePrompt};
use crate::sd::training::learning_rate::{LearningRate, Schedule};
use crate::sd::training::memory_plan::Load;
use crate::sd::training::run::{Checkpoint, Ending, Settings, train};
use crate::sd::training::state::StateFolder;
use crate::sd::training::texts::Texts;
use crate::stages::headers;
use crate::stages::latents::{self, LatentsKind, LatentsParams};
use crate::stages::linked::linked;
use crate::stages::networks::{self, Precision};
use crate::stages::train_checkpoints::{Publisher, attributes};
use crate::stages::{train_memory, train_metadata};
use crate::{choice, params};

pub struct TrainKind;

choice! {
    /// How the learning rate goes on after the warm-up.
    pub enum ScheduleParam {
        /// Stays.
        Constant = "constant",
        /// Straight down to zero.
        Linear = "linear",
        /// Half a wave down to zero.
        Cosine = "cosine",
        /// Down to `end` by `power`.
        Polynomial = "polynomial"
    }
}

choice! {
    /// Which program's rules to repeat.
    pub enum Compat {
        /// A token that the caption has already is written again.
        Dreambooth = "dreambooth"
    }
}

params! {
    /// The size of the LoRA.
    pub struct NetworkParams {
        /// Inner dimension of the two factors: 4 to 16 for one concept; more learns finer detail and forgets the base sooner.
        result rank: u64 = 8,
        /// What the LoRA adds is multiplied by `alpha / rank`. The default is the rank.
        result alpha: Option<f64> = None,
    }
}

params! {
    /// How fast the networks learn.
    pub struct LearningRateParams {
        /// Peak rate of the UNet; 0 freezes it.
        result unet: f64 = 1e-4,
        /// Peak rate of the text encoder; 0 freezes it, and texts are then encoded once.
        result text_encoder: f64 = 5e-5,
        /// The course of both rates over the images seen.
        result schedule: ScheduleParam = ScheduleParam::Polynomial,
        /// Of the polynomial: 1 is a straight line, 2 falls faster at first.
        result power: f64 = 1.0,
        /// Where the polynomial ends.
        result end: f64 = 1e-7,
        /// Images over which the rate rises from zero to its peak.
        result warmup: u64 = 0,
    }
}

params! {
    /// Teaches a concept: a LoRA for the UNet and the text encoder, DreamBooth's way.
    ///
    /// Adapts kohya's modules (attention, feed-forward, projections; 264 on SD 1.x) with AdamW (betas 0.9 and 0.999, epsilon 1e-8, weight
    /// decay 0.01). Publishes a LoRA with kohya's names every `save_every` epochs and at the end; `train@20` is the one after 20 epochs,
    /// `train@step:1880` the one after 1880 images. Steps count images seen, whatever the batch size. Random numbers are drawn on the
    /// CPU from the seed, so that a training that was killed goes on to the same bytes.
    pub struct TrainParams {
        /// The model to teach, an SD 1.x model in one file.
        input base: Reference,
        /// A VAE that encodes the pictures in place of the model's own.
        input vae: Option<Reference> = None,
        /// The pictures, with or without captions; of Stable Diffusion's own models with sides in multiples of 64. Those of one size are learnt
        /// together.
        input images: Reference,
        /// The text of each image, with its caption in the place of `[filewords]`.
        result instance_prompt: String = "[filewords]".to_string(),
        /// Calls the concept; put in front of every text that lacks it. The default is the pipeline's trigger, and `""` none.
        result instance_token: Option<String> = None,
        /// What the concept is one of: `man`. The instance token then goes in front of this word.
        result class_token: Option<String> = None,
        /// `dreambooth` repeats the rules of sd_dreambooth_extension, which wrote a token again where the caption had it.
        result compat: Option<Compat> = None,
        /// Times that each image is seen.
        result epochs: u64 = 100,
        /// Ends after this epoch, with the learning rate as if going on to `epochs`.
        result stop_at: Option<u64> = None,
        /// Epochs between two checkpoints.
        result save_every: u64 = 10,
        /// Images per forward pass. Takes memory.
        result batch_size: u64 = 1,
        /// Batches per optimiser step. Takes time in place of memory.
        result gradient_accumulation: u64 = 1,
        /// Limit of the norm of all gradients together; 0 for none.
        result max_grad_norm: f64 = 1.0,
        result network: NetworkParams = NetworkParams { rank: 8, alpha: None },
        result learning_rate: LearningRateParams = LearningRateParams {
            unet: 1e-4,
            text_encoder: 5e-5,
            schedule: ScheduleParam::Polynomial,
            power: 1.0,
            end: 1e-7,
            warmup: 0,
        },
        /// Type of the base's weights and of the LoRA file, and of the arithmetic on a card; processors compute in fp32.
        result precision: Precision = Precision::Fp16,
        /// Which layer of the text encoder is used, from the end: 1 is the last, 2 what many anime models want.
        result clip_skip: u64 = 1,
        /// Compute the UNet's activations a second time in place of keeping them: less memory, more time.
        execution checkpointing: bool = false,
        /// Tokens of a text that are read: 75, 150 or 225. The rest is cut, and said.
        result max_token_length: u64 = 75,
        /// Of the LoRA's first factors, of order, noise and timesteps. The default is the pipeline's.
        result seed: Option<u64> = None,
    }
}

impl StageKind for TrainKind {
    fn name(&self) -> &'static str {
        "train"
    }

    fn version(&self) -> u32 {
        2
    }

    fn doc(&self) -> &'static str {
        TrainParams::DOC
    }

    fn params(&self) -> Vec<ParamDoc> {
        TrainParams::fields()
    }

    fn writes(&self) -> &'static [&'static str] {
        &["lora"]
    }

    fn passes_fields_on(&self) -> bool {
        false
    }

    fn worth(&self) -> Worth {
        Worth::Precious
    }

    fn load(&self, node: &Node, scope: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
        let params = TrainParams::decode_params(node, diagnostics)?;
        check(&params, node, diagnostics)?;
        Some(Box::new(Train {
            instance_token: params.instance_token.clone().unwrap_or_else(|| scope.trigger.to_string()),
            seed: params.seed.unwrap_or(scope.seed),
            latents: Reference::to(format!("{}/latents", scope.stage), &params.images.span),
            params,
        }))
    }
}

/// What the types cannot say; `None` if anything is wrong.
fn check(params: &TrainParams, node: &Node, diagnostics: &mut Diagnostics) -> Option<()> {
    let rates = &params.learning_rate;
    let polynomial = rates.schedule == ScheduleParam::Polynomial;
    let above_end = |rate: f64| rate == 0.0 || !polynomial || rate > rates.end;
    let rules: [(&[&str], bool, String); 16] = [
        (&["network", "rank"], params.network.rank >= 1, "`rank` must be at least 1".into()),
        (&["network", "alpha"], params.network.alpha.is_none_or(|alpha| alpha > 0.0), "`alpha` must be above 0".into()),
        (&["epochs"], params.epochs >= 1, "`epochs` must be at least 1".into()),
        (
            &["stop_at"],
            params.stop_at.is_none_or(|stop| (1..=params.epochs).contains(&stop)),
            format!("`stop_at` must be one of the {} epochs", params.epochs),
        ),
        (&["save_every"], params.save_every >= 1, "`save_every` must be at least 1".into()),
        (&["batch_size"], params.batch_size >= 1, "`batch_size` must be at least 1".into()),
        (&["gradient_accumulation"], params.gradient_accumulation >= 1, "`gradient_accumulation` must be at least 1".into()),
        (&["max_grad_norm"], params.max_grad_norm >= 0.0, "`max_grad_norm` must be at least 0".into()),
        (&["learning_rate", "unet"], rates.unet >= 0.0, "`unet` must be at least 0".into()),
        (&["learning_rate", "text_encoder"], rates.text_encoder >= 0.0, "`text_encoder` must be at least 0".into()),
        (
            &["learning_rate"],
            rates.unet != 0.0 || rates.text_encoder != 0.0,
            "`unet` and `text_encoder` are both 0: nothing would learn".into(),
        ),
        (&["learning_rate", "power"], rates.power > 0.0, "`power` must be above 0".into()),
        (&["learning_rate", "end"], rates.end >= 0.0, "`end` must be at least 0".into()),
        (
            &["learning_rate"],
            above_end(rates.unet) && above_end(rates.text_encoder),
            format!("a rate is not above its `end` of {:e}", rates.end),
        ),
        (&["clip_skip"], params.clip_skip >= 1, "`clip_skip` must be at least 1, the last layer".into()),
        (
            &["max_token_length"],
            [1, 2, 3].contains(&(params.max_token_length / CHUNK as u64)) && params.max_token_length.is_multiple_of(CHUNK as u64),
            "`max_token_length` must be 75, 150 or 225".into(),
        ),
    ];
    let mut sound = Some(());
    for (path, holds, message) in rules {
        if !holds {
            let place = path.iter().try_fold(node, |node, key| node.get(key)).unwrap_or(node);
            diagnostics.report(&place.span, message);
            sound = None;
        }
    }
    sound
}

/// `train` with what it takes from the file around it.
pub struct Train {
    params: TrainParams,
    instance_token: String,
    seed: u64,
    /// The sub-stage's items: latents with the captions of the pictures.
    latents: Reference,
}

impl Stage for Train {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        let mut components: BTreeMap<String, serde_json::Value> = Params::components(&self.params).into_iter().collect();
        // What was left out counts as what it stands for.
        components.insert("instance_token".into(), json!(self.instance_token));
        components.insert("network.alpha".into(), json!(self.alpha()));
        components.insert("seed".into(), json!(self.seed));
        components.into_iter().collect()
    }

    fn inputs(&self) -> Vec<InputUse> {
        vec![
            InputUse { param: "base".into(), reference: self.params.base.clone(), reads: &["model"], shape: InputShape::One },
            InputUse {
                param: "images".into(),
                reference: self.latents.clone(),
                reads: &["latent", "caption"],
                shape: InputShape::Training,
            },
        ]
    }

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
        vec![SubStage { name: "latents", kind: &LatentsKind, stage: Box::new(stage) }]
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
            let memory = train_memory::told(context.device(), &lent, &network, &load);
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
        let account = train_metadata::account(&base_file, &self.instance_token, &captions, prediction)?;
        let (params, batches, sizes) = (&self.params, settings.batches, sizes(&examples));
        let mut publisher = Publisher { params, seed: self.seed, context, batches, account, sizes };
        Ok(match train(&settings, network, &mut objective, &states, &mut publisher)? {
            Ending::Finished => Ended::Done,
            Ending::Stopped { epoch } => Ended::Stopped(format!("stopped at epoch {epoch} of {}", self.params.epochs)),
            Ending::Interrupted => Ended::Interrupted,
        })
    }
}

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
            _ => &["save_every", "stop_at"],
        }
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

    fn examples(&self, items: &[&Item], files: &dyn Files) -> anyhow::Result<Vec<Example>> {
        let texts = self.texts();
        let example = |item: &&Item| {
            let (shape, latent) = latents::read(item, files).with_context(|| format!("reading the latent of `{}`", item.name))?;
            Ok(Example { name: item.name.clone(), shape, latent, rows: texts.of(&caption(item, files)?).rows })
        };
        items.iter().map(example).collect()
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

/// The caption of an item; no caption is an empty one.
fn caption(item: &Item, files: &dyn Files) -> anyhow::Result<String> {
    let Some(artifact) = item.fields.get("caption") else { return Ok(String::new()) };
    String::from_utf8(files.read(artifact)?).with_context(|| format!("the caption of `{}` is not UTF-8", item.name))
}
