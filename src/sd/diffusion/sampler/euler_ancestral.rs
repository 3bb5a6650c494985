//! Euler's method that goes below each noise level and adds fresh noise up to it; `sample_euler_ancestral` of k-diffusion with η = 1.

use crate::sd::diffusion::noise_schedule::NoiseLevel;
use crate::sd::diffusion::sampler::{Denoise, euler};
use crate::sd::random::Generator;

/// Walks `x` = noise · `levels[0].sigma` down to the last level.
pub(super) fn sample(
    levels: &[NoiseLevel],
    mut x: Vec<f32>,
    noise: &mut Generator,
    denoise: &mut Denoise<'_>,
) -> anyhow::Result<Vec<f32>> {
    for pair in levels.windows(2) {
        let denoised = denoise(&x, pair[0])?;
        let (down, up) = split(pair[0].sigma, pair[1].sigma);
        euler::step(&mut x, &denoised, pair[0].sigma, down);
        // The last step ends without noise, and draws none.
        if pair[1].sigma > 0.0 {
            for (x, noise) in x.iter_mut().zip(noise.normal(denoised.len())) {
                *x += noise * up as f32;
            }
        }
    }
    Ok(x)
}

/// The sigma to step down to, and that of the noise that leads from there to `to`.
fn split(from: f64, to: f64) -> (f64, f64) {
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt().min(to);
    ((to * to - up * up).sqrt(), up)
}
