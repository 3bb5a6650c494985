//! The stage kinds. Each file is one kind: its params, what it reads and writes, and the calls into the domain that do the work.

pub mod crop;
pub mod crop_boxes;
pub mod photo_use;
pub mod resize;

pub mod caption;
pub mod flip;

pub mod headers;
#[cfg(feature = "nn")]
pub mod linked;
pub mod lora_use;
#[cfg(feature = "nn")]
pub mod networks;
#[cfg(feature = "nn")]
pub mod picture_settings;
#[cfg(feature = "nn")]
pub mod prompt_use;
#[cfg(feature = "nn")]
pub mod sample_sheet;

#[cfg(feature = "nn")]
pub mod latents;
#[cfg(feature = "nn")]
pub mod train;
#[cfg(feature = "nn")]
pub mod train_checkpoints;
#[cfg(feature = "nn")]
pub mod train_memory;
#[cfg(feature = "nn")]
pub mod train_metadata;

pub mod convert;
pub mod extract;
pub mod merge;
#[cfg(feature = "nn")]
pub mod sample;

use crate::engine::kind::stage::StageKind;

/// Every kind, in the order of a typical pipeline.
pub const KINDS: &[&dyn StageKind] = &[
    // Photos.
    &crop::CropKind,
    &resize::ResizeKind,
    &caption::CaptionKind,
    &flip::FlipKind,
    // Networks.
    #[cfg(feature = "nn")]
    &latents::LatentsKind,
    #[cfg(feature = "nn")]
    &train::TrainKind,
    #[cfg(feature = "nn")]
    &sample::SampleKind,
    // Models.
    &merge::MergeKind,
    &extract::ExtractKind,
    &convert::ConvertKind,
];

#[cfg(test)]
mod disturbed;
