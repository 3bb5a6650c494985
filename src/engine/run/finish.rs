//! What an item stage makes of all its outputs together, as a sheet of pictures. Unaware of how the outputs came.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::cache::manifest::ComponentList;
use crate::cache::records::{Output, Record};
use crate::cache::uses::Lease;
use crate::decide::decision::in_stage;
use crate::decide::files::ArtifactFiles;
use crate::decide::outputs::{finish_key, items_of_stage};
use crate::decide::recorded;
use crate::decide::verdict::Basis;
use crate::graph::selection::{Ask, Force};
use crate::graph::stage_id::StageId;
use crate::kind::item::{Item, ItemSet};
use crate::kind::stage::{Draft, ItemStage};
use crate::run::context::store;
use crate::run::from_out::{missing, take_from_out};
use crate::run::guard::guarded;
use crate::run::run_context::RunContext;

/// What is made of all outputs together.
pub(crate) struct Finished {
    /// How many of them were not there before.
    pub(crate) made: usize,
    pub(crate) items: ItemSet,
}

/// Items made of all outputs together.
pub(crate) fn finish(
    ctx: &RunContext<'_>,
    id: StageId,
    form: &dyn ItemStage,
    basis: &Basis<'_>,
    outputs: &[Item],
    files: &ArtifactFiles<'_>,
) -> Result<Finished> {
    let stage = &ctx.pipeline.stages[id];
    let started = Instant::now();
    let key = finish_key(&basis.identity, outputs, stage.kind.writes);
    let is_forced = matches!(ctx.options.selection.ask(id), Ask::Again(Force::All));
    let preferred = recorded::preferred(&ctx.view(files), stage);
    let look_up = |lease: &Lease| recorded::result(&ctx.view(files), &key, &preferred, lease);
    let found = if is_forced { None } else { ctx.cache.with_lease(look_up)? };
    let (made, outputs) = match found {
        Some(outputs) => (0, outputs),
        None => {
            let drafts = in_stage(stage, finish_drafts(ctx, id, form, outputs, files))?;
            let batch = ctx.batch();
            let outputs: Vec<Output> = drafts.into_iter().map(|draft| store(draft, "", &batch, files)).collect::<Result<_>>()?;
            let mut list = ComponentList::default();
            basis.identity.render(&mut list);
            let record = Record {
                key,
                components: list.to_record(),
                outputs: outputs.clone(),
                seconds: started.elapsed().as_secs_f64(),
                ended: None,
                facts: ctx.facts(id),
            };
            batch.record(record)?;
            batch.flush()?;
            (outputs.len(), outputs)
        }
    };
    Ok(Finished { made, items: items_of_stage(&outputs, key) })
}

/// What is made of all outputs together. Some of them may be only in `out/`.
fn finish_drafts(
    ctx: &RunContext<'_>,
    id: StageId,
    form: &dyn ItemStage,
    outputs: &[Item],
    files: &ArtifactFiles<'_>,
) -> Result<Vec<Draft>> {
    let stage = &ctx.pipeline.stages[id];
    let drafts = guarded(|| form.finish(outputs, files));
    let written = outputs.iter().flat_map(|item| stage.kind.writes.iter().filter_map(|field| item.fields.get(*field)));
    let missing = missing(ctx, written.cloned());
    if drafts.is_ok() || stage.keep || missing.is_empty() {
        return drafts;
    }
    if !take_from_out(ctx, id, missing)?.is_empty() {
        bail!("it needs all its outputs together, and some were not kept: run again with `--force {}`", stage.name);
    }
    guarded(|| form.finish(outputs, files))
}

/// An error if two outputs have one name.
pub(crate) fn check_names(stage: &str, items: &[Item]) -> Result<()> {
    let mut names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => bail!("`{stage}` made two items called `{}`", pair[0]),
        None => Ok(()),
    }
}
