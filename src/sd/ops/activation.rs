//! Elementwise non-linearities.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::arguments::Activation;
use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::generic;

/// Applies `activation` to each element of `x`.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ActivationRoute>::activate(x.into_dispatch(), activation))
}

/// Routes [`activate`] to the backend of its tensor. The route through `Autodiff` also records the derivative.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait ActivationRoute: Backend {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait ActivationKernel: Backend {
    fn forward(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        generic::activation::forward::<Self>(x, activation)
    }

    fn gradient(x: FloatTensor<Self>, activation: Activation, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::activation::gradient::<Self>(x, activation, output_gradient)
    }
}

for_each_backend! {
impl ActivationRoute {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        <Self as ActivationKernel>::forward(x, activation)
    }
}
}

impl<B: ActivationKernel, C: CheckpointStrategy> ActivationRoute for Autodiff<B, C> {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::forward(x.clone(), activation);
        record::<B, C, _, _>([node], output, || Remembered::<B> { x, activation })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    x: FloatTensor<B>,
    activation: Activation,
}

impl<B: ActivationKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(self.x, self.activation, output_gradient))]
    }
}
