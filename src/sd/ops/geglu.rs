//! GEGLU's gate: one half of a projection times the GELU of the other (Shazeer 2020, "GLU variants improve transformer").

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::generic;

/// `a · gelu(b)` for `x` = `[a, b]` along the last dimension, with the exact error function.
///
/// - `x`: `[.., 2 hidden]`; the result is `[.., hidden]`
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GegluRoute>::geglu(x.into_dispatch()))
}

/// Routes [`geglu`] to the backend of its tensor. The route through `Autodiff` also records the derivative.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait GegluRoute: Backend {
    fn geglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait GegluKernel: Backend {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::geglu::forward::<Self>(x)
    }

    fn gradient(x: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::geglu::gradient::<Self>(x, output_gradient)
    }
}

for_each_backend! {
impl GegluRoute {
    fn geglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as GegluKernel>::forward(x)
    }
}
}

impl<B: GegluKernel, C: CheckpointStrategy> GegluRoute for Autodiff<B, C> {
    fn geglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::forward(x.clone());
        record::<B, C, _, _>([node], output, || Remembered::<B> { x })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    x: FloatTensor<B>,
}

impl<B: GegluKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(self.x, output_gradient))]
    }
}
