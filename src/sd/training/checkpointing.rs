//! Gradients of a UNet's adapters without its activations: only what goes into each segment is kept, and on the way back each segment runs
//! again to have its own (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Unaware of losses and optimisers.
//!
//! A driver around automatic differentiation, not an operation in it: a segment is differentiated by itself, from fresh leaves, along the
//! gradient of its output.

use anyhow::{Context as _, Result};
use burn::tensor::Tensor;

use crate::sd::lora::targets::Placed;
use crate::sd::models::segment::Segment;
use crate::sd::models::unet::Unet;

/// What a UNet is asked, without gradients; all of one type, in which the loss and the gradients are.
pub struct Question<'a> {
    /// As in [`Unet::forward`].
    pub latents: Tensor<4>,
    pub timesteps: &'a [f32],
    pub context: Tensor<3>,
    /// Whether its gradient is wanted.
    pub context_learns: bool,
}

/// What goes into a segment.
struct Kept {
    x: Tensor<4>,
    /// The number of the feature map that it takes.
    skip: Option<usize>,
    /// The number of the one that it leaves.
    left: Option<usize>,
}

/// What a pass without a graph leaves.
struct Forward {
    /// The output of the last segment.
    x: Tensor<4>,
    /// Of each segment, in order.
    kept: Vec<Kept>,
    /// The feature maps that are left for the way up.
    skips: Vec<Tensor<4>>,
}

/// The gradients of a loss.
pub struct Gradients {
    /// Of each factor; `None` if the UNet does not carry it.
    pub factors: Vec<Option<Tensor<2>>>,
    /// Of the context, if asked for.
    pub context: Option<Tensor<3>>,
}

/// The gradients of what `loss` makes of the UNet's prediction. `loss` gets it as a leaf and returns the gradient by it.
///
/// Leaves the factors of `placed` beside the UNet's layers.
pub fn gradients(
    unet: &mut Unet,
    placed: &Placed,
    question: Question,
    loss: impl FnOnce(Tensor<4>) -> Result<burn::tensor::Gradients>,
) -> Result<Gradients> {
    let Question { latents, timesteps, context, context_learns } = question;

    // 1. forward, without a graph, in the type that the UNet computes in
    let (dtype, inner) = (latents.dtype(), unet.dtype());
    let (latents, context) = (latents.cast(inner), context.cast(inner));
    placed.untracked().beside_unet(unet);
    let time = unet.time(timesteps, &latents.device());
    let Forward { x, mut kept, skips } = forward(unet, latents, &time, &context);

    // 2. the loss
    placed.beside_unet(unet);
    let end = leaf(x);
    let of_loss = loss(unet.leave(end.clone()).cast(dtype))?;
    let mut gradient = end.grad(&of_loss).context("the loss does not depend on what the UNet predicts")?;

    // 3. backward, each segment by itself
    let segments = unet.segments();
    // Below the first segment that learns, or lets the text encoder learn, no gradient is asked for.
    let learns = |segment: &Segment<'_>| segment.is_adapted() || (context_learns && segment.reads_context());
    let first = segments.iter().position(learns).unwrap_or(segments.len());
    let mut factors: Vec<Option<Tensor<2>>> = vec![None; placed.factors().len()];
    let mut of_context: Option<Tensor<3>> = None;
    let mut of_skips: Vec<Option<Tensor<4>>> = vec![None; skips.len()];
    for segment in segments[first..].iter().rev() {
        let Kept { x, skip, left } = kept.pop().expect("one for each segment");
        if let Some(more) = left.and_then(|left| of_skips[left].take()) {
            gradient = gradient + more;
        }
        let (x, skip_leaf) = (leaf(x), skip.map(|skip| leaf(skips[skip].clone())));
        let context = match context_learns {
            true => leaf(context.clone()),
            false => Tensor::from_inner(context.clone()),
        };
        let output = segment.forward(x.clone(), skip_leaf.clone(), &Tensor::from_inner(time.clone()), &context);
        let found = (output * Tensor::from_inner(gradient)).sum().backward();
        for (sum, factor) in factors.iter_mut().zip(placed.factors()) {
            if let Some(more) = factor.grad(&found) {
                *sum = Some(more);
            }
        }
        if let Some(more) = context.grad(&found).filter(|_| context_learns) {
            of_context = Some(of_context.map_or(more.clone(), |sum| sum + more));
        }
        if let (Some(skip), Some(leaf)) = (skip, skip_leaf) {
            of_skips[skip] = leaf.grad(&found);
        }
        gradient = x.grad(&found).context("a segment does not depend on its input")?;
    }
    Ok(Gradients { factors, context: of_context.map(|gradient| gradient.cast(dtype)) })
}

/// Runs every segment and keeps what goes into it. Shapes as in [`Unet::forward`], all in the type that the UNet computes in.
fn forward(unet: &Unet, latents: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>) -> Forward {
    let mut x = unet.enter(latents);
    let mut skips = vec![x.clone()];
    let mut stack = vec![0];
    let mut kept = Vec::new();
    for segment in unet.segments() {
        let skip = segment.takes_skip().then(|| stack.pop()).flatten();
        let input = x.clone();
        x = segment.forward(x, skip.map(|skip| skips[skip].clone()), time, context);
        let left = segment.leaves_skip().then_some(skips.len());
        if let Some(left) = left {
            stack.push(left);
            skips.push(x.clone());
        }
        kept.push(Kept { x: input, skip, left });
    }
    Forward { x, kept, skips }
}

fn leaf<const D: usize>(values: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(values).require_grad()
}
