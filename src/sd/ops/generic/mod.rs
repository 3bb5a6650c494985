//! Each operation and its derivative out of Burn's own, for any backend that has no better: products of matrices, sums, and arithmetic on elements.
//!
//! What a sum or an exponential goes through is f32 also where tensors have 16 bits. Knows no backend and nothing of Burn's graph.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod conv2d;
pub(super) mod geglu;
pub(super) mod group_norm;
pub(super) mod layer_norm;
pub(super) mod linear;
mod normed;
pub(super) mod upsample;
mod values;

#[cfg(test)]
mod tests;
