//! Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"): the loss is multiplied so that its gradients do not vanish in
//! fp16, by as much as they stand. Unaware of what the loss is.
//!
//! By the rules and numbers of PyTorch's `GradScaler`: halved when gradients overflow, doubled after 2000 steps without.

use anyhow::{Result, ensure};

/// Steps without an overflow after which twice as much is tried.
const PATIENCE: u32 = 2000;

/// What the loss is multiplied by, and how long that has gone well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// A power of two, so that taking it out again is exact.
    factor: f32,
    steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: 65536.0, steps: 0 }
    }
}

impl LossScale {
    /// A scale as it was saved.
    ///
    /// # Errors
    /// If `factor` is no power of two.
    pub fn saved(factor: f32, steps: u32) -> Result<Self> {
        ensure!(factor >= 1.0 && factor.is_finite() && factor.log2().fract() == 0.0, "a loss scale of {factor}");
        Ok(Self { factor, steps })
    }

    /// What the loss is multiplied by, and its gradients are divided by: a power of two, at least 1.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Steps since it changed.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// After gradients that were finite.
    pub fn went_well(&mut self) {
        self.steps += 1;
        if self.steps == PATIENCE {
            // More than this is no number any more.
            let doubled = (2.0 * self.factor).min(f32::MAX.log2().floor().exp2());
            *self = Self { factor: doubled, steps: 0 };
        }
    }

    /// After gradients that were not.
    ///
    /// # Errors
    /// If they are not even without a scale.
    pub fn overflowed(&mut self) -> Result<()> {
        ensure!(
            self.factor > 1.0,
            "the gradients are too large for fp16 even as they are: try a lower learning rate, `precision: bf16` where the card has \
             it, or `precision: fp32`"
        );
        *self = Self { factor: self.factor / 2.0, steps: 0 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_and_patience_doubles() {
        let mut scale = LossScale::default();
        scale.overflowed().unwrap();
        assert_eq!(scale.factor(), 32768.0);
        (1..PATIENCE).for_each(|_| scale.went_well());
        assert_eq!((scale.factor(), scale.steps()), (32768.0, PATIENCE - 1));
        scale.went_well();
        assert_eq!((scale.factor(), scale.steps()), (65536.0, 0));
        (1..PATIENCE).for_each(|_| scale.went_well());
        scale.overflowed().unwrap();
        (1..PATIENCE).for_each(|_| scale.went_well());
        assert_eq!(scale.factor(), 32768.0);
    }

    #[test]
    fn gradients_that_never_fit_are_an_error() {
        let mut scale = LossScale::default();
        (0..16).for_each(|_| scale.overflowed().unwrap());
        assert_eq!(scale.factor(), 1.0);
        assert!(scale.overflowed().unwrap_err().to_string().contains("`precision: fp32`"));
    }
}
