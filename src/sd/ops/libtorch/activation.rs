//! Elementwise non-linearities.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;

use crate::sd::ops::activation::ActivationKernel;
use crate::sd::ops::arguments::Activation;
use crate::sd::ops::libtorch::recompute;

/// The slope of OpenAI's approximation.
const QUICK: f64 = 1.702;

impl ActivationKernel for LibTorch {
    fn forward(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        TchTensor::new(apply(&x.tensor, activation))
    }

    fn gradient(x: FloatTensor<Self>, activation: Activation, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, output_gradient) = (&x.tensor, &output_gradient.tensor);
        TchTensor::new(match activation {
            Activation::Silu => x.silu_backward(output_gradient),
            Activation::Gelu => x.gelu_backward(output_gradient, "none"),
            Activation::QuickGelu => recompute::gradient(x, output_gradient, |x| apply(x, activation)),
        })
    }
}

pub(super) fn apply(x: &tch::Tensor, activation: Activation) -> tch::Tensor {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu("none"),
        Activation::QuickGelu => x * (x * QUICK).sigmoid(),
    }
}
