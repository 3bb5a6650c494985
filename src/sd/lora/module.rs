//! What a LoRA has for one layer: two factors and alpha. Unaware of files and of which layer it is.

use crate::sd::lora::matrix::Matrix;

/// The factors of one layer. Its weight changes by `strength · alpha / rank · up · down`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `[rank, in · height · width]`
    pub down: Matrix,
    /// `[out, rank]`
    pub up: Matrix,
    pub alpha: f32,
    /// Height and width of the layer's kernel, if it is a convolution.
    pub kernel: Option<[usize; 2]>,
}

impl LoraModule {
    /// The inner dimension of `up · down`.
    pub fn rank(&self) -> usize {
        self.up.columns
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    /// `[out, in]` or `[out, in, height, width]` of the layer it adapts.
    pub fn weight_shape(&self) -> Vec<usize> {
        match self.kernel {
            None => vec![self.up.rows, self.down.columns],
            Some([height, width]) => vec![self.up.rows, self.down.columns / (height * width), height, width],
        }
    }

    /// The change of the weight at strength 1: `[out, in · height · width]`.
    pub fn delta(&self) -> Matrix {
        let mut delta = self.up.times(&self.down);
        let scale = self.scale();
        delta.values.iter_mut().for_each(|value| *value *= scale);
        delta
    }
}
