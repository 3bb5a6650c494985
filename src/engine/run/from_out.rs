//! Outputs that the cache has not kept: which are missing, and what `out/` still shows of them. Unaware of how outputs are made.

use anyhow::Result;

use crate::graph::stage_id::StageId;
use crate::kind::item::Artifact;
use crate::out::shown;
use crate::run::run_context::RunContext;

/// Those of `artifacts` that are neither in the cache nor inputs.
pub(crate) fn missing(ctx: &RunContext<'_>, artifacts: impl IntoIterator<Item = Artifact>) -> Vec<Artifact> {
    let is_here = |artifact: &Artifact| {
        ctx.intake.places.contains_key(&artifact.digest) || ctx.cache.contains(&artifact.digest, artifact.size)
    };
    artifacts.into_iter().filter(|artifact| !is_here(artifact)).collect()
}

/// Takes what `out/` shows of a stage into the cache. Returns what is not there.
pub(crate) fn take_from_out(ctx: &RunContext<'_>, id: StageId, missing: Vec<Artifact>) -> Result<Vec<Artifact>> {
    if missing.is_empty() {
        return Ok(missing);
    }
    let shown = shown::of_stage(ctx.pipeline, ctx.cache, id);
    let mut left = Vec::new();
    for artifact in missing {
        let mut files = shown.iter().filter(|file| file.digest == artifact.digest);
        let mut is_taken = false;
        while let (false, Some(file)) = (is_taken, files.next()) {
            is_taken = file.take(ctx.cache, &artifact.digest)?;
        }
        if !is_taken {
            left.push(artifact);
        }
    }
    Ok(left)
}
