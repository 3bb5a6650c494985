//! From noise to a latent: one sampler a file. Unaware of networks: what predicts is a function on plain numbers.

pub mod ddim;
pub mod euler;
pub mod euler_ancestral;

use crate::sd::diffusion::noise_schedule::{NoiseLevel, NoiseSchedule};
use crate::sd::diffusion::prediction::{Prediction, input_scale};
use crate::sd::random::Generator;

/// The UNet with its guidance: takes a latent of unit variance and a timestep, gives the guided prediction. Fails to end the picture,
/// when the user wants to stop.
pub type Predict<'a> = dyn FnMut(&[f32], f64) -> anyhow::Result<Vec<f32>> + 'a;

/// The image that is seen in image + sigma · noise, at the sigma given.
type Denoise<'a> = dyn FnMut(&[f32], NoiseLevel) -> anyhow::Result<Vec<f32>> + 'a;

crate::choice! {
    /// How noise becomes a latent.
    pub enum Sampler {
        /// Euler's method on the probability flow, Karras et al. 2022, algorithm 2 without churn.
        Euler = "euler",
        /// Euler's method that adds fresh noise at each step; k-diffusion's ancestral sampling.
        EulerAncestral = "euler_a",
        /// Song et al. 2020 with η = 0, at CompVis' timesteps.
        Ddim = "ddim",
    }
}

impl Sampler {
    /// As stable-diffusion-webui calls it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Euler => "Euler",
            Self::EulerAncestral => "Euler a",
            Self::Ddim => "DDIM",
        }
    }

    /// Why it cannot take so many steps, if it cannot.
    pub fn refuses(self, steps: usize) -> Option<String> {
        let most = match self {
            Self::Euler | Self::EulerAncestral => 1000,
            Self::Ddim => ddim::MOST_STEPS,
        };
        (steps == 0 || steps > most).then(|| format!("`{}` takes 1 to {most} steps", self.word()))
    }

    /// How often `predict` will be asked: DDIM's timesteps are whole, so it may take a few steps more or fewer than wished.
    pub fn predictions(self, steps: usize) -> usize {
        match self {
            Self::Euler | Self::EulerAncestral => steps,
            Self::Ddim => ddim::timesteps(steps).len(),
        }
    }

    /// Draws `count` numbers from `noise` and walks to a latent of as many; further noise continues the same generator.
    ///
    /// `steps` must be among those that `refuses` accepts.
    pub fn sample(
        self,
        schedule: &NoiseSchedule,
        prediction: Prediction,
        steps: usize,
        noise: &mut Generator,
        count: usize,
        predict: &mut Predict<'_>,
    ) -> anyhow::Result<Vec<f32>> {
        let start = noise.normal(count);
        if self == Self::Ddim {
            return ddim::sample(schedule, prediction, steps, start, predict);
        }
        let levels = schedule.linspace(steps);
        let first = levels[0].sigma as f32;
        let start: Vec<f32> = start.into_iter().map(|x| x * first).collect();
        let mut denoise = |noisy: &[f32], level: NoiseLevel| {
            let scale = input_scale(level.sigma);
            let input: Vec<f32> = noisy.iter().map(|x| x * scale).collect();
            Ok(prediction.denoised(noisy, &predict(&input, level.timestep)?, level.sigma))
        };
        match self {
            Self::EulerAncestral => euler_ancestral::sample(&levels, start, noise, &mut denoise),
            _ => euler::sample(&levels, start, &mut denoise),
        }
    }
}
