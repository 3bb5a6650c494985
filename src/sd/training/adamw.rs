//! AdamW (Loshchilov and Hutter 2019) as `torch.optim.AdamW` computes it, over plain slices. Unaware of networks and devices.
//!
//! The factors of a LoRA are small, so they and their moments live on the host in f32: the same bits on every device, and nothing to
//! lose when a state is saved.

use rayon::prelude::*;

/// The settings that stay the same through a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled: a share of each value, times the rate, is taken off at every step.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// The defaults of `torch.optim.AdamW`.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

/// Running means of a tensor's gradients and of their squares, as long as the tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

impl Moments {
    /// The moments before the first step, for a tensor of `length` values.
    pub fn zeros(length: usize) -> Self {
        Self { mean: vec![0.0; length], square: vec![0.0; length] }
    }
}

impl AdamW {
    /// Moves `values` against `gradient`. `step` counts from 1; all slices are equally long.
    pub fn update(&self, step: u64, rate: f64, values: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        assert_eq!(values.len(), gradient.len(), "a gradient has the length of its values");
        // PyTorch computes these in f64 and hands them to f32 kernels.
        let keep = (1.0 - rate * self.weight_decay) as f32;
        let (new_mean, old_square, new_square) = ((1.0 - self.beta1) as f32, self.beta2 as f32, (1.0 - self.beta2) as f32);
        let step_size = (rate / (1.0 - self.beta1.powf(step as f64))) as f32;
        let root_correction = (1.0 - self.beta2.powf(step as f64)).sqrt() as f32;
        let epsilon = self.epsilon as f32;
        for (((value, gradient), mean), square) in values.iter_mut().zip(gradient).zip(&mut moments.mean).zip(&mut moments.square)
        {
            *value *= keep;
            *mean += new_mean * (gradient - *mean);
            *square = *square * old_square + new_square * gradient * gradient;
            *value -= step_size * (*mean / (square.sqrt() / root_correction + epsilon));
        }
    }
}

/// Scales all gradients down together if their norm exceeds `max_norm`, as `torch.nn.utils.clip_grad_norm_` does; 0 leaves them alone.
///
/// Returns the norm before.
pub fn clip_norm<'a>(gradients: impl IntoIterator<Item = &'a mut [f32]>, max_norm: f64) -> f64 {
    let mut gradients: Vec<&mut [f32]> = gradients.into_iter().collect();
    let square = |values: &[f32]| values.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    // Added up in their order, however many threads there are.
    let squares: Vec<f64> = gradients.par_iter().map(|values| square(values)).collect();
    let norm = squares.iter().sum::<f64>().sqrt();
    // The small number is PyTorch's.
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        gradients.par_iter_mut().for_each(|values| values.iter_mut().for_each(|gradient| *gradient *= factor as f32));
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_by_the_rate_against_the_sign() {
        let (mut values, mut moments) = (vec![1.0, 1.0, 1.0], Moments::zeros(3));
        let plain = AdamW { weight_decay: 0.0, ..AdamW::default() };
        plain.update(1, 0.1, &mut values, &[3.0, -0.02, 0.0], &mut moments);
        for (value, expected) in values.iter().zip([0.9, 1.1, 1.0]) {
            assert!((value - expected).abs() < 1e-5, "{values:?}");
        }
    }

    #[test]
    fn decay_acts_without_a_gradient() {
        let (mut values, mut moments) = (vec![2.0], Moments::zeros(1));
        AdamW::default().update(1, 0.5, &mut values, &[0.0], &mut moments);
        assert_eq!(values, [2.0 * (1.0 - 0.5 * 0.01)]);
    }

    #[test]
    fn gradients_are_clipped_by_their_common_norm() {
        let (mut a, mut b) = ([3.0, 0.0], [4.0]);
        assert_eq!(clip_norm([&mut a[..], &mut b[..]], 1.0), 5.0);
        assert!((a[0] - 0.6).abs() < 1e-6 && (b[0] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn small_gradients_and_a_limit_of_zero_leave_them_alone() {
        let mut small = [0.3, 0.4];
        clip_norm([&mut small[..]], 1.0);
        assert_eq!(small, [0.3, 0.4]);
        let mut large = [30.0];
        clip_norm([&mut large[..]], 0.0);
        assert_eq!(large, [30.0]);
    }
}
