//! Training steps of a UNet, by the same loop that trains in a pipeline.

use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::{DType, Device};

use crate::sd::benchmark::preset::{LATENT_CHANNELS, Preset, TOKENS};
use crate::sd::lora::network::LoraNetwork;
use crate::sd::lora::targets;
use crate::sd::random::stream;
use crate::sd::stable_diffusion::Denoiser;
use crate::sd::training::adamw::AdamW;
use crate::sd::training::batches::Batches;
use crate::sd::training::denoising::{Denoising, Example};
use crate::sd::training::learning_rate::{LearningRate, Schedule};
use crate::sd::training::memory_plan::{Load, MemoryPlan};
use crate::sd::training::observer::{Observer, Request, StepReport};
use crate::sd::training::run::train;
use crate::sd::training::settings::{Checkpoint, Settings};
use crate::sd::training::state::StateFolder;

/// Which modules carry an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// All that kohya's scripts adapt.
    Kohya,
    /// The four projections of each attention, as diffusers' examples do.
    Attention,
}

/// What is trained with what.
#[derive(Clone, Debug)]
pub struct TrainingLoad {
    /// Pixels of a side.
    pub size: usize,
    pub batch: usize,
    pub rank: usize,
    pub modules: Modules,
    /// Whether the UNet's activations are forgotten and computed again.
    pub checkpointing: bool,
    /// What the UNet computes in.
    pub dtype: DType,
}

/// What steps took.
#[derive(Clone, Debug)]
pub struct TrainingSteps {
    /// Of each but the first, which warms up.
    pub seconds: Vec<f64>,
    /// Of the last.
    pub loss: f32,
    /// What was reckoned before them.
    pub planned: MemoryPlan,
}

/// `steps` steps after one to warm up. The text encoder is frozen and gone, its outputs are random.
pub fn training_step(preset: &Preset, device: &Device, load: &TrainingLoad, steps: usize) -> Result<TrainingSteps> {
    let mut denoiser = Denoiser::of_unet(preset.unet(device, load.dtype)?, device);
    let mut adapted = targets::of_unet(denoiser.networks().0);
    match load.modules {
        Modules::Kohya => {}
        Modules::Attention => {
            let projections = ["_to_q", "_to_k", "_to_v", "_to_out_0"];
            adapted.retain(|target| projections.iter().any(|projection| target.name.ends_with(projection)));
        }
    }
    let network = LoraNetwork::new(adapted, load.rank, load.rank as f64, 0);
    let side = load.size / preset.factor();
    let shape = [LATENT_CHANNELS, side, side];
    let mut noise = stream(0, "latents of a benchmark", 0);
    let examples: Vec<Example> = (0..load.batch)
        .map(|i| Example { name: i.to_string(), shape, latent: noise.normal(shape.iter().product()), rows: Vec::new() })
        .collect();
    let contexts = (0..load.batch).map(|_| noise.normal(TOKENS * preset.text_width())).collect();

    let batches = Batches { seed: 0, images: load.batch as u64, per_step: load.batch as u64 };
    let epochs = steps as u64 + 1;
    let settings = Settings {
        batches,
        batch_size: load.batch,
        unet_rate: 1e-4,
        text_encoder_rate: 0.0,
        learning_rate: LearningRate { schedule: Schedule::Constant, warmup: 0, total: epochs * load.batch as u64 },
        optimizer: AdamW::default(),
        max_grad_norm: 1.0,
        scales_loss: denoiser.unet().dtype() == DType::F16,
        epochs,
        save_every: epochs,
    };
    let planned = MemoryPlan::of(
        &denoiser,
        &network,
        &Load {
            batch: load.batch,
            latent: [side, side],
            tokens: TOKENS,
            trains_text_encoder: false,
            checkpointing: load.checkpointing,
        },
    );
    let denoiser = Mutex::new(denoiser);
    let mut objective = Denoising::with_contexts(&denoiser, &examples, batches, contexts)?.with_checkpointing(load.checkpointing);
    let folder = tempfile::tempdir()?;
    let mut clock = Clock { last: Instant::now(), seconds: Vec::new(), loss: f32::NAN };
    train(&settings, network, &mut objective, &StateFolder::new(folder.path()), &mut clock)?;
    Ok(TrainingSteps { seconds: clock.seconds.split_off(1), loss: clock.loss, planned })
}

/// Takes the time of each step.
struct Clock {
    last: Instant,
    seconds: Vec<f64>,
    loss: f32,
}

impl Observer for Clock {
    fn request(&mut self) -> Request {
        Request::GoOn
    }

    fn step(&mut self, report: &StepReport) {
        self.seconds.push(self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
        self.loss = report.loss;
    }

    fn checkpoint(&mut self, _: &Checkpoint, _: &LoraNetwork) -> Result<String> {
        Ok(String::new())
    }

    fn exists(&self, _: &str) -> bool {
        false
    }

    fn republish(&mut self, _: &Checkpoint, _: &str) -> Result<()> {
        Ok(())
    }
}
