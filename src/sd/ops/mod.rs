//! Operations of the networks that Burn breaks into many small ones, each with its derivative by hand.
//!
//! One operation is one file: the function on tensors that `models` call, its route to the backend and to autodiff, and the derivative;
//! `arguments` is what they are told beside tensors. `flex` holds the arithmetic for the embedded CPU backend, `libtorch` what libtorch does,
//! `host` what both have in main memory, `generic` each operation out of Burn's own, which a kernel is by default and `cube` is throughout.
//! Another backend adds its name in each `backend_extension`.
//! Weights are frozen everywhere: no operation computes the gradient of a weight, only those of its input and of the factors of an adapter. Knows
//! nothing of networks and of files.
//!
//! Inside the networks pictures are `[batch, height, width, channels]`: a 1×1 convolution is then the same matrix product as
//! a linear layer, and nothing is transposed between a convolution and a transformer.

#![cfg_attr(feature = "libtorch", allow(deprecated, reason = "burn-tch is the way to AMD cards; see ARCHITECTURE.md"))]

/// The same route for every backend: where no gradients are recorded, an operation is its kernel's forward pass.
macro_rules! for_each_backend {
    (impl $route:ident { $($methods:tt)* }) => {
        impl $route for burn::backend::Flex { $($methods)* }

        #[cfg(feature = "libtorch")]
        impl $route for burn::backend::LibTorch { $($methods)* }

        #[cfg(cube)]
        impl $route for burn::backend::Cube { $($methods)* }
    };
}

#[cfg(cube)]
mod cube;
mod derivative;
mod dtype;
mod flex;
mod generic;
mod host;
#[cfg(feature = "libtorch")]
mod libtorch;

pub mod activation;
pub mod arguments;
pub mod attention;
pub mod conv2d;
pub mod geglu;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod upsample;
