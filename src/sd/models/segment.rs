//! The UNet as a row of pieces, each with one picture in and one out, beside the feature maps that the way down leaves for the way up.
//!
//! Run one after the other they are the UNet; run each by itself they let a training forget what is inside.

use burn::tensor::Tensor;

use crate::sd::models::layers::AdaptedLinear;
use crate::sd::models::resnet::{Downsample, ResnetBlock, Upsample};
use crate::sd::models::transformer::Transformer;

/// What a piece needs of memory for one picture, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What goes in; none for a piece whose input another one keeps as well.
    pub input: usize,
    /// For its gradient, from the forward pass on, with what goes in.
    pub kept: usize,
    /// For a moment on the way back.
    pub passing: usize,
    /// Height and width of what comes out.
    pub output: [usize; 2],
}

/// One piece of a UNet.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    part: Part<'a>,
    takes_skip: bool,
    leaves_skip: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Resnet(&'a ResnetBlock),
    Transformer(&'a Transformer),
    Down(&'a Downsample),
    Up(&'a Upsample),
}

impl<'a> Segment<'a> {
    pub(super) fn plain(part: Part<'a>) -> Self {
        Self { part, takes_skip: false, leaves_skip: false }
    }

    /// Its output goes to the way up as well.
    pub(super) fn leaving(self) -> Self {
        Self { leaves_skip: true, ..self }
    }

    /// It begins with a feature map that the way down left.
    pub(super) fn taking(self) -> Self {
        Self { takes_skip: true, ..self }
    }

    /// Whether it takes the feature map that was left last.
    pub fn takes_skip(&self) -> bool {
        self.takes_skip
    }

    /// Whether its output is left for a later piece.
    pub fn leaves_skip(&self) -> bool {
        self.leaves_skip
    }

    /// What a training needs of it, in elements.
    ///
    /// - `size`: height and width of what goes in
    /// - `tokens`: of the context
    /// - `adapted`: as in [`Transformer::saved_activations`]
    pub fn needs(&self, size: [usize; 2], tokens: usize, adapted: &dyn Fn(&AdaptedLinear) -> Option<usize>) -> Needs {
        let pixels = size[0] * size[1];
        match self.part {
            Part::Resnet(resnet) => {
                let kept = pixels * resnet.saved_activations();
                Needs { input: pixels * resnet.inputs(), kept, passing: 2 * kept, output: size }
            }
            Part::Transformer(transformer) => {
                let [pixel, token] = transformer.saved_activations(adapted);
                let passing = pixels * transformer.temporary_activations();
                Needs { input: pixels * transformer.channels(), kept: pixels * pixel + tokens * token, passing, output: size }
            }
            // A convolution with a frozen kernel needs nothing of its input.
            Part::Down(_) => Needs { input: 0, kept: 0, passing: 0, output: size.map(|side| side.div_ceil(2)) },
            Part::Up(_) => Needs { input: 0, kept: 0, passing: 0, output: size.map(|side| 2 * side) },
        }
    }

    /// Whether a layer in it carries an adapter.
    pub fn is_adapted(&self) -> bool {
        matches!(self.part, Part::Transformer(transformer) if transformer.is_adapted())
    }

    /// Whether it attends to the context.
    pub fn reads_context(&self) -> bool {
        matches!(self.part, Part::Transformer(_))
    }

    /// - `x`: `[batch, height, width, channels]`
    /// - `skip`: of the same height and width; if and only if [`Self::takes_skip`]
    /// - `time`, `context`: as for the whole UNet
    pub fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, time: &Tensor<2>, context: &Tensor<3>) -> Tensor<4> {
        let x = match skip {
            Some(skip) => Tensor::cat(vec![x, skip], 3),
            None => x,
        };
        match self.part {
            Part::Resnet(resnet) => resnet.forward(x, Some(time)),
            Part::Transformer(transformer) => transformer.forward(x, context),
            Part::Down(downsample) => downsample.forward(x),
            Part::Up(upsample) => upsample.forward(x),
        }
    }
}

/// All pieces, one after the other.
///
/// # Panics
/// If one takes more feature maps than were left in `skips`.
pub(super) fn pass<'a>(
    segments: impl IntoIterator<Item = Segment<'a>>,
    mut x: Tensor<4>,
    time: &Tensor<2>,
    context: &Tensor<3>,
    skips: &mut Vec<Tensor<4>>,
) -> Tensor<4> {
    for segment in segments {
        let skip =
            segment.takes_skip.then(|| skips.pop().expect("the way down leaves one for each residual block of the way up"));
        x = segment.forward(x, skip, time, context);
        if segment.leaves_skip {
            skips.push(x.clone());
        }
    }
    x
}
