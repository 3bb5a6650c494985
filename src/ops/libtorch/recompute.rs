//! Derivatives by running a function again under libtorch's own automatic differentiation.

use tch::{Kind, Tensor};

/// The gradient of `x`, where `function(x)` has `output_gradient`. Both stay as they are.
pub(super) fn gradient(x: &Tensor, output_gradient: &Tensor, function: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let [gradient] = gradients([x], output_gradient, |[x]| function(x));
    gradient
}

/// The gradients of several inputs, as [`gradient`].
pub(super) fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    output_gradient: &Tensor,
    function: impl Fn(&[Tensor; N]) -> Tensor,
) -> [Tensor; N] {
    let leaves = inputs.map(|input| input.detach().set_requires_grad(true));
    let output = tch::with_grad(|| function(&leaves));
    // The sum in f32 at least: its value is not used, but in f16 it would overflow to infinity on the way.
    let product = (output * output_gradient).sum(sum_kind(output_gradient.kind()));
    Tensor::run_backward(&[product], &leaves, false, false).try_into().expect("as many gradients as inputs")
}

fn sum_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
