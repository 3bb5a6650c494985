//! Numbers brought to mean 0 and variance 1 over some dimensions, and the derivative: what group norm and layer norm share.

use burn::backend::Backend;

use crate::sd::ops::generic::values::Values;

pub(super) struct Normed<B: Backend> {
    pub(super) values: Values<B>,
    /// One for all elements that were normed together.
    inverse_deviation: Values<B>,
}

impl<B: Backend> Normed<B> {
    /// `x` in f32 or better, over `dims`.
    pub(super) fn new(x: Values<B>, dims: &[usize], epsilon: f64) -> Self {
        let mean = mean(x.clone(), dims);
        let centred = x - mean;
        // Squares of what is above the mean, not the mean of squares: their difference would lose what a large mean leaves.
        let variance = self::mean(centred.clone() * centred.clone(), dims);
        let inverse_deviation = (variance + epsilon).sqrt().reciprocal();
        Self { values: centred * inverse_deviation.clone(), inverse_deviation }
    }

    /// With `n` the normed values and `h` what flows back to them: `(h - mean(h) - n · mean(h · n)) / deviation`.
    pub(super) fn gradient(self, upstream: Values<B>, dims: &[usize]) -> Values<B> {
        let plain = mean(upstream.clone(), dims);
        let along = mean(upstream.clone() * self.values.clone(), dims);
        (upstream - plain - self.values * along) * self.inverse_deviation
    }
}

fn mean<B: Backend>(x: Values<B>, dims: &[usize]) -> Values<B> {
    let sizes = x.dims();
    let count: usize = dims.iter().map(|dim| sizes[*dim]).product();
    x.sum(dims) * (1.0 / count as f64)
}
