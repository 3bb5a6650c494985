//! Pictures of twice the height and width, each pixel four times.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::generic;

/// Repeats each pixel of `x`, `[batch, height, width, channels]`, into `[batch, 2 height, 2 width, channels]`.
pub fn upsample(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as UpsampleRoute>::upsample(x.into_dispatch()))
}

/// Routes [`upsample`] to the backend of its tensor. The route through `Autodiff` also records the derivative.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait UpsampleRoute: Backend {
    fn upsample(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait UpsampleKernel: Backend {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::upsample::forward::<Self>(x)
    }

    fn gradient(output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::upsample::gradient::<Self>(output_gradient)
    }
}

for_each_backend! {
impl UpsampleRoute {
    fn upsample(x: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as UpsampleKernel>::forward(x)
    }
}
}

impl<B: UpsampleKernel, C: CheckpointStrategy> UpsampleRoute for Autodiff<B, C> {
    fn upsample(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        record::<B, C, _, _>([node], B::forward(x), || Repeated)
    }
}

/// The derivative needs nothing: the gradients of the four copies are added.
#[derive(Clone, Debug)]
struct Repeated;

impl<B: UpsampleKernel> Derivative<B, 1> for Repeated {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(output_gradient))]
    }
}
