//! The operations on CubeCL's backend, which is one whatever runtime a device has: CUDA, ROCm and Vulkan alike. All of them are the generic
//! ones; a kernel of our own would take the place of one here. Knows no runtime.

use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::activation::ActivationKernel;
use crate::sd::ops::arguments::{Activation, AttentionInputs, Bias, Factors, Groups, Placement, RememberedAdapted, Then};
use crate::sd::ops::attention::AttentionKernel;
use crate::sd::ops::conv2d::ConvolutionKernel;
use crate::sd::ops::geglu::GegluKernel;
use crate::sd::ops::generic;
use crate::sd::ops::generic::group_norm::Layer;
use crate::sd::ops::group_norm::{GroupNormKernel, Remembered};
use crate::sd::ops::layer_norm::LayerNormKernel;
use crate::sd::ops::linear::LinearKernel;
use crate::sd::ops::upsample::UpsampleKernel;

impl ActivationKernel for Cube {
    fn forward(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        generic::activation::forward::<Self>(x, activation)
    }

    fn gradient(x: FloatTensor<Self>, activation: Activation, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::activation::gradient::<Self>(x, activation, output_gradient)
    }
}

impl AttentionKernel for Cube {
    /// The scores are taken again, block by block.
    type Kept = ();

    fn forward(inputs: AttentionInputs<Self>) -> (FloatTensor<Self>, ()) {
        (generic::attention::forward(inputs), ())
    }

    fn gradients(inputs: AttentionInputs<Self>, (): (), output_gradient: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        generic::attention::gradients(inputs, output_gradient)
    }
}

impl ConvolutionKernel for Cube {
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

    fn gradient(
        output_gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self> {
        generic::conv2d::gradient::<Self>(output_gradient, weight, placement, input_size)
    }
}

impl GegluKernel for Cube {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::geglu::forward::<Self>(x)
    }

    fn gradient(x: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::geglu::gradient::<Self>(x, output_gradient)
    }
}

impl GroupNormKernel for Cube {
    /// They are taken again.
    type Statistics = ();

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: Groups,
        then: Then,
    ) -> (FloatTensor<Self>, ()) {
        (Layer::<Self> { weight, bias, groups, then }.forward(x), ())
    }

    fn gradient(inputs: Remembered<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let Remembered { x, weight, bias, statistics: (), groups, then } = inputs;
        Layer::<Self> { weight, bias, groups, then }.gradient(x, output_gradient)
    }
}

impl LayerNormKernel for Cube {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        generic::layer_norm::forward::<Self>(x, weight, bias, epsilon)
    }

    fn gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        output_gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::layer_norm::gradient::<Self>(x, weight, epsilon, output_gradient)
    }
}

impl LinearKernel for Cube {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        generic::linear::forward(x, weight, bias)
    }

    fn gradient(weight: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::linear::gradient::<Self>(weight, output_gradient)
    }

    fn adapted_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear::adapted_forward(x, weight, bias, factors)
    }

    fn adapted_gradients(
        inputs: RememberedAdapted<Self>,
        output_gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        generic::linear::adapted_gradients(inputs, output_gradient, wanted)
    }
}

impl UpsampleKernel for Cube {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::upsample::forward::<Self>(x)
    }

    fn gradient(output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::upsample::gradient::<Self>(output_gradient)
    }
}
