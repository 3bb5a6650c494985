//! Layer normalisation over the last dimension (Ba et al. 2016), with a frozen weight and bias.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::dtype;
use crate::sd::ops::generic;

/// Brings each row to mean 0 and variance 1, then scales and shifts it. Statistics are taken in f32 or better.
///
/// - `x`: `[.., width]`
/// - `weight`, `bias`: `[width]`, without gradients
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: &Tensor<1>, bias: &Tensor<1>, epsilon: f64) -> Tensor<D> {
    dtype::same(&x, weight);
    let (weight, bias) = (weight.clone().into_dispatch(), bias.clone().into_dispatch());
    Tensor::from_dispatch(<Dispatch as LayerNormRoute>::layer_norm(x.into_dispatch(), weight, bias, epsilon))
}

/// Routes [`layer_norm`] to the backend of its tensors. The route through `Autodiff` also records the derivative by `x`.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait LayerNormRoute: Backend {
    fn layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait LayerNormKernel: Backend {
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

for_each_backend! {
impl LayerNormRoute {
    fn layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        <Self as LayerNormKernel>::forward(x, weight, bias, epsilon)
    }
}
}

impl<B: LayerNormKernel, C: CheckpointStrategy> LayerNormRoute for Autodiff<B, C> {
    fn layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        let output = B::forward(x.clone(), weight.clone(), bias.into_primitive(), epsilon);
        record::<B, C, _, _>([node], output, || Remembered::<B> { x, weight, epsilon })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
}

impl<B: LayerNormKernel> Derivative<B, 1> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::gradient(self.x, self.weight, self.epsilon, output_gradient))]
    }
}
