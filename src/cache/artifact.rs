//! An artifact: contents in the store, with what is needed to find and to name them. Unaware of what they mean.

use crate::cache::digest::Digest;

/// One file by its contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Artifact {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Without the dot: `png`. Part of the friendly name only.
    pub extension: String,
}
