//! The stage kinds. Each file is one kind: its params, what it reads and writes, and the calls into the domain that do the work.

use crate::pipeline::stage::StageKind;

/// Every kind, in the order of a typical pipeline.
pub const KINDS: &[&dyn StageKind] = &[];
