//! `loramill bench`: seconds and memory of a training step, a prediction or a picture on this machine.

use std::process::ExitCode;

use anyhow::Context as _;
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::device::launch::{Ready, prepare};
use crate::cli::device::request::{Request, Work};
use crate::cli::global::Global;
use crate::cli::networks::measurement::{Measured, Measurement, What};
use crate::cli::terminal::output::{print, print_json_line};
use crate::computer::machine::process::peak_memory;
use crate::engine::cache::bytes::size;
use crate::sd::benchmark::Modules;

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
    /// Device: `cpu`, `libtorch:cpu`, `libtorch:0`, or `auto` for the best
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Image size in pixels [default: what the model was trained at]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Images per training step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Rank of the LoRA
    #[arg(long, value_name = "N", default_value_t = 8)]
    rank: usize,
    /// Modules that the LoRA adapts
    #[arg(long, value_enum, default_value_t = ModulesArgument::Kohya)]
    modules: ModulesArgument,
    /// What UNet and text encoder compute in on a card; processors compute in fp32
    #[arg(long, value_enum, default_value_t = PrecisionArgument::Fp32)]
    precision: PrecisionArgument,
    /// Gradient checkpointing: recompute the UNet's activations; less memory, more time
    #[arg(long)]
    checkpointing: bool,
    /// Steps to measure, after one to warm up; for a picture, its sampling steps
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
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

/// Prints the time of a step and the peak memory of this process, which measures nothing else. Where a worker opens the networks,
/// it does all of this and its exit code is returned.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let device = match prepare(&arguments.device, &Request::of_this_process(Work::Benchmark), global)? {
        Ready::Here(device) => device,
        Ready::Done(code) => return Ok(code),
    };
    let networks = global.networks().context("this program opens no networks")?;
    let measured = (networks.measure)(&arguments.measurement(&device))?;
    let peak = peak_memory().context("the kernel does not say how much memory this process needed")?;
    let by = (networks.describe_device)(&device);
    if arguments.json {
        print_json_line(&arguments.to_json(&measured, &device, &by, peak))?;
    } else {
        print(&text(arguments.what, &measured, &by, peak))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn measurement(&self, device: &str) -> Measurement {
        Measurement {
            what: self.what,
            preset: self.preset.clone(),
            device: device.to_string(),
            size: self.size,
            batch: self.batch,
            rank: self.rank,
            modules: match self.modules {
                ModulesArgument::Kohya => Modules::Kohya,
                ModulesArgument::Attention => Modules::Attention,
            },
            precision: self.precision.dtype(),
            checkpointing: self.checkpointing,
            steps: self.steps as usize,
        }
    }

    /// The contract of `bench --json`.
    fn to_json(&self, measured: &Measured, device: &str, by: &str, peak: u64) -> Value {
        let Measured { preset, size, computes_in, seconds, planned } = measured;
        json!({
            "preset": preset, "what": what(self.what), "device": device, "by": by, "size": size,
            "batch": self.batch, "rank": self.rank, "checkpointing": self.checkpointing, "steps": self.steps,
            "computes_in": name_of(*computes_in),
            "seconds_per_step": median(seconds), "seconds_least": seconds[0], "seconds_most": seconds[seconds.len() - 1],
            "peak_bytes": peak, "planned_bytes": planned,
        })
    }
}

fn text(measured_what: What, measured: &Measured, by: &str, peak: u64) -> String {
    let Measured { preset, size: pixels, computes_in, seconds, planned } = measured;
    let (median, least, most) = (median(seconds), seconds[0], seconds[seconds.len() - 1]);
    format!(
        "{} of {preset} at {pixels} pixels in {} on {by}\n{median:.3} s each ({least:.3} to {most:.3} in {}), {} of memory at most{}\n",
        what(measured_what),
        name_of(*computes_in),
        seconds.len(),
        size(peak),
        planned.map_or_else(String::new, |planned| format!(" ({} were planned)", size(planned))),
    )
}

/// Of sorted seconds.
fn median(seconds: &[f64]) -> f64 {
    seconds[seconds.len() / 2]
}

fn name_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "fp16",
        DType::BF16 => "bf16",
        DType::F32 => "fp32",
        other => other.name(),
    }
}

fn what(what: What) -> &'static str {
    match what {
        What::Training => "training step",
        What::Prediction => "prediction",
        What::Picture => "picture",
    }
}
