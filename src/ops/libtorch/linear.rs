//! Linear layers, plain and with an adapter, and the gradients of input and factors.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::ops::linear::{Bias, Factors, LinearKernel, LinearRoute, RememberedAdapted};

impl LinearRoute for LibTorch {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        Self::forward(x, weight, bias)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        down: FloatTensor<Self>,
        up: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        Self::adapted_forward(x, weight, bias, Factors { down, up, scale }).0
    }
}

impl LinearKernel for LibTorch {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        TchTensor::new(linear(&x.tensor, &weight.tensor, &bias))
    }

    fn gradient(weight: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        TchTensor::new(output_gradient.tensor.matmul(&weight.tensor))
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
            let mut gradient = upstream.mm(&weight.tensor);
            let _ = gradient.addmm_(&narrow_gradient, &down.tensor);
            gradient.reshape(x.tensor.size())
        });
        let down_gradient = want_down.then(|| narrow_gradient.tr().mm(&rows(&x.tensor)));
        let up_gradient = want_up.then(|| upstream.tr().mm(&narrow.tensor) * scale);
        [x_gradient, down_gradient, up_gradient].map(|gradient| gradient.map(TchTensor::new))
    }
}

fn linear(x: &Tensor, weight: &Tensor, bias: &Bias<LibTorch>) -> Tensor {
    let bias = match bias {
        Bias::Given(bias) => Some(&bias.tensor),
        Bias::Absent => None,
    };
    x.linear(weight, bias)
}

/// As a matrix, whatever the leading dimensions.
fn rows(x: &Tensor) -> Tensor {
    x.reshape([-1, *x.size().last().expect("a linear layer gets at least one dimension")])
}
