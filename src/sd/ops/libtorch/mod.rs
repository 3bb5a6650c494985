//! The operations on libtorch, with its own fused functions: on the CPU, and on CUDA and ROCm devices alike.
//!
//! Where libtorch offers the derivative of a function only through its own automatic differentiation, the function runs under it
//! (`recorded`), on the way back where keeping its inputs is enough (`recompute`). Knows nothing of Burn's graph.

pub(super) mod activation;
pub(super) mod attention;
mod chunked_attention;
pub(super) mod conv2d;
pub(super) mod geglu;
pub(super) mod group_norm;
pub(super) mod layer_norm;
pub(super) mod linear;
mod memory;
mod patches;
mod recompute;
mod recorded;
pub(super) mod upsample;
