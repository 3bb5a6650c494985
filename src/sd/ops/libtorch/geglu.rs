//! GEGLU's gate and its derivative.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::sd::ops::geglu::GegluKernel;

impl GegluKernel for LibTorch {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (a, b) = halves(&x.tensor);
        let mut gate = b.gelu("none");
        let _ = gate.f_mul_(&a).expect("both halves have one shape");
        TchTensor::new(gate)
    }

    fn gradient(x: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let output_gradient = &output_gradient.tensor;
        let (a, b) = halves(&x.tensor);
        // Written where they belong, side by side.
        let gradient = x.tensor.empty_like();
        let (a_gradient, b_gradient) = halves(&gradient);
        let _ = b.gelu("none").mul_out(&a_gradient, output_gradient);
        let _ = b.gelu_backward_grad_input(&b_gradient, &(output_gradient * a), "none");
        TchTensor::new(gradient)
    }
}

fn halves(x: &Tensor) -> (Tensor, Tensor) {
    let hidden = x.size().last().expect("GEGLU gets at least one dimension") / 2;
    (x.narrow(-1, 0, hidden), x.narrow(-1, hidden, hidden))
}
