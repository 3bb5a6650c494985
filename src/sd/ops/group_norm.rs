//! Group normalisation (Wu and He 2018) of `[batch, .., channels]`, with a frozen weight and bias, and SiLU on top if asked.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::arguments::{Groups, Then};
use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::dtype;
use crate::sd::ops::generic::group_norm::Layer;

/// Brings each group of channels of each picture to mean 0 and variance 1, then scales and shifts each channel.
/// Statistics are taken in f32 or better.
///
/// - `x`: `[batch, .., channels]`
/// - `weight`, `bias`: `[channels]`, without gradients
pub fn group_norm<const D: usize>(x: Tensor<D>, weight: &Tensor<1>, bias: &Tensor<1>, groups: Groups, then: Then) -> Tensor<D> {
    dtype::same(&x, weight);
    let (weight, bias) = (weight.clone().into_dispatch(), bias.clone().into_dispatch());
    Tensor::from_dispatch(<Dispatch as GroupNormRoute>::group_norm(x.into_dispatch(), weight, bias, groups, then))
}

/// Routes [`group_norm`] to the backend of its tensors. The route through `Autodiff` also records the derivative by `x`.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait GroupNormRoute: Backend {
    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> FloatTensor<Self>;
}

/// By default each is [`Layer`]'s; a backend replaces those that it has better.
pub(crate) trait GroupNormKernel: Backend {
    /// Those of each group of each picture.
    type Statistics: Clone + Debug + Send + 'static;

    /// The output, and the statistics; `None` if the backward pass takes them again.
    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> (FloatTensor<Self>, Option<Self::Statistics>) {
        (Layer::<Self> { weight, bias, groups, then }.forward(x), None)
    }

    fn gradient(inputs: Remembered<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let Remembered { x, weight, bias, statistics: _, groups, then } = inputs;
        Layer::<Self> { weight, bias, groups, then }.gradient(x, output_gradient)
    }
}

for_each_backend! {
impl GroupNormRoute {
    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> FloatTensor<Self> {
        <Self as GroupNormKernel>::forward(x, weight, bias, groups, then).0
    }
}
}

impl<B: GroupNormKernel, C: CheckpointStrategy> GroupNormRoute for Autodiff<B, C> {
    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (weight, bias) = (weight.into_primitive(), bias.into_primitive());
        let (output, statistics) = B::forward(x.clone(), weight.clone(), bias.clone(), groups, then);
        record::<B, C, _, _>([node], output, || Remembered::<B> { x, weight, bias, statistics, groups, then })
    }
}

/// What the derivative of a group norm is computed from: the inputs of [`group_norm`], and the statistics if the forward pass kept them.
#[derive(Clone, Debug)]
pub(crate) struct Remembered<B: GroupNormKernel> {
    pub(crate) x: FloatTensor<B>,
    pub(crate) weight: FloatTensor<B>,
    pub(crate) bias: FloatTensor<B>,
    pub(crate) statistics: Option<B::Statistics>,
    pub(crate) groups: Groups,
    pub(crate) then: Then,
}

impl<B: GroupNormKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(self, output_gradient))]
    }
}
