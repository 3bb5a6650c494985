//! Convolution of pictures with a frozen kernel.

use std::sync::OnceLock;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::ops::derivative::{Derivative, record};
use crate::ops::flex;

/// A frozen kernel, laid out for the operation.
#[derive(Debug)]
pub struct Kernel {
    /// `[size · size · in_channels, out_channels]`, rows by y, then x, then channel.
    weight: Tensor<2>,
    /// `[out_channels]`.
    bias: Tensor<1>,
    placement: Placement,
    /// Turned by half a circle, with the channels swapped: the gradient of the input is a convolution with it. As large as
    /// `weight`, so only made when a gradient is asked for.
    flipped: OnceLock<Tensor<2>>,
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
        let [out_channels, in_channels, size, _] = weight.dims();
        let weight = weight.permute([2, 3, 1, 0]).reshape([size * size * in_channels, out_channels]);
        Self { weight, bias, placement, flipped: OnceLock::new() }
    }

    fn flipped(&self) -> &Tensor<2> {
        self.flipped.get_or_init(|| {
            let size = self.placement.size;
            let [rows, out_channels] = self.weight.dims();
            let in_channels = rows / (size * size);
            let taps = self.weight.clone().reshape([size, size, in_channels, out_channels]);
            taps.flip([0, 1]).permute([0, 1, 3, 2]).reshape([size * size * out_channels, in_channels])
        })
    }
}

/// Convolves `x` with `kernel`.
///
/// - `x`: `[batch, height, width, in_channels]`
/// - the result: `[batch, height / stride, width / stride, out_channels]`, as far as the padding keeps the size
pub fn conv2d(x: Tensor<4>, kernel: &Kernel) -> Tensor<4> {
    let flipped = match x.device().is_autodiff() {
        true => Flipped::Given(kernel.flipped().clone().into_dispatch()),
        false => Flipped::Absent,
    };
    let (weight, bias) = (kernel.weight.clone().into_dispatch(), kernel.bias.clone().into_dispatch());
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as ConvolutionRoute>::conv2d(x, weight, bias, flipped, kernel.placement))
}

/// The kernel for the gradient of the input, where one can be asked for.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum Flipped<B: Backend> {
    Given(FloatTensor<B>),
    Absent,
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait ConvolutionRoute: Backend {
    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] flipped: Flipped<Self>,
        placement: Placement,
    ) -> FloatTensor<Self>;
}

pub(crate) trait ConvolutionKernel: Backend {
    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self>;

    /// The gradient of the input, whose pictures are `input_size` high and wide.
    fn gradient(
        output_gradient: FloatTensor<Self>,
        flipped: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self>;
}

impl ConvolutionRoute for Flex {
    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        _: Flipped<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        Self::forward(x, weight, bias, placement)
    }
}

impl ConvolutionKernel for Flex {
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
        flipped: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self> {
        flex::conv2d::gradient(output_gradient, flipped, placement, input_size)
    }
}

impl<B: ConvolutionKernel, C: CheckpointStrategy> ConvolutionRoute for Autodiff<B, C> {
    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        flipped: Flipped<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let input_size = [x.shape()[1], x.shape()[2]];
        let output = B::forward(x, weight.into_primitive(), bias.into_primitive(), placement);
        record::<B, C, _, _>([node], output, || {
            let Flipped::Given(flipped) = flipped else {
                unreachable!("`conv2d` gives the flipped kernel for every input with autodiff");
            };
            Remembered::<B> { flipped: flipped.into_primitive(), placement, input_size }
        })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    flipped: FloatTensor<B>,
    placement: Placement,
    input_size: [usize; 2],
}

impl<B: ConvolutionKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(output_gradient, self.flipped, self.placement, self.input_size))]
    }
}
