//! Group normalisation, SiLU on top, and the derivative of both. The statistics are taken again for the derivative.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::arguments::{Activation, Groups, Then};
use crate::sd::ops::generic::activation::{apply, slope};
use crate::sd::ops::generic::normed::Normed;
use crate::sd::ops::generic::values::Values;

/// Pixels and channels of a group, in `[batch, pixels, groups, channels of a group]`.
const GROUP: [usize; 2] = [1, 3];

/// What a group norm does beside its input.
#[derive(Clone, Debug)]
pub(in crate::sd::ops) struct Layer<B: Backend> {
    pub(in crate::sd::ops) weight: FloatTensor<B>,
    pub(in crate::sd::ops) bias: FloatTensor<B>,
    pub(in crate::sd::ops) groups: Groups,
    pub(in crate::sd::ops) then: Then,
}

impl<B: Backend> Layer<B> {
    /// `x`: `[batch, .., channels]`.
    pub(in crate::sd::ops) fn forward(self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = Values::<B>(x);
        let (dtype, dims) = (x.dtype(), x.dims());
        let [weight, bias] = self.factors();
        let normed = Normed::new(self.grouped(x), &GROUP, self.groups.epsilon);
        let output = normed.values * weight + bias;
        let output = match self.then {
            Then::Nothing => output,
            Then::Silu => apply(output, Activation::Silu),
        };
        output.reshape(dims).to(dtype).0
    }

    /// The gradient of `x`.
    pub(in crate::sd::ops) fn gradient(self, x: FloatTensor<B>, output_gradient: FloatTensor<B>) -> FloatTensor<B> {
        let x = Values::<B>(x);
        let (dtype, dims) = (x.dtype(), x.dims());
        let [weight, bias] = self.factors();
        let normed = Normed::new(self.grouped(x), &GROUP, self.groups.epsilon);
        let upstream = self.grouped(Values(output_gradient));
        let upstream = match self.then {
            Then::Nothing => upstream,
            Then::Silu => upstream * slope(normed.values.clone() * weight.clone() + bias, Activation::Silu),
        };
        normed.gradient(upstream * weight, &GROUP).reshape(dims).to(dtype).0
    }

    fn grouped(&self, x: Values<B>) -> Values<B> {
        let (batch, channels, dims) = (x.dims()[0], x.width(), x.dims());
        let pixels: usize = dims[1..dims.len() - 1].iter().product();
        x.wide().reshape([batch, pixels, self.groups.count, channels / self.groups.count])
    }

    /// Weight and bias: `[1, 1, groups, channels of a group]`.
    fn factors(&self) -> [Values<B>; 2] {
        [&self.weight, &self.bias].map(|values| {
            let values = Values::<B>(values.clone()).wide();
            let channels = values.width();
            values.reshape([1, 1, self.groups.count, channels / self.groups.count])
        })
    }
}
