//! What the operations and their kernels are told: which activation, where a convolution's kernel lies, what is beside a linear layer. Knows no
//! operation and no backend.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType};
use burn::tensor::Tensor;

/// A non-linearity applied to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, with the exact error function.
    Gelu,
    /// `x · sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
}

/// Which keys a query may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Open,
    /// Those at its own place and before.
    Causal,
}

impl Mask {
    /// Whether a query must not look at the keys after its own place.
    pub(crate) fn is_causal(self) -> bool {
        match self {
            Self::Open => false,
            Self::Causal => true,
        }
    }
}

/// What attention is computed from.
///
/// - `q`: `[batch, tokens, heads · width]`
/// - `k`, `v`: `[batch, context_tokens, heads · width]`
#[derive(Clone, Debug)]
pub(crate) struct AttentionInputs<B: Backend> {
    pub(crate) q: FloatTensor<B>,
    pub(crate) k: FloatTensor<B>,
    pub(crate) v: FloatTensor<B>,
    pub(crate) heads: usize,
    pub(crate) mask: Mask,
}

/// Where a kernel is put on a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Height and width of the kernel.
    pub size: usize,
    pub stride: usize,
    /// Zeros before the first row and column.
    pub before: usize,
    /// Zeros after the last row and column.
    pub after: usize,
}

impl Placement {
    /// Of a kernel of 3×3 under which pictures keep their size.
    pub const SAME_SIZE: Self = Self { size: 3, stride: 1, before: 1, after: 1 };
}

/// What a group norm is followed by, computed in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Silu,
}

/// How channels are grouped, and what keeps a variance of zero harmless.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    pub count: usize,
    pub epsilon: f64,
}

/// A bias, where the layer has one.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum Bias<B: Backend> {
    Given(FloatTensor<B>),
    Absent,
}

impl From<Option<&Tensor<1>>> for Bias<Dispatch> {
    fn from(bias: Option<&Tensor<1>>) -> Self {
        bias.map_or(Self::Absent, |bias| Self::Given(bias.clone().into_dispatch()))
    }
}

impl<B: Backend, C: CheckpointStrategy> Bias<Autodiff<B, C>> {
    /// The same bias for the backend inside of autodiff. It is frozen, so no gradient is lost.
    pub(crate) fn without_autodiff(self) -> Bias<B> {
        match self {
            Self::Given(bias) => Bias::Given(bias.into_primitive()),
            Self::Absent => Bias::Absent,
        }
    }
}

/// The factors of an adapter and what their product is multiplied by.
#[derive(Clone, Debug)]
pub(crate) struct Factors<B: Backend> {
    pub(crate) down: FloatTensor<B>,
    pub(crate) up: FloatTensor<B>,
    pub(crate) scale: f64,
}

/// What the derivative of a linear layer with an adapter is computed from.
#[derive(Clone, Debug)]
pub(crate) struct RememberedAdapted<B: Backend> {
    pub(crate) x: FloatTensor<B>,
    pub(crate) weight: FloatTensor<B>,
    /// `x · downᵀ`: `[rows, rank]`.
    pub(crate) narrow: FloatTensor<B>,
    pub(crate) factors: Factors<B>,
}
