//! What a stage that ended leaves behind, in this order: its tree and record in the cache, its outputs in `out/`, its row in the
//! lock. Unaware of how it came to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use anyhow::Result;

use crate::cache::digest::Digest;
use crate::cache::records::{Output, OutputName, Record};
use crate::decide::changes;
use crate::decide::estimate::effort_fact;
use crate::decide::files::ArtifactFiles;
use crate::decide::recorded::{COUNT_ATTRIBUTE, TREE_FIELD};
use crate::decide::verdict::Basis;
use crate::graph::pipeline::Producer;
use crate::graph::stage_id::StageId;
use crate::kind::item::Fields;
use crate::kind::item_set;
use crate::kind::item_tree::ItemTree;
use crate::kind::stage::Effort;
use crate::lock_file::{EditRows, InputRow, StageRow};
use crate::out::earlier_shapes::earlier_shapes;
use crate::out::folder::{is_stage_shown, out_folder, shown_fields, tree_to_show};
use crate::out::materialise::{materialise, withdraw};
use crate::out::shown;
use crate::run::events::{Event, StageState};
use crate::run::from_out::{self, take_from_out};
use crate::run::run_context::RunContext;
use crate::run::run_record::StageReport;

/// How long something took, and how much work it was.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    pub(crate) effort: Option<Effort>,
}

/// Records that `key` gave `tree`, then what the user sees of it. True if the outputs are those that the lock names already.
pub(crate) fn record_row(
    ctx: &RunContext<'_>,
    id: StageId,
    basis: &Basis<'_>,
    key: Digest,
    tree: &ItemTree,
    took: Took,
    ended: Option<String>,
) -> Result<bool> {
    let stage = &ctx.pipeline.stages[id];
    let files = ArtifactFiles::new(ctx.cache, ctx.intake);
    let view = &ctx.view(&files);
    let batch = ctx.cache.batch();
    // Inputs are kept with their names: the next run says what changed in them.
    for taken in &basis.taken {
        batch.put_bytes(&item_set::encode(taken.tree.items(ctx.cache)?))?;
    }
    let stored = batch.put_bytes(&item_set::encode(tree.items(ctx.cache)?))?;
    let output = Output {
        name: OutputName::Own(TREE_FIELD.to_string()),
        origin: None,
        fields: Fields::from([(TREE_FIELD, stored.artifact(TREE_FIELD))]),
        attributes: BTreeMap::from([(COUNT_ATTRIBUTE.to_string(), tree.count.to_string())]),
    };
    let components = changes::components(view, stage, &basis.identity, &basis.taken)?.to_record();
    let mut facts = ctx.facts(id);
    facts.extend(took.effort.as_ref().map(effort_fact));
    batch.record(Record { key, components, outputs: vec![output], seconds: took.seconds, ended, facts })?;
    batch.flush()?;
    let same = came_out_the_same(ctx, id, tree);
    show_outputs(ctx, id, tree)?;
    write_row(ctx, id, key, tree)?;
    Ok(same)
}

fn came_out_the_same(ctx: &RunContext<'_>, id: StageId, tree: &ItemTree) -> bool {
    let rows = ctx.lock.stages.get(&ctx.pipeline.stages[id].name);
    let Some(row) = rows.and_then(|rows| rows.last()) else { return false };
    if row.out == tree.digest {
        return true;
    }
    let (Ok(before), Ok(now)) = (ctx.cache.read_list(&row.out), tree.items(ctx.cache)) else { return false };
    row.items == now.len() as u64 && item_set::shows(&before, now).unwrap_or(false)
}

/// Shows the outputs under friendly names: in `out/`, with `--set` in a folder of its own. Gives how many files of others went.
pub(crate) fn show_outputs(ctx: &RunContext<'_>, id: StageId, whole: &ItemTree) -> Result<usize> {
    if is_stage_shown(ctx.pipeline, ctx.cache, id, &whole.digest) {
        return Ok(0);
    }
    let stage = &ctx.pipeline.stages[id];
    let (out, folder, fields) = (out_folder(ctx.pipeline), stage.folder(), shown_fields(stage));
    // One stage at a time: they share the folder for what is being written.
    let _turn = ctx.showing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tree = tree_to_show(ctx.pipeline, ctx.cache, id, whole)?;
    if tree.digest != whole.digest {
        // What is not there may be there under a name that the item had before.
        let (_, missing) = shown::at_hand(ctx.cache, &out.join(&folder), whole.items(ctx.cache)?, &fields)?;
        let artifacts = missing.iter().flat_map(|item| fields.iter().filter_map(|field| item.fields.get(*field)));
        let artifacts = from_out::missing(ctx, artifacts.cloned());
        take_from_out(ctx, id, artifacts)?;
        tree = tree_to_show(ctx.pipeline, ctx.cache, id, whole)?;
    }
    let report = materialise(ctx.cache, &out, &folder, &tree.digest, tree.items(ctx.cache)?, &fields)?;
    for message in report.notes {
        ctx.say(id, &message);
    }
    Ok(report.removed)
}

/// Writes the lock, if this run is of the file as it stands.
pub(crate) fn write_row(ctx: &RunContext<'_>, id: StageId, key: Digest, tree: &ItemTree) -> Result<()> {
    if !ctx.pipeline.settings.is_empty() {
        return Ok(());
    }
    let stage = &ctx.pipeline.stages[id];
    let mut lock = ctx.lock_now();
    lock.stages.insert(stage.name.clone(), vec![StageRow { key, out: tree.digest, items: tree.count as u64 }]);
    for edge in &stage.edges {
        if let Producer::Input(input) = edge.from {
            let name = &ctx.pipeline.inputs[input].name;
            if let Some((digest, size)) = ctx.intake.rows.get(name) {
                lock.inputs.insert(name.clone(), vec![InputRow { digest: *digest, size: *size }]);
            }
        }
    }
    lock.write(&ctx.pipeline.lock_file())?;
    Ok(())
}

/// After a run of everything: rows of stages and inputs that the file no longer has go, and those of inputs say what was read,
/// whatever a merge or a damaged lock says.
pub(crate) fn settle_rows(ctx: &RunContext<'_>, reports: &[StageReport]) -> Result<()> {
    let all_ended = reports.len() == ctx.needed.len()
        && reports.iter().all(|report| matches!(report.state, StageState::Cached | StageState::Ran));
    if !all_ended || !ctx.pipeline.settings.is_empty() {
        return Ok(());
    }
    let mut lock = ctx.lock_now();
    lock.stages.retain(|name, _| ctx.pipeline.stage(name).is_some());
    lock.inputs.retain(|name, _| ctx.pipeline.input(name).is_some());
    let is_absent = |name: &String| ctx.intake.absent.values().any(|absent| absent.name == *name);
    for (name, (digest, size)) in ctx.intake.rows.iter().filter(|(name, _)| !is_absent(name)) {
        lock.inputs.insert(name.clone(), vec![InputRow { digest: *digest, size: *size }]);
    }
    lock.write(&ctx.pipeline.lock_file())?;
    Ok(())
}

/// Whether the lock says of the inputs of a stage what this run has read.
pub(crate) fn has_input_rows(ctx: &RunContext<'_>, id: StageId) -> bool {
    ctx.pipeline.stages[id].edges.iter().all(|edge| {
        let Producer::Input(input) = edge.from else { return true };
        let name = &ctx.pipeline.inputs[input].name;
        let read = ctx.intake.rows.get(name).map(|&(digest, size)| InputRow { digest, size });
        read.is_none_or(|read| ctx.lock.inputs.get(name).is_some_and(|rows| *rows == [read]))
    })
}

/// Writes the rows of texts, of stages that have not ended too.
pub(crate) fn write_edit_rows(ctx: &RunContext<'_>) -> Result<()> {
    ctx.lock_now().write(&ctx.pipeline.lock_file())?;
    Ok(())
}

/// Rows of texts; they are written with the row of the stage.
pub(crate) fn take_edit_rows(ctx: &RunContext<'_>, id: StageId, rows: EditRows) {
    ctx.lock_now().edits.insert(ctx.pipeline.stages[id].name.clone(), rows);
}

/// Takes earlier shapes away of each stage of which all variants are shown now.
pub(crate) fn withdraw_earlier_shapes(ctx: &RunContext<'_>, reports: &[StageReport]) -> Result<()> {
    let out = out_folder(ctx.pipeline);
    let bases: BTreeSet<&str> =
        ctx.pipeline.stages.values().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str()).collect();
    for base in bases {
        let variants = || ctx.pipeline.stages.values().filter(|stage| stage.base_name == base && stage.owner.is_none());
        let is_shown = |name: &String| {
            let report = reports.iter().find(|report| report.name == *name);
            report.is_some_and(|report| matches!(report.state, StageState::Cached | StageState::Ran))
        };
        if !variants().all(|stage| is_shown(&stage.name)) {
            continue;
        }
        let current = variants().map(|stage| stage.folder()).collect();
        for folder in earlier_shapes(ctx.cache, &out, base, &current)? {
            let report = withdraw(ctx.cache, &out, &folder)?;
            let files = if report.removed == 1 { "1 file".to_string() } else { format!("{} files", report.removed) };
            let gone =
                (report.removed > 0).then(|| format!("took {files} out of out/{folder}, which `{base}` does not show any more"));
            for message in gone.into_iter().chain(report.notes) {
                ctx.scope.observer.event(Event::Said { stage: Some(base.to_string()), message });
            }
        }
    }
    Ok(())
}
