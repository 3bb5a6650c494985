//! A function of libtorch's, run under its own automatic differentiation, and with it what its derivative wants to know again.

use tch::{Kind, Tensor};

/// Inputs and output of a function with `N` inputs, and the way between them.
#[derive(Debug)]
pub(crate) struct Recorded<const N: usize> {
    inputs: [Tensor; N],
    output: Tensor,
}

impl<const N: usize> Recorded<N> {
    /// Runs `function`. The inputs stay as they are.
    pub(super) fn new(inputs: [&Tensor; N], function: impl FnOnce(&[Tensor; N]) -> Tensor) -> Self {
        let inputs = inputs.map(|input| input.detach().set_requires_grad(true));
        let output = tch::with_grad(|| function(&inputs));
        Self { inputs, output }
    }

    /// The output, where it lies: whoever changes it in place makes the gradients wrong.
    pub(super) fn output(&self) -> Tensor {
        self.output.detach()
    }

    /// The gradients of the inputs, where the output has `output_gradient`.
    pub(super) fn gradients(self, output_gradient: &Tensor) -> [Tensor; N] {
        // The sum in f32 at least: its value is not used, but in f16 it would overflow to infinity on the way.
        let product = (self.output * output_gradient).sum(sum_kind(output_gradient.kind()));
        Tensor::run_backward(&[product], &self.inputs, false, false).try_into().expect("as many gradients as inputs")
    }
}

impl<const N: usize> Clone for Recorded<N> {
    /// Of the handles: the numbers are not copied.
    fn clone(&self) -> Self {
        Self { inputs: self.inputs.each_ref().map(Tensor::shallow_clone), output: self.output.shallow_clone() }
    }
}

fn sum_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
