//! Convolution of pictures with a frozen kernel.

use std::sync::OnceLock;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, ExtensionType, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::ops::derivative::{Derivative, record};
use crate::ops::dtype;
use crate::ops::flex;

/// A frozen kernel, laid out for the operation.
#[derive(Debug)]
pub struct Kernel {
    /// In the order that the backend wants.
    weight: Tensor<4>,
    /// `[out_channels]`.
    bias: Tensor<1>,
    placement: Placement,
    /// For the gradient of the input. It may be as large as `weight`, so it is only made when a gradient is asked for.
    for_gradient: OnceLock<Tensor<4>>,
}

/// Where a kernel is put on a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Height and width of the kernel.
    pub size: usize,
    pub stride: usize,
    /// Zeros before the first row and column.
    pub before: usize,
    /// Zeros after the last row and column.
    pub after: usize,
}

impl Kernel {
    /// - `weight`: `[out_channels, in_channels, size, size]`, PyTorch's layout
    /// - `bias`: `[out_channels]`
    pub fn new(weight: Tensor<4>, bias: Tensor<1>, placement: Placement) -> Self {
        let weight = Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::lay_out(weight.into_dispatch()));
        Self { weight, bias, placement, for_gradient: OnceLock::new() }
    }

    fn for_gradient(&self) -> &Tensor<4> {
        self.for_gradient.get_or_init(|| {
            let weight = self.weight.clone().into_dispatch();
            Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::lay_out_gradient(weight))
        })
    }
}

/// Convolves `x` with `kernel`.
///
/// - `x`: `[batch, height, width, in_channels]`
/// - the result: `[batch, height / stride, width / stride, out_channels]`, as far as the padding keeps the size
pub fn conv2d(x: Tensor<4>, kernel: &Kernel) -> Tensor<4> {
    dtype::same(&x, &kernel.weight);
    let for_gradient = match x.device().is_autodiff() {
        true => KernelGradient::Given(kernel.for_gradient().clone().into_dispatch()),
        false => KernelGradient::Absent,
    };
    let (weight, bias) = (kernel.weight.clone().into_dispatch(), kernel.bias.clone().into_dispatch());
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::conv2d(x, weight, bias, for_gradient, kernel.placement))
}

/// The kernel as the gradient of the input wants it, where one can be asked for.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum KernelGradient<B: Backend> {
    Given(FloatTensor<B>),
    Absent,
}

#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait ConvolutionRoute: Backend {
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn lay_out_gradient(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] for_gradient: KernelGradient<Self>,
        placement: Placement,
    ) -> FloatTensor<Self>;
}

pub(crate) trait ConvolutionKernel: Backend {
    /// A kernel `[out_channels, in_channels, size, size]` in the order of this backend.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// What [`Self::gradient`] takes, from what [`Self::lay_out`] gave.
    fn lay_out_gradient(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self>;

    /// The gradient of the input, whose pictures are `input_size` high and wide.
    fn gradient(
        output_gradient: FloatTensor<Self>,
        for_gradient: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self>;
}

for_each_backend! {
impl ConvolutionRoute {
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as ConvolutionKernel>::lay_out(weight)
    }

    fn lay_out_gradient(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as ConvolutionKernel>::lay_out_gradient(weight)
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        _: KernelGradient<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        <Self as ConvolutionKernel>::forward(x, weight, bias, placement)
    }
}
}

impl ConvolutionKernel for Flex {
    /// `[size, size, in_channels, out_channels]`: a matrix whose rows are y, then x, then channel.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        flex::conv2d::lay_out(weight)
    }

    /// Turned by half a circle, with the channels swapped: the gradient of the input is a convolution with it.
    fn lay_out_gradient(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        flex::conv2d::lay_out_gradient(weight)
    }

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        flex::conv2d::forward(x, weight, bias, placement)
    }

    fn gradient(
        output_gradient: FloatTensor<Self>,
        for_gradient: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self> {
        flex::conv2d::gradient(output_gradient, for_gradient, placement, input_size)
    }
}

impl<B: ConvolutionKernel, C: CheckpointStrategy> ConvolutionRoute for Autodiff<B, C> {
    /// Kernels are frozen.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::lay_out(weight.into_primitive()))
    }

    fn lay_out_gradient(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::lay_out_gradient(weight.into_primitive()))
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        for_gradient: KernelGradient<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let input_size = [x.shape()[1], x.shape()[2]];
        let output = B::forward(x, weight.into_primitive(), bias.into_primitive(), placement);
        record::<B, C, _, _>([node], output, || {
            let KernelGradient::Given(for_gradient) = for_gradient else {
                unreachable!("`conv2d` gives this kernel for every input with autodiff");
            };
            Remembered::<B> { for_gradient: for_gradient.into_primitive(), placement, input_size }
        })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    for_gradient: FloatTensor<B>,
    placement: Placement,
    input_size: [usize; 2],
}

impl<B: ConvolutionKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(output_gradient, self.for_gradient, self.placement, self.input_size))]
    }
}
