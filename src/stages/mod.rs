//! The stage kinds: each is its params, what it reads and writes, and the calls into the domain that do the work.
//!
//! ```text
//! crop, resize    photos to pictures of one shape and size
//! caption, flip   a text for each picture; mirrors
//! train/          pictures with texts to a LoRA; the kind `latents`, which encodes them
//! sample/         pictures drawn with a LoRA, and a sheet of them
//! merge           a LoRA added to a model
//! extract         a LoRA out of the difference of two models
//! convert         a model or LoRA in another container, type or naming
//! shared/         what several kinds use, and no kind
//! ```

pub mod caption;
pub mod crop;
pub mod flip;
pub mod resize;

#[cfg(feature = "nn")]
pub mod sample;
#[cfg(feature = "nn")]
pub mod train;

pub mod convert;
pub mod extract;
pub mod merge;

pub mod shared;

#[cfg(test)]
mod tests;

use crate::engine::kind::stage_kind::StageKind;

/// Every kind, in the order of a typical pipeline.
pub const KINDS: &[&StageKind] = &[
    // Photos.
    &crop::KIND,
    &resize::KIND,
    &caption::KIND,
    &flip::KIND,
    // Networks.
    #[cfg(feature = "nn")]
    &train::latents::KIND,
    #[cfg(feature = "nn")]
    &train::KIND,
    #[cfg(feature = "nn")]
    &sample::KIND,
    // Models.
    &merge::KIND,
    &extract::KIND,
    &convert::KIND,
];

const _: () = assert!(StageKind::are_complete(KINDS), "a kind lacks its name, its version or what it writes");
