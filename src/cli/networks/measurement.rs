//! Seconds of a training step, a prediction or a picture on a device of this process. Unaware of what is said of them.

use anyhow::{Context as _, Result, ensure};
use burn::tensor::DType;
use clap::ValueEnum;

use crate::sd::benchmark::{Modules, PRESETS, Preset, TrainingLoad, picture, prediction, training_step};
use crate::sd::device;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Steps of a training with a frozen text encoder
    Training,
    /// Predictions of the UNet for one picture
    Prediction,
    /// A picture with guidance, from texts to pixels
    Picture,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub what: What,
    /// The name of a preset.
    pub preset: String,
    /// The name of a device.
    pub device: String,
    /// Pixels of a side; `None`: what the preset was trained at.
    pub size: Option<usize>,
    /// Images of a training step.
    pub batch: usize,
    pub rank: usize,
    pub modules: Modules,
    /// What UNet and text encoder compute in on a card.
    pub precision: DType,
    pub checkpointing: bool,
    /// Steps after one to warm up; of a picture its steps.
    pub steps: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    pub preset: &'static str,
    /// Pixels of a side.
    pub size: usize,
    /// What UNet and text encoder computed in.
    pub computes_in: DType,
    /// Of each step, the shortest first; never empty.
    pub seconds: Vec<f64>,
    /// Bytes that were reckoned before a training.
    pub planned: Option<u64>,
}

/// # Errors
/// If there is no such preset or device, a number does not fit, or memory runs out.
pub fn measure(asked: &Measurement) -> Result<Measured> {
    let preset = preset(&asked.preset)?;
    let pixels = asked.size.unwrap_or(preset.size);
    ensure!(pixels > 0 && pixels.is_multiple_of(64), "`--size {pixels}`: must be a multiple of 64 pixels");
    ensure!(asked.batch > 0 && asked.rank > 0, "`--batch` and `--rank` must be at least 1");
    let device = device::named(&asked.device)?;
    let dtype = device::arithmetic(&device, asked.precision);
    let load = TrainingLoad {
        size: pixels,
        batch: asked.batch,
        rank: asked.rank,
        modules: asked.modules,
        checkpointing: asked.checkpointing,
        dtype,
    };
    let mut planned = None;
    let mut seconds = match asked.what {
        What::Training => {
            let steps = training_step(preset, &device, &load, asked.steps)?;
            planned = Some(steps.planned.total());
            steps.seconds
        }
        What::Prediction => prediction(preset, &device, dtype, pixels, asked.steps)?,
        What::Picture => vec![picture(preset, &device, dtype, pixels, asked.steps)?],
    };
    seconds.sort_by(f64::total_cmp);
    Ok(Measured { preset: preset.name, size: pixels, computes_in: dtype, seconds, planned })
}

fn preset(name: &str) -> Result<&'static Preset> {
    let names = || PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    PRESETS.iter().find(|preset| preset.name == name).with_context(|| format!("unknown preset `{name}`; there are {}", names()))
}
