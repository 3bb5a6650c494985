//! Linear layers, plain and with an adapter, and the gradients of input and factors.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::{Device, Kind, Tensor};

use crate::sd::ops::arguments::{Bias, Factors, RememberedAdapted};
use crate::sd::ops::linear::LinearKernel;

impl LinearKernel for LibTorch {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        TchTensor::new(linear(&x.tensor, &weight.tensor, &bias))
    }

    fn gradient(weight: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        TchTensor::new(times_weight(&output_gradient.tensor, &weight.tensor))
    }

    fn adapted_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let output = linear(&x.tensor, &weight.tensor, &bias);
        let narrow = rows(&x.tensor).mm(&factors.down.tensor.tr());
        let _ = rows(&output).addmm_(&narrow, &(&factors.up.tensor * factors.scale).tr());
        (TchTensor::new(output), TchTensor::new(narrow))
    }

    fn adapted_gradients(
        inputs: RememberedAdapted<Self>,
        output_gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        let RememberedAdapted { x, weight, narrow, factors } = inputs;
        let Factors { down, up, scale } = factors;
        let upstream = rows(&output_gradient.tensor);
        // The gradient of `narrow`: [rows, rank].
        let narrow_gradient = upstream.mm(&(&up.tensor * scale));

        let [want_x, want_down, want_up] = wanted;
        let x_gradient = want_x.then(|| {
            let gradient = times_weight(&output_gradient.tensor, &weight.tensor);
            let _ = rows(&gradient).addmm_(&narrow_gradient, &down.tensor);
            gradient
        });
        let down_gradient = want_down.then(|| narrow_gradient.tr().mm(&rows(&x.tensor)));
        let up_gradient = want_up.then(|| upstream.tr().mm(&narrow.tensor) * scale);
        [x_gradient, down_gradient, up_gradient].map(|gradient| gradient.map(TchTensor::new))
    }
}

/// Rows from which a convolution is faster: below, it spends longer on putting the weight in order than it saves.
const ROWS_FOR_CONVOLUTION: i64 = 512;

/// `x · weightᵀ + bias`.
fn linear(x: &Tensor, weight: &Tensor, bias: &Bias<LibTorch>) -> Tensor {
    let bias = match bias {
        Bias::Given(bias) => Some(&bias.tensor),
        Bias::Absent => None,
    };
    if !suits_convolution(x) {
        return x.linear(weight, bias);
    }
    let output = pixels(x).conv2d(&kernel(weight), bias, [1, 1], [0, 0], [1, 1], 1);
    from_pixels(&output, x, weight.size()[0])
}

/// `x · weight`, the gradient of [`linear`]'s input.
fn times_weight(x: &Tensor, weight: &Tensor) -> Tensor {
    if !suits_convolution(x) {
        return x.matmul(weight);
    }
    let output = pixels(x).conv_transpose2d(&kernel(weight), None::<&Tensor>, [1, 1], [0, 0], [0, 0], 1, [1, 1]);
    from_pixels(&output, x, weight.size()[1])
}

/// Whether a convolution of single pixels is the faster product: on CPUs it is oneDNN's, which uses all of their vector units, where the
/// product is MKL's, which does so on Intel's alone.
fn suits_convolution(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float && rows(x).size()[0] >= ROWS_FOR_CONVOLUTION
}

/// Rows as the pixels of a picture, where they lie: `[1, width, rows, 1]`.
fn pixels(x: &Tensor) -> Tensor {
    let rows = rows(x);
    let size = rows.size();
    rows.reshape([1, size[0], 1, size[1]]).permute([0, 3, 1, 2])
}

fn from_pixels(output: &Tensor, x: &Tensor, width: i64) -> Tensor {
    let mut shape = x.size();
    *shape.last_mut().expect("a linear layer gets at least one dimension") = width;
    output.permute([0, 2, 3, 1]).reshape(shape)
}

/// `[outputs, inputs, 1, 1]`.
fn kernel(weight: &Tensor) -> Tensor {
    let size = weight.size();
    weight.reshape([size[0], size[1], 1, 1])
}

/// As a matrix, whatever the leading dimensions.
fn rows(x: &Tensor) -> Tensor {
    x.reshape([-1, *x.size().last().expect("a linear layer gets at least one dimension")])
}
