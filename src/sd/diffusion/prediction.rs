//! What the UNet predicts, and what follows from it for the image; classifier-free guidance. Unaware of samplers.

use crate::sd::diffusion::noise_schedule::NoiseSchedule;

/// What the UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise: SD 1.x and the 512-pixel SD 2.x.
    Epsilon,
    /// √ᾱ · noise − √(1 − ᾱ) · image, Salimans and Ho 2022: the 768-pixel SD 2.x.
    Velocity,
    /// The same, of a model trained with zero terminal SNR: its last timestep is pure noise, Lin et al. 2024.
    VelocityAtZeroSnr,
}

impl Prediction {
    /// The noise schedule that such a model was trained with.
    pub fn schedule(self) -> NoiseSchedule {
        let schedule = NoiseSchedule::stable_diffusion();
        match self {
            Self::Epsilon | Self::Velocity => schedule,
            Self::VelocityAtZeroSnr => schedule.with_zero_terminal_snr(),
        }
    }

    /// What the UNet is to learn of an image and its noise.
    pub fn target(self, image: &[f32], noise: &[f32], alpha_cumprod: f64) -> Vec<f32> {
        match self {
            Self::Epsilon => noise.to_vec(),
            Self::Velocity | Self::VelocityAtZeroSnr => {
                let (signal, share) = (alpha_cumprod.sqrt() as f32, (1.0 - alpha_cumprod).sqrt() as f32);
                image.iter().zip(noise).map(|(image, noise)| signal * noise - share * image).collect()
            }
        }
    }

    /// As `modelspec.prediction_type` names it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::Velocity | Self::VelocityAtZeroSnr => "v",
        }
    }

    /// The noise that `output` says is in `noisy` = √ᾱ · image + √(1 − ᾱ) · noise.
    pub fn epsilon(self, noisy: &[f32], output: Vec<f32>, alpha_cumprod: f64) -> Vec<f32> {
        match self {
            Self::Epsilon => output,
            Self::Velocity | Self::VelocityAtZeroSnr => {
                let (signal, noise) = (alpha_cumprod.sqrt() as f32, (1.0 - alpha_cumprod).sqrt() as f32);
                output.into_iter().zip(noisy).map(|(v, x)| signal * v + noise * x).collect()
            }
        }
    }

    /// The image that `output` says is in `noisy` = image + sigma · noise. The UNet was given `noisy` times `input_scale(sigma)`.
    pub fn denoised(self, noisy: &[f32], output: &[f32], sigma: f64) -> Vec<f32> {
        let variance = sigma * sigma + 1.0;
        let (kept, scale) = match self {
            Self::Epsilon => (1.0, -sigma as f32),
            Self::Velocity | Self::VelocityAtZeroSnr => (variance.recip() as f32, (-sigma / variance.sqrt()) as f32),
        };
        noisy.iter().zip(output).map(|(x, out)| kept * x + scale * out).collect()
    }
}

/// Brings image + sigma · noise to unit variance: k-diffusion's `c_in`.
pub fn input_scale(sigma: f64) -> f32 {
    (sigma * sigma + 1.0).sqrt().recip() as f32
}

/// Away from the prediction without the prompt, `scale` times as far as the one with it: Ho and Salimans 2022, webui's CFG scale.
pub fn guided(without: &[f32], with: &[f32], scale: f64) -> Vec<f32> {
    without.iter().zip(with).map(|(without, with)| without + scale as f32 * (with - without)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn velocity_and_epsilon_say_the_same_of_one_image() {
        let (image, noise, alpha) = (0.7_f64, -1.3_f64, 0.4_f64);
        let sigma = ((1.0 - alpha) / alpha).sqrt();
        let velocity = (alpha.sqrt() * noise - (1.0 - alpha).sqrt() * image) as f32;
        let unit = [(alpha.sqrt() * image + (1.0 - alpha).sqrt() * noise) as f32];
        let exploded = [(image + sigma * noise) as f32];

        assert_eq!(Prediction::Velocity.target(&[image as f32], &[noise as f32], alpha), [velocity]);
        assert_eq!(Prediction::Epsilon.target(&[image as f32], &[noise as f32], alpha), [noise as f32]);
        assert!((Prediction::Velocity.epsilon(&unit, vec![velocity], alpha)[0] - noise as f32).abs() < 1e-6);
        assert!((Prediction::Velocity.denoised(&exploded, &[velocity], sigma)[0] - image as f32).abs() < 1e-6);
        assert!((Prediction::Epsilon.denoised(&exploded, &[noise as f32], sigma)[0] - image as f32).abs() < 1e-6);
        assert!((exploded[0] * input_scale(sigma) - unit[0]).abs() < 1e-6);
    }

    #[test]
    fn guidance_of_one_is_the_prediction_with_the_prompt() {
        assert_eq!(guided(&[1.0, 2.0], &[3.0, -2.0], 1.0), [3.0, -2.0]);
        assert_eq!(guided(&[1.0, 2.0], &[3.0, -2.0], 7.5), [16.0, -28.0]);
    }
}
