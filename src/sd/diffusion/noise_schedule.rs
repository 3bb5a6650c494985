//! The noise schedule: how much of an image is left at each timestep. Unaware of who adds or removes the noise.
//!
//! `alphas_cumprod[t]` is the share of signal kept after `t + 1` steps; Ho et al. 2020, eq. 4. Everything is f64 on the host.

/// Timesteps of SD 1.x and 2.x; `timesteps` in CompVis' configs.
pub const TIMESTEPS: usize = 1000;

/// ᾱ of the last timestep at zero terminal SNR. webui's and ComfyUI's number in the place of 0, which would have no finite sigma.
const LAST_ALPHA: f64 = 4.897_345_189_085_343_5e-8;

/// The noise schedule of one model.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
}

/// One of the noise levels that a sampler walks through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// Noise per unit of signal, √((1 − ᾱ)/ᾱ); 0 for the finished latent.
    pub sigma: f64,
    /// What the UNet is told; between two whole timesteps where the sigma is.
    pub timestep: f64,
}

impl NoiseSchedule {
    /// SD 1.x and 2.x: betas from 0.00085 to 0.012, evenly spaced by their square roots; CompVis' v1-inference.yaml.
    pub fn stable_diffusion() -> Self {
        let (start, end) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
        let mut product = 1.0;
        let alphas_cumprod = (0..TIMESTEPS)
            .map(|t| {
                let beta = (start + (end - start) * t as f64 / (TIMESTEPS - 1) as f64).powi(2);
                product *= 1.0 - beta;
                product
            })
            .collect();
        Self { alphas_cumprod }
    }

    /// The same with nothing left of the image at the last timestep: Lin et al. 2024, algorithm 1.
    pub fn with_zero_terminal_snr(mut self) -> Self {
        let (first, last) = (self.alphas_cumprod[0].sqrt(), self.alphas_cumprod[self.alphas_cumprod.len() - 1].sqrt());
        for alpha in &mut self.alphas_cumprod {
            *alpha = ((alpha.sqrt() - last) * first / (first - last)).powi(2);
        }
        if let Some(end) = self.alphas_cumprod.last_mut() {
            *end = LAST_ALPHA;
        }
        self
    }

    /// ᾱ of each timestep.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// √((1 − ᾱ)/ᾱ) of a whole timestep.
    pub fn sigma(&self, timestep: usize) -> f64 {
        let alpha = self.alphas_cumprod[timestep];
        ((1.0 - alpha) / alpha).sqrt()
    }

    /// k-diffusion's default spacing, webui's "normal": `steps` timesteps from the last to 0, sigmas between whole timesteps
    /// interpolated by their logarithm; then the finished latent. `steps + 1` levels.
    pub fn linspace(&self, steps: usize) -> Vec<NoiseLevel> {
        let last = (self.alphas_cumprod.len() - 1) as f64;
        let mut levels: Vec<NoiseLevel> = (0..steps)
            .map(|i| {
                // A single step starts from full noise.
                let timestep = if steps == 1 { last } else { last * (steps - 1 - i) as f64 / (steps - 1) as f64 };
                let (low, share) = (timestep.floor() as usize, timestep.fract());
                let high = timestep.ceil() as usize;
                let log_sigma = (1.0 - share) * self.sigma(low).ln() + share * self.sigma(high).ln();
                NoiseLevel { sigma: log_sigma.exp(), timestep }
            })
            .collect();
        levels.push(NoiseLevel { sigma: 0.0, timestep: 0.0 });
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(found: f64, expected: f64, relative: f64) {
        assert!((found - expected).abs() <= relative * expected.abs(), "{found} is not {expected}");
    }

    #[test]
    fn alphas_and_sigmas_are_those_of_sd_1() {
        let schedule = NoiseSchedule::stable_diffusion();
        for (t, expected) in
            [(0, 0.99915), (1, 0.998_296_027_8), (500, 0.276_332_683_8), (998, 0.004_716_698_9), (999, 0.004_660_098_5)]
        {
            assert_near(schedule.alphas_cumprod()[t], expected, 1e-7);
        }
        assert_near(schedule.sigma(0), 0.029_167_158_2, 1e-8);
        assert_near(schedule.sigma(999), 14.614_641_2, 1e-8);
    }

    #[test]
    fn at_zero_terminal_snr_the_sigmas_are_webuis() {
        let schedule = NoiseSchedule::stable_diffusion().with_zero_terminal_snr();
        // Computed in f64 by the formula of webui and ComfyUI.
        let expected = [
            (0, 0.029_167_158),
            (1, 0.042_067_566),
            (500, 1.774_557_474),
            (900, 18.351_919_27),
            (998, 2_254.237_978),
            (999, 4_518.763_699),
        ];
        for (t, sigma) in expected {
            assert_near(schedule.sigma(t), sigma, 1e-6);
        }
        assert_near(schedule.alphas_cumprod()[500], 0.241_018_782_8, 1e-8);
    }

    #[test]
    fn twenty_normal_sigmas_are_k_diffusions() {
        let expected = [
            14.6146, 10.7468, 8.0815, 6.2049, 4.8557, 3.8654, 3.1238, 2.5572, 2.1157, 1.7648, 1.4806, 1.2458, 1.0481, 0.8784,
            0.7297, 0.5964, 0.4736, 0.3555, 0.2322, 0.0292, 0.0,
        ];
        let levels = NoiseSchedule::stable_diffusion().linspace(20);
        assert_eq!(levels.len(), expected.len());
        for (level, expected) in levels.iter().zip(expected) {
            assert!((level.sigma - expected).abs() < 5.1e-5, "{} is not {expected}", level.sigma);
        }
    }

    #[test]
    fn a_single_step_starts_from_full_noise() {
        let levels = NoiseSchedule::stable_diffusion().linspace(1);
        assert_eq!(levels.iter().map(|level| level.timestep).collect::<Vec<_>>(), [999.0, 0.0]);
    }
}
