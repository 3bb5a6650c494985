//! The stage kinds. Each file is one kind: its params, what it reads and writes, and the calls into the domain that do the work.

pub mod crop;
pub mod resize;

pub mod caption;
pub mod flip;

pub mod lora_use;

pub mod convert;
pub mod extract;
pub mod merge;

use crate::pipeline::stage::StageKind;

/// Every kind, in the order of a typical pipeline.
pub const KINDS: &[&dyn StageKind] = &[
    // Photos.
    &crop::CropKind,
    &resize::ResizeKind,
    &caption::CaptionKind,
    &flip::FlipKind,
    // Models.
    &merge::MergeKind,
    &extract::ExtractKind,
    &convert::ConvertKind,
];
