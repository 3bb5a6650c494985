//! The early end of a run: nothing changed since one that found nothing to do, which is known without listing a photo. Only
//! spares time; a run without it does the same.

use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::targets::Target;
use crate::cli::terminal::console::Console;
use crate::engine::cache::Cache;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::run::control::StopRequests;
use crate::engine::run::noop::{self, InputSnapshot, Noop};
use crate::engine::run::run_record::RunRecord;

/// What is known before photos are listed.
pub enum EarlyEnd {
    /// The run is over. The pipeline does not know its photos.
    NothingToDo(Box<Pipeline>, RunRecord),
    /// The run must look at everything. With a snapshot of what it reads, where a later run may end early after it.
    No(Option<InputSnapshot>),
}

impl EarlyEnd {
    /// The snapshot to record if the run finds nothing to do; `None` if none was taken.
    pub fn snapshot(self) -> Option<InputSnapshot> {
        match self {
            Self::NothingToDo(..) => None,
            Self::No(snapshot) => snapshot,
        }
    }
}

/// Compares with the snapshot that the run before left.
///
/// # Errors
/// If the cache cannot be read. Whatever is wrong with the pipeline is found again, and said, where everything is looked at.
pub fn look(target: &Target<'_>, console: &Console, requests: &StopRequests, global: &Global) -> anyhow::Result<EarlyEnd> {
    let Some((pipeline, selection, cache)) = glance(target, global) else { return Ok(EarlyEnd::No(None)) };
    match noop::repeat_noop(&pipeline, &cache, &selection, console, requests)? {
        Noop::Unchanged(record) => Ok(EarlyEnd::NothingToDo(Box::new(pipeline), record)),
        Noop::Changed => Ok(EarlyEnd::No(None)),
        Noop::Unknown => Ok(EarlyEnd::No(InputSnapshot::take(&pipeline, &cache, &selection)?)),
    }
}

fn glance(target: &Target<'_>, global: &Global) -> Option<(Pipeline, Selection, Cache)> {
    let (pipeline, selection) = target.glance()?;
    let cache = open_cache(&pipeline, global).ok()?;
    Some((pipeline, selection, cache))
}
