//! How long a training step, a prediction and a picture take on a device, and how much memory: with networks of real shapes and random
//! weights, so that no model file is needed. Unaware of pipelines; measures, does not print.

mod drawing;
mod preset;
mod training;

use std::time::Instant;

pub use drawing::{picture, prediction};
pub use preset::{PRESETS, Preset};
pub use training::{Modules, TrainingLoad, TrainingSteps, training_step};

/// Runs `work` once to warm up and then `repeats` times. Seconds of each of the latter.
fn seconds(repeats: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    work()?;
    (0..repeats)
        .map(|_| {
            let started = Instant::now();
            work()?;
            Ok(started.elapsed().as_secs_f64())
        })
        .collect()
}
