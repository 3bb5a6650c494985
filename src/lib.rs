//! Teaches Stable Diffusion a new concept from one declarative file.
//!
//! ```text
//! pipeline.yaml ─spec::parse─► Tree       what the user wrote, with spans            pure
//!               ─load───────► Pipeline   kinds found, params typed, edges checked   pure
//!               ─plan───────► Plan       Fresh | Dirty(reason) | Unknown            reads cache
//!               ─execute────► RunRecord  states, events, records committed          runs stages
//!                    └ Stage ─► drafts ─► objects ─► record
//!                    └ events ─► console / JSON lines
//! ```
//!
//! Modules in reading order: the engine (`pipeline`, `cache`, `edits`) knows nothing of images or tensors; `stages` joins it to
//! the domain; the rest is the domain.

pub mod pipeline;

pub mod cache;

pub mod edits;

pub mod checkpoint;
pub mod data;

pub mod stages;

pub mod cli;

pub mod random;

pub mod diffusion;
pub mod prompt;

pub mod lora;

pub mod training;

pub mod libtorch;

#[cfg(feature = "nn")]
pub mod benchmark;
pub mod machine;

pub mod doctor;

#[cfg(feature = "nn")]
pub mod device;
#[cfg(feature = "nn")]
pub mod drawing;
#[cfg(feature = "nn")]
pub mod models;
#[cfg(feature = "nn")]
pub mod ops;
#[cfg(feature = "nn")]
pub mod self_test;
#[cfg(feature = "nn")]
pub mod stable_diffusion;
