//! The learning rate over a training. Unaware of what it is applied to.
//!
//! The formulas are those of diffusers' `optimization.py`, with images seen in the place of optimiser steps, so that the batch size
//! changes how often the rate is read and never its course.

use std::f64::consts::PI;

/// How the rate goes from its peak to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The peak throughout.
    Constant,
    /// In a straight line to zero.
    Linear,
    /// Half a wave down to zero.
    Cosine,
    /// `(peak - end) * (1 - progress)^power + end`; `end` afterwards.
    Polynomial { power: f64, end: f64 },
}

/// A schedule over a training of known length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    pub schedule: Schedule,
    /// Images over which the rate rises from zero to its peak; 0 starts at the peak.
    pub warmup: u64,
    /// Images at which the schedule reaches its end.
    pub total: u64,
}

impl LearningRate {
    /// The rate of the step taken after `seen` images, for a network whose rate peaks at `peak`.
    ///
    /// A peak of zero stays zero: that network is frozen.
    pub fn at(&self, peak: f64, seen: u64) -> f64 {
        if peak == 0.0 {
            return 0.0;
        }
        if seen < self.warmup {
            return peak * seen as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((seen - self.warmup) as f64 / length as f64).min(1.0);
        match self.schedule {
            Schedule::Constant => peak,
            Schedule::Linear => peak * (1.0 - progress),
            Schedule::Cosine => peak * 0.5 * (1.0 + (PI * progress).cos()),
            Schedule::Polynomial { power, end } => (peak - end) * (1.0 - progress).powf(power) + end,
        }
    }

    /// Whether the rate after some number of images depends on how long the training is meant to be.
    pub fn depends_on_length(&self) -> bool {
        self.schedule != Schedule::Constant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLYNOMIAL: Schedule = Schedule::Polynomial { power: 2.0, end: 1e-7 };

    #[track_caller]
    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() <= 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn the_polynomial_with_warmup_gives_the_known_values() {
        let rate = LearningRate { schedule: POLYNOMIAL, warmup: 10, total: 100 };
        for (seen, expected) in [(0, 0.0), (5, 5e-5), (10, 1e-4), (55, 2.5075e-5), (100, 1e-7), (101, 1e-7)] {
            near(rate.at(1e-4, seen), expected);
        }
    }

    #[test]
    fn a_frozen_network_stays_frozen_under_every_schedule() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, POLYNOMIAL] {
            let rate = LearningRate { schedule, warmup: 0, total: 100 };
            assert_eq!(rate.at(0.0, 50), 0.0);
            assert_eq!(rate.at(0.0, 200), 0.0);
        }
    }

    #[test]
    fn a_warmup_as_long_as_the_training_ends_at_the_peak() {
        let rate = LearningRate { schedule: Schedule::Constant, warmup: 100, total: 100 };
        near(rate.at(1.0, 99), 0.99);
        near(rate.at(1.0, 100), 1.0);
    }
}
