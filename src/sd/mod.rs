//! Stable Diffusion: pictures, model files, prompts, networks, training and drawing. Knows nothing of pipelines; what it reads, it gets as a path or
//! as bytes.
//!
//! ```text
//! data        pictures                     checkpoint  model files                 prompt  CLIP's tokens
//! lora        adapters                     diffusion   schedules and samplers      random  PyTorch's generator
//! ops         operations on a device       models      the networks                stable_diffusion  all of one file
//! training    the loop                     drawing     pictures from a prompt      benchmark, self_test
//! ```

pub mod random;

pub mod data;

pub mod checkpoint;
pub mod prompt;

pub mod diffusion;
pub mod lora;

#[cfg(feature = "nn")]
pub mod device;
#[cfg(feature = "nn")]
pub mod models;
#[cfg(feature = "nn")]
pub mod ops;
#[cfg(feature = "nn")]
pub mod stable_diffusion;

pub mod training;

#[cfg(feature = "nn")]
pub mod drawing;

#[cfg(feature = "nn")]
pub mod benchmark;
#[cfg(feature = "nn")]
pub mod self_test;
