//! Waits for other processes: one that runs the same pipeline, or one that computes the same key. Unaware of what is run.

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::locks::{KeyLock, PipelineLock};
use crate::graph::pipeline::Pipeline;
use crate::graph::stage_id::StageId;
use crate::run::control::StopRequests;
use crate::run::events::{Event, Observer};
use crate::run::run_context::RunContext;

/// Waits until no other process runs the pipeline; `None` if the user does not want to wait.
pub(crate) fn wait_for_pipeline(
    pipeline: &Pipeline,
    cache: &Cache,
    observer: &dyn Observer,
    requests: &StopRequests,
) -> Result<Option<PipelineLock>> {
    let mut told = false;
    let lock = cache.lock_pipeline(&pipeline.folder, &mut |holder| {
        if let (false, Some(holder)) = (told, holder) {
            let message = format!("waiting for process {} on {}, which runs this pipeline", holder.process, holder.host);
            observer.event(Event::Said { stage: None, message });
            told = true;
        }
        !requests.interrupted()
    })?;
    if lock.is_some() {
        cache.sweep_run_files(&pipeline.folder)?;
    }
    Ok(lock)
}

/// Waits until no other process computes `key`; `None` if the user does not want to wait.
pub(crate) fn wait_for_key(ctx: &RunContext<'_>, id: StageId, key: &Digest) -> Result<Option<KeyLock>> {
    if let Some(lock) = ctx.cache.try_lock_key(key)? {
        return Ok(Some(lock));
    }
    say_computed_elsewhere(ctx, id);
    ctx.cache.lock_key(key, &mut || !ctx.scope.requests.interrupted())
}

/// Tells that the stage waits for what another run computes.
pub(crate) fn say_computed_elsewhere(ctx: &RunContext<'_>, id: StageId) {
    ctx.say(id, "another run is at it; waiting for its result");
}
