//! What a decision is made from. Plain data; unaware of what is decided.

use std::collections::HashSet;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::decide::files::ArtifactFiles;
use crate::graph::pipeline::Pipeline;
use crate::graph::stage_id::StageId;
use crate::lock_file::LockFile;

/// The pipeline, the cache and the lock as one command sees them.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub files: &'a ArtifactFiles<'a>,
    /// As it was when the run began.
    pub lock: &'a LockFile,
    /// Stages requested on the command line, and not only needed by others.
    pub requested: &'a [StageId],
    /// Digests that stand for contents that are not known yet.
    pub unknown: &'a HashSet<Digest>,
}
