//! Layer normalisation and its derivative. libtorch takes the statistics of 16-bit numbers in f32.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::sd::ops::layer_norm::LayerNormKernel;
use crate::sd::ops::libtorch::recompute;

impl LayerNormKernel for LibTorch {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        TchTensor::new(normalise(&x.tensor, &weight.tensor, Some(&bias.tensor), epsilon))
    }

    fn gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        output_gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        // The bias changes nothing in it.
        let normed = |x: &Tensor| normalise(x, &weight.tensor, None, epsilon);
        TchTensor::new(recompute::gradient(&x.tensor, &output_gradient.tensor, normed))
    }
}

fn normalise(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f64) -> Tensor {
    x.layer_norm(weight.size(), Some(weight), bias, epsilon, true)
}
