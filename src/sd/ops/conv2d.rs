//! Convolution of pictures with a frozen kernel.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::arguments::Placement;
use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::dtype;
use crate::sd::ops::generic;

/// A frozen kernel, laid out for the operation.
#[derive(Debug)]
pub struct Kernel {
    /// In the order that the backend wants.
    weight: Tensor<4>,
    /// `[out_channels]`.
    bias: Tensor<1>,
    placement: Placement,
}

impl Kernel {
    /// - `weight`: `[out_channels, in_channels, size, size]`, PyTorch's layout
    /// - `bias`: `[out_channels]`
    pub fn new(weight: Tensor<4>, bias: Tensor<1>, placement: Placement) -> Self {
        let weight = Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::lay_out(weight.into_dispatch()));
        Self { weight, bias, placement }
    }
}

/// Convolves `x` with `kernel`.
///
/// - `x`: `[batch, height, width, in_channels]`
/// - the result: `[batch, height / stride, width / stride, out_channels]`, as far as the padding keeps the size
pub fn conv2d(x: Tensor<4>, kernel: &Kernel) -> Tensor<4> {
    dtype::same(&x, &kernel.weight);
    let (weight, bias) = (kernel.weight.clone().into_dispatch(), kernel.bias.clone().into_dispatch());
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::conv2d(x, weight, bias, kernel.placement))
}

/// Routes [`conv2d`], and the layout of its kernel in [`Kernel::new`], to the backend of its tensors. The route through `Autodiff` also records
/// the derivative by `x`.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait ConvolutionRoute: Backend {
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait ConvolutionKernel: Backend {
    /// A kernel `[out_channels, in_channels, size, size]` in the order of this backend.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::conv2d::lay_out::<Self>(weight)
    }

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        generic::conv2d::forward::<Self>(x, weight, bias, placement)
    }

    /// The gradient of the input, whose pictures are `input_size` high and wide. `weight` is what [`Self::lay_out`] gave.
    fn gradient(
        output_gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self> {
        generic::conv2d::gradient::<Self>(output_gradient, weight, placement, input_size)
    }
}

for_each_backend! {
impl ConvolutionRoute {
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as ConvolutionKernel>::lay_out(weight)
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        <Self as ConvolutionKernel>::forward(x, weight, bias, placement)
    }
}
}

impl<B: ConvolutionKernel, C: CheckpointStrategy> ConvolutionRoute for Autodiff<B, C> {
    /// Kernels are frozen.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::lay_out(weight.into_primitive()))
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let input_size = [x.shape()[1], x.shape()[2]];
        let weight = weight.into_primitive();
        let output = B::forward(x, weight.clone(), bias.into_primitive(), placement);
        record::<B, C, _, _>([node], output, || Remembered::<B> { weight, placement, input_size })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    weight: FloatTensor<B>,
    placement: Placement,
    input_size: [usize; 2],
}

impl<B: ConvolutionKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(output_gradient, self.weight, self.placement, self.input_size))]
    }
}
