//! `loramill bench`: seconds and memory of a training step, a prediction or a picture on this machine.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::Global;
use crate::cli::device::launch::{Request, device_for, done_elsewhere};
use crate::cli::terminal::output::{print, print_json_line};
use crate::computer::machine::process::peak_memory;
use crate::engine::cache::bytes::size;
use crate::sd::benchmark::{Modules, PRESETS, Preset, TrainingLoad, picture, prediction, training_step};
use crate::sd::device;

/// Measure training and drawing on a device, with a model's shapes and random weights
///
/// No model file is needed. Each run measures one thing, so that the peak of memory is its own.
#[derive(Args)]
pub struct Arguments {
    /// `tiny` (the example's model), `sd15` or `sd21`
    #[arg(value_name = "PRESET", default_value = "tiny")]
    preset: String,
    /// What is measured
    #[arg(long, value_enum, default_value_t = What::Training)]
    what: What,
    /// Where: `cpu`, `libtorch:cpu`, `libtorch:0`, or the best there is
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Pixels of a side [default: what the model was trained at]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Images of a training step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Rank of the LoRA that is trained
    #[arg(long, value_name = "N", default_value_t = 8)]
    rank: usize,
    /// Which modules it adapts
    #[arg(long, value_enum, default_value_t = ModulesArgument::Kohya)]
    modules: ModulesArgument,
    /// What UNet and text encoder compute in on a card; processors compute in fp32
    #[arg(long, value_enum, default_value_t = PrecisionArgument::Fp32)]
    precision: PrecisionArgument,
    /// Forget the UNet's activations and compute them again: less memory, more time
    #[arg(long)]
    checkpointing: bool,
    /// Steps after one to warm up; of a picture its steps
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Steps of a training with a frozen text encoder
    Training,
    /// Predictions of the UNet for one picture
    Prediction,
    /// A picture with guidance, from texts to pixels
    Picture,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModulesArgument {
    /// What kohya's scripts adapt: attention, perceptrons, projections
    Kohya,
    /// The four projections of each attention
    Attention,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PrecisionArgument {
    Fp32,
    Fp16,
    Bf16,
}

impl PrecisionArgument {
    fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Fp16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let request = Request { arguments: Request::this_command(), run: None };
    if let Some(code) = done_elsewhere(&arguments.device, &request, global)? {
        return Ok(code);
    }
    let networks = global.networks.context("this program opens no networks")?;
    (networks.bench)(arguments)
}

pub fn measure(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let preset = preset(&arguments.preset)?;
    let pixels = arguments.size.unwrap_or(preset.size);
    ensure!(pixels > 0 && pixels.is_multiple_of(64), "`--size {pixels}`: the models want a multiple of 64 pixels");
    ensure!(arguments.batch > 0 && arguments.rank > 0, "`--batch` and `--rank` begin at 1");
    let device_name = device_for(&arguments.device);
    let device = device::named(&device_name)?;
    let dtype = device::arithmetic(&device, arguments.precision.dtype());
    let steps = arguments.steps as usize;
    let modules = match arguments.modules {
        ModulesArgument::Kohya => Modules::Kohya,
        ModulesArgument::Attention => Modules::Attention,
    };
    let load = TrainingLoad {
        size: pixels,
        batch: arguments.batch,
        rank: arguments.rank,
        modules,
        checkpointing: arguments.checkpointing,
        dtype,
    };
    let mut planned = None;
    let mut seconds = match arguments.what {
        What::Training => {
            let steps = training_step(preset, &device, &load, steps)?;
            planned = Some(steps.planned.total());
            steps.seconds
        }
        What::Prediction => prediction(preset, &device, dtype, pixels, steps)?,
        What::Picture => vec![picture(preset, &device, dtype, pixels, steps)?],
    };
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
    let peak = peak_memory().context("the kernel does not say how much memory this process needed")?;
    let by = device::description(&device_name);
    if arguments.json {
        print_json_line(&json!({
            "preset": preset.name, "what": what(arguments.what), "device": device_name, "by": by, "size": pixels,
            "batch": arguments.batch, "rank": arguments.rank, "checkpointing": arguments.checkpointing, "steps": steps,
            "computes_in": computes_in(dtype),
            "seconds_per_step": median, "seconds_least": least, "seconds_most": most, "peak_bytes": peak,
            "planned_bytes": planned,
        }))?;
    } else {
        print(&format!(
            "{} of {} at {pixels} pixels in {} on {by}\n{median:.3} s each ({least:.3} to {most:.3} in {}), {} of memory at most{}\n",
            what(arguments.what),
            preset.name,
            computes_in(dtype),
            seconds.len(),
            size(peak),
            planned.map_or_else(String::new, |planned| format!(" ({} were planned)", size(planned))),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn preset(name: &str) -> anyhow::Result<&'static Preset> {
    let names = || PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    PRESETS.iter().find(|preset| preset.name == name).with_context(|| format!("unknown preset `{name}`; there are {}", names()))
}

fn computes_in(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "fp16",
        DType::BF16 => "bf16",
        _ => "fp32",
    }
}

fn what(what: What) -> &'static str {
    match what {
        What::Training => "training step",
        What::Prediction => "prediction",
        What::Picture => "picture",
    }
}
