//! Which images a step sees, with which noise and at which timesteps. Unaware of pictures and networks.
//!
//! Everything is drawn from streams named by what it is for and by how many images were seen before, so a training that was killed goes
//! on with the same numbers, and neither batch size nor gradient accumulation changes what an image meets.

use std::ops::Range;

use crate::sd::random::stream;

/// The order of images through all epochs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batches {
    pub seed: u64,
    /// Images per epoch, at least 1.
    pub images: u64,
    /// Images per step: batch size times gradient accumulation, at least 1.
    pub per_step: u64,
}

/// One image of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Its place among the images.
    pub image: usize,
    /// How many images were seen before it: names its noise and timestep.
    pub seen: u64,
}

impl Batches {
    /// The images of the step taken after `seen` images.
    ///
    /// Every epoch sees each image once, in an order of its own; its last step takes what is left. `seen` is the end of another step.
    pub fn step(&self, seen: u64) -> Vec<Draw> {
        let (epoch, first) = (seen / self.images, seen % self.images);
        let order = stream(self.seed, "order", epoch).permutation(self.images as usize);
        let end = self.images.min(first + self.per_step);
        (first..end).map(|place| Draw { image: order[place as usize], seen: seen - first + place }).collect()
    }

    /// Optimiser steps that a range of epochs takes.
    pub fn steps(&self, epochs: Range<u64>) -> u64 {
        (epochs.end - epochs.start) * self.images.div_ceil(self.per_step)
    }

    /// Optimiser steps that were taken when `seen` images have been seen; the last step of each epoch takes what is left of it.
    pub fn steps_until(&self, seen: u64) -> u64 {
        let (epochs, rest) = (seen / self.images, seen % self.images);
        self.steps(0..epochs) + rest.div_ceil(self.per_step)
    }

    /// `count` normal numbers for an image.
    pub fn noise(&self, draw: Draw, count: usize) -> Vec<f32> {
        stream(self.seed, "noise", draw.seen).normal(count)
    }

    /// A timestep in `0..timesteps` for an image.
    pub fn timestep(&self, draw: Draw, timesteps: u32) -> u32 {
        stream(self.seed, "timestep", draw.seen).integers(timesteps, 1)[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optimiser_steps_are_counted_with_the_short_one_of_each_epoch() {
        let batches = Batches { seed: 1, images: 10, per_step: 4 };
        let steps: Vec<u64> = [0, 4, 8, 10, 14, 18, 20].into_iter().map(|seen| batches.steps_until(seen)).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4, 5, 6]);
    }

    fn epoch(batches: &Batches, number: u64) -> Vec<Vec<Draw>> {
        let (mut seen, mut steps) = (number * batches.images, Vec::new());
        while seen < (number + 1) * batches.images {
            let step = batches.step(seen);
            seen += step.len() as u64;
            steps.push(step);
        }
        steps
    }

    #[test]
    fn an_epoch_sees_every_image_once() {
        let batches = Batches { seed: 7, images: 10, per_step: 4 };
        for number in 0..3 {
            let steps = epoch(&batches, number);
            assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
            let mut images: Vec<usize> = steps.iter().flatten().map(|draw| draw.image).collect();
            images.sort();
            assert_eq!(images, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(batches.steps(0..3), 9);
    }

    #[test]
    fn epochs_have_different_orders() {
        let batches = Batches { seed: 7, images: 48, per_step: 48 };
        let images = |seen| batches.step(seen).iter().map(|draw| draw.image).collect::<Vec<_>>();
        assert_ne!(images(0), images(48));
        assert_ne!(images(0), Batches { seed: 8, ..batches }.step(0).iter().map(|draw| draw.image).collect::<Vec<_>>());
    }

    #[test]
    fn the_batch_size_changes_neither_order_nor_noise() {
        let one = Batches { seed: 7, images: 6, per_step: 1 };
        let four = Batches { per_step: 4, ..one };
        let flat = |batches: &Batches| epoch(batches, 1).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(flat(&one), flat(&four));
        let draw = one.step(7)[0];
        assert_eq!(one.noise(draw, 32), four.noise(draw, 32));
        assert_eq!(one.timestep(draw, 1000), four.timestep(draw, 1000));
    }

    #[test]
    fn timesteps_cover_the_schedule_evenly() {
        let batches = Batches { seed: 1, images: 4000, per_step: 1 };
        let mut tenths = [0; 10];
        for seen in 0..4000 {
            tenths[batches.timestep(Draw { image: 0, seen }, 1000) as usize / 100] += 1;
        }
        // 400 expected, standard deviation 19.
        assert!(tenths.iter().all(|count| (310..490).contains(count)), "{tenths:?}");
    }
}
