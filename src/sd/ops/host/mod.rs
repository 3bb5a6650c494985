//! Arithmetic on slices of f32 in main memory, for every backend that computes there. Knows nothing of tensors.
//!
//! Work is split by shape alone and partial sums are added in a fixed order, so that a result does not depend on the number of threads.

pub(super) mod attention;
pub(super) mod attention_gradient;
pub(super) mod parallel;
mod power;
mod product;
pub(super) mod winograd;
mod winograd_points;
