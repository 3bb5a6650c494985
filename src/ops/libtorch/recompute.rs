//! Derivatives by running a function again under libtorch's own automatic differentiation.

use tch::{Kind, Tensor};

/// The gradient of `x`, where `function(x)` has `output_gradient`. Both stay as they are.
pub(super) fn gradient(x: &Tensor, output_gradient: &Tensor, function: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let leaf = x.detach().set_requires_grad(true);
    let output = tch::with_grad(|| function(&leaf));
    // The sum in f32 at least: its value is not used, but in f16 it would overflow to infinity on the way.
    let product = (output * output_gradient).sum(sum_kind(output_gradient.kind()));
    let [gradient] = Tensor::run_backward(&[product], &[&leaf], false, false).try_into().expect("one input, one gradient");
    gradient
}

fn sum_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
