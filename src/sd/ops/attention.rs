//! Scaled dot-product attention with several heads (Vaswani et al. 2017), without ever holding all scores.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::sd::ops::arguments::{AttentionInputs, Mask};
use crate::sd::ops::derivative::{Derivative, record};
use crate::sd::ops::dtype;
use crate::sd::ops::generic;

/// `softmax(q · kᵀ / √width) · v` for each head.
///
/// - `q`: `[batch, tokens, heads · width]`
/// - `k`, `v`: `[batch, context_tokens, heads · width]`
/// - the result: `[batch, tokens, heads · width]`
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, mask: Mask) -> Tensor<3> {
    dtype::same(&q, &k);
    dtype::same(&q, &v);
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(<Dispatch as AttentionRoute>::attention(q, k, v, heads, mask))
}

/// Routes [`attention`] to the backend of its tensors. The route through `Autodiff` also records the derivative.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Cube: cfg(cube), Autodiff)]
pub(crate) trait AttentionRoute: Backend {
    fn attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, heads: usize, mask: Mask)
    -> FloatTensor<Self>;
}

/// By default each is [`generic`]'s; a backend replaces those that it has better.
pub(crate) trait AttentionKernel: Backend {
    /// What the backward pass takes from the forward one beside the inputs.
    type Kept: Clone + Debug + Send + 'static;

    /// The output, and what is kept; `None` if the backward pass computes the scores again.
    fn forward(inputs: AttentionInputs<Self>) -> (FloatTensor<Self>, Option<Self::Kept>) {
        (generic::attention::forward(inputs), None)
    }

    /// Gradients of `q`, `k` and `v`.
    fn gradients(
        inputs: AttentionInputs<Self>,
        _kept: Option<Self::Kept>,
        output_gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        generic::attention::gradients(inputs, output_gradient)
    }
}

for_each_backend! {
impl AttentionRoute {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        mask: Mask,
    ) -> FloatTensor<Self> {
        <Self as AttentionKernel>::forward(AttentionInputs { q, k, v, heads, mask }).0
    }
}
}

impl<B: AttentionKernel, C: CheckpointStrategy> AttentionRoute for Autodiff<B, C> {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        mask: Mask,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let inputs = AttentionInputs::<B> { q, k, v, heads, mask };
        let (output, kept) = B::forward(inputs.clone());
        record::<B, C, _, _>([q_node, k_node, v_node], output, || Remembered::<B> { inputs, kept })
    }
}

#[derive(Clone, Debug)]
struct Remembered<B: AttentionKernel> {
    inputs: AttentionInputs<B>,
    kept: Option<B::Kept>,
}

impl<B: AttentionKernel> Derivative<B, 3> for Remembered<B> {
    fn gradients(self, output_gradient: FloatTensor<B>, _: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        B::gradients(self.inputs, self.kept, output_gradient).map(Some)
    }
}
