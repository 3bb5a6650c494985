//! Song et al. 2020, eq. 12, with η = 0, at the timesteps of CompVis' `ldm/models/diffusion/ddim.py`.

use crate::sd::diffusion::noise_schedule::{NoiseSchedule, TIMESTEPS};
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::diffusion::sampler::Predict;

/// From here on the timesteps would reach past the schedule's last.
pub(super) const MOST_STEPS: usize = TIMESTEPS / 2;

/// The timesteps that DDIM visits, in ascending order: every `1000 / steps`th from 1. There may be more than `steps` of them.
pub(super) fn timesteps(steps: usize) -> Vec<usize> {
    let stride = TIMESTEPS / steps;
    // Where the strides would land on timestep 1000, which is none, stable-diffusion-webui takes one step more.
    let stride = if (TIMESTEPS - 1).is_multiple_of(stride) { TIMESTEPS / ((TIMESTEPS - 1) / stride + 1) } else { stride };
    (0..TIMESTEPS).step_by(stride).map(|t| t + 1).collect()
}

/// Walks `x`, noise of unit variance, to a latent.
pub(super) fn sample(
    schedule: &NoiseSchedule,
    prediction: Prediction,
    steps: usize,
    mut x: Vec<f32>,
    predict: &mut Predict<'_>,
) -> anyhow::Result<Vec<f32>> {
    let alphas = schedule.alphas_cumprod();
    let timesteps = timesteps(steps);
    for (i, &timestep) in timesteps.iter().enumerate().rev() {
        let alpha = alphas[timestep];
        let next_alpha = if i == 0 { alphas[0] } else { alphas[timesteps[i - 1]] };
        let output = predict(&x, timestep as f64)?;
        let epsilon = prediction.epsilon(&x, output, alpha);
        let (signal, noise) = (alpha.sqrt() as f32, (1.0 - alpha).sqrt() as f32);
        let (next_signal, next_noise) = (next_alpha.sqrt() as f32, (1.0 - next_alpha).sqrt() as f32);
        for (x, epsilon) in x.iter_mut().zip(epsilon) {
            let image = (*x - noise * epsilon) / signal;
            *x = next_signal * image + next_noise * epsilon;
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_are_compvis_ones() {
        assert_eq!(timesteps(20)[..3], [1, 51, 101]);
        assert_eq!((timesteps(20).len(), timesteps(20)[19]), (20, 951));
        assert_eq!((timesteps(30).len(), timesteps(30)[30]), (31, 991));
        assert_eq!(timesteps(28).len(), 29);
        assert_eq!(timesteps(1), [1]);
    }

    #[test]
    fn no_number_of_steps_leaves_the_schedule() {
        for steps in 1..=MOST_STEPS {
            assert!(*timesteps(steps).last().unwrap() < TIMESTEPS, "{steps} steps");
        }
    }
}
