//! The stage kinds. Each file is one kind: its params, what it reads and writes, and the calls into the domain that do the work.

pub mod lora_use;

pub mod convert;
pub mod extract;
pub mod merge;

use crate::pipeline::stage::StageKind;

/// Every kind, in the order of a typical pipeline.
pub const KINDS: &[&dyn StageKind] = &[&merge::MergeKind, &extract::ExtractKind, &convert::ConvertKind];
