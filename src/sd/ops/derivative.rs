//! Records an operation with a hand-written derivative in autodiff's graph.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

/// What the backward pass of an operation with `N` differentiable inputs needs to remember.
pub(crate) trait Derivative<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// Gradients of the inputs, in their order. Only where `wanted` is true is one needed, and `None` is right elsewhere.
    fn gradients(self, output_gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

/// Ties `output` to the nodes of its inputs by `derivative`, which is only built when an input is tracked.
pub(crate) fn record<B, C, D, const N: usize>(
    nodes: [NodeGuard; N],
    output: FloatTensor<B>,
    derivative: impl FnOnce() -> D,
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    D: Derivative<B, N>,
{
    match Step::<D>(PhantomData).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(operation) => operation.finish(derivative(), output),
        OpsKind::UnTracked(operation) => operation.finish(output),
    }
}

/// Autodiff wants a stateless type for each operation; the derivative is its state.
#[derive(Debug)]
struct Step<D>(PhantomData<D>);

impl<B: Backend, D: Derivative<B, N>, const N: usize> Backward<B, N> for Step<D> {
    type State = D;

    fn backward(self, step: Ops<D, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = gradients.consume::<B>(&step.node);
        let wanted = step.parents.each_ref().map(Option::is_some);
        for (input, gradient) in step.parents.into_iter().zip(step.state.gradients(output_gradient, wanted)) {
            if let (Some(input), Some(gradient)) = (input, gradient) {
                gradients.register::<B>(input.id, gradient);
            }
        }
    }
}
