//! Euler's method on the probability flow: Karras et al. 2022, algorithm 2 without churn; `sample_euler` of k-diffusion.

use crate::sd::diffusion::noise_schedule::NoiseLevel;
use crate::sd::diffusion::sampler::Denoise;

/// Walks `x` = noise · `levels[0].sigma` down to the last level.
pub(super) fn sample(levels: &[NoiseLevel], mut x: Vec<f32>, denoise: &mut Denoise<'_>) -> anyhow::Result<Vec<f32>> {
    for pair in levels.windows(2) {
        let denoised = denoise(&x, pair[0])?;
        step(&mut x, &denoised, pair[0].sigma, pair[1].sigma);
    }
    Ok(x)
}

/// Moves `x` from noise level `from` to `to`, straight towards `denoised`.
pub(super) fn step(x: &mut [f32], denoised: &[f32], from: f64, to: f64) {
    let (sigma, distance) = (from as f32, (to - from) as f32);
    for (x, denoised) in x.iter_mut().zip(denoised) {
        let slope = (*x - denoised) / sigma;
        *x += slope * distance;
    }
}
