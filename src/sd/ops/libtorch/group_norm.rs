//! Group normalisation, SiLU on top, and the derivative of both. libtorch takes the statistics of 16-bit numbers in f32.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::sd::ops::arguments::{Groups, Then};
use crate::sd::ops::group_norm::{GroupNormKernel, Remembered};
use crate::sd::ops::libtorch::recompute;

impl GroupNormKernel for LibTorch {
    /// They are taken again.
    type Statistics = ();

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> (FloatTensor<Self>, Option<()>) {
        let mut output = normalise(&x.tensor, &weight.tensor, &bias.tensor, groups);
        match then {
            Then::Nothing => {}
            Then::Silu => drop(output.silu_()),
        }
        (TchTensor::new(output), None)
    }

    fn gradient(inputs: Remembered<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let Remembered { x, weight, bias, groups, then, .. } = inputs;
        let gradient = recompute::gradient(&x.tensor, &output_gradient.tensor, |x| {
            let normed = normalise(x, &weight.tensor, &bias.tensor, groups);
            match then {
                Then::Nothing => normed,
                Then::Silu => normed.silu(),
            }
        });
        TchTensor::new(gradient.contiguous())
    }
}

/// `x`: `[batch, .., channels]`. Handed over with the channels second, as libtorch wants them, where they lie.
fn normalise(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: Groups) -> Tensor {
    let shape = x.size();
    let (batch, channels) = (shape[0], shape[shape.len() - 1]);
    let x = x.reshape([batch, -1, 1, channels]).permute([0, 3, 1, 2]);
    let output = x.group_norm(groups.count as i64, Some(weight), Some(bias), groups.epsilon, true);
    output.permute([0, 2, 3, 1]).reshape(shape)
}
