//! Linear layers with frozen weights, plain or with a low-rank adapter beside them (LoRA, Hu et al. 2021).

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::arguments::{Bias, Factors, RememberedAdapted};
use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::dtype;
use crate::sd::ops::generic;

/// `x · weightᵀ + bias`.
///
/// - `x`: `[.., inputs]`
/// - `weight`: `[outputs, inputs]`, `bias`: `[outputs]`, both without gradients
pub fn linear<const D: usize>(x: Tensor<D>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<D> {
    dtype::same(&x, weight);
    let (weight, bias) = (weight.clone().into_dispatch(), Bias::from(bias));
    Tensor::from_dispatch(<Dispatch as LinearRoute>::linear(x.into_dispatch(), weight, bias))
}

/// `x · weightᵀ + bias + scale · (x · downᵀ) · upᵀ`, with gradients for `x`, `down` and `up`.
///
/// - `x`: `[.., inputs]`
/// - `weight`: `[outputs, inputs]`, `bias`: `[outputs]`, both without gradients
/// - `down`: `[rank, inputs]`, `up`: `[outputs, rank]`
pub fn adapted_linear<const D: usize>(
    x: Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    down: &Tensor<2>,
    up: &Tensor<2>,
    scale: f64,
) -> Tensor<D> {
    dtype::same(&x, weight);
    dtype::same(&x, down);
    dtype::same(&x, up);
    let (weight, bias) = (weight.clone().into_dispatch(), Bias::from(bias));
    let (down, up) = (down.clone().into_dispatch(), up.clone().into_dispatch());
    Tensor::from_dispatch(<Dispatch as LinearRoute>::adapted_linear(x.into_dispatch(), weight, bias, down, up, scale))
}

/// Routes [`linear`] and [`adapted_linear`] to the backend of their tensors. The route through `Autodiff` also records the derivatives.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait LinearRoute: Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, #[extension_type] bias: Bias<Self>) -> FloatTensor<Self>;

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        down: FloatTensor<Self>,
        up: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait LinearKernel: Backend {
    fn forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        generic::linear::forward(x, weight, bias)
    }

    /// The gradient of `x`.
    fn gradient(weight: FloatTensor<Self>, output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::linear::gradient::<Self>(weight, output_gradient)
    }

    /// The output and `x · downᵀ`.
    fn adapted_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear::adapted_forward(x, weight, bias, factors)
    }

    /// Gradients of `x` (if wanted), `down` and `up`.
    fn adapted_gradients(
        inputs: RememberedAdapted<Self>,
        output_gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        generic::linear::adapted_gradients(inputs, output_gradient, wanted)
    }
}

for_each_backend! {
impl LinearRoute {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        <Self as LinearKernel>::forward(x, weight, bias)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        down: FloatTensor<Self>,
        up: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        <Self as LinearKernel>::adapted_forward(x, weight, bias, Factors { down, up, scale }).0
    }
}
}

impl<B: LinearKernel, C: CheckpointStrategy> LinearRoute for Autodiff<B, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Bias<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        let output = B::forward(x, weight.clone(), bias.without_autodiff());
        record::<B, C, _, _>([node], output, || Remembered::<B> { weight })
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        down: FloatTensor<Self>,
        up: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (down, down_node), (up, up_node)) = (x.into_parts(), down.into_parts(), up.into_parts());
        let weight = weight.into_primitive();
        let factors = Factors::<B> { down, up, scale };
        let (output, narrow) = B::adapted_forward(x.clone(), weight.clone(), bias.without_autodiff(), factors.clone());
        record::<B, C, _, _>([x_node, down_node, up_node], output, || RememberedAdapted::<B> { x, weight, narrow, factors })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    weight: FloatTensor<B>,
}

impl<B: LinearKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(self.weight, output_gradient))]
    }
}

impl<B: LinearKernel> Derivative<B, 3> for RememberedAdapted<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, wanted: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        B::adapted_gradients(self, output_gradient, wanted)
    }
}
