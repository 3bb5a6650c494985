//! Evicts from the cache the outputs that their stages do not keep, once all stages that read them have done so. What `out/`
//! shows stays there. Keeps to the agreement that `sweep` describes. Unaware of how they are restored.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cache::bytes::size;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Section};
use crate::gc::roots::Roots;
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::Ask;
use crate::graph::stage_id::StageId;
use crate::kind::item::{Artifact, Item};
use crate::kind::item_set;
use crate::kind::item_tree::Given;
use crate::kind::stage::Form;
use crate::out::folder::is_stage_shown;
use crate::run::events::{Event, StageState};
use crate::run::run_context::RunContext;
use crate::run::run_record::StageReport;

/// A stage whose outputs nobody in this pipeline needs any more.
struct Unkept {
    id: StageId,
    /// Of the list of its items.
    tree: Digest,
    /// That have outputs here.
    items: Vec<Item>,
}

/// Lets go of what was not to be kept and has been read. If another process deletes at this moment, the next run does it.
pub(crate) fn evict_unkept(ctx: &RunContext<'_>, given: &dyn Fn(StageId) -> Given, reports: &[StageReport]) -> Result<()> {
    if !ctx.cache.belongs_to_a_lasting_pipeline() {
        return Ok(());
    }
    let unkept = unkept(ctx, given, reports)?;
    if unkept.iter().all(|stage| stage.items.is_empty()) {
        return Ok(());
    }
    let mut spared = needed_by_others(ctx, &unkept)?;
    let Some(collector) = ctx.cache.try_collecting(&mut || false)? else { return Ok(()) };
    let folder =
        fs::canonicalize(&ctx.pipeline.folder).with_context(|| format!("looking for `{}`", ctx.pipeline.folder.display()))?;
    let mut roots = Roots::read(ctx.cache, &ctx.pipeline.folder, false, &[])?;
    let exclusive = collector.exclusive()?;
    roots.read_work_trees_again();
    spared.extend(used_by_other_runs(ctx, &folder, &roots)?);

    let mut told = Vec::new();
    let mut going = HashSet::new();
    for stage in &unkept {
        let row = ctx.lock_now().stages.get(&ctx.pipeline.stages[stage.id].name).and_then(|rows| rows.last().cloned());
        if row.is_some_and(|row| spared.contains(&row.key)) {
            continue;
        }
        let (mut items, mut bytes) = (0, 0);
        for item in stage.items.iter().filter(|item| !spared.contains(&item.key)) {
            let artifacts = written_here(ctx, stage.id, item);
            let mut goes = false;
            for artifact in artifacts.into_iter().filter(|artifact| !spared.contains(&artifact.digest)) {
                goes = true;
                if going.insert(artifact.digest) {
                    bytes += artifact.size;
                }
            }
            items += usize::from(goes);
        }
        if items > 0 {
            told.push((stage, items, bytes));
        }
    }
    if going.is_empty() {
        return Ok(());
    }
    exclusive.evict(&going)?;
    drop(exclusive);
    for (stage, items, bytes) in told {
        let message = words(ctx, stage, items, bytes);
        let stage = Some(ctx.pipeline.stages[stage.id].name.clone());
        ctx.scope.observer.event(Event::Said { stage, message });
    }
    Ok(())
}

/// The stages that keep nothing and that all readers have read.
fn unkept(ctx: &RunContext<'_>, given: &dyn Fn(StageId) -> Given, reports: &[StageReport]) -> Result<Vec<Unkept>> {
    let ended: HashSet<&str> = reports
        .iter()
        .filter(|report| matches!(report.state, StageState::Cached | StageState::Ran))
        .map(|report| report.name.as_str())
        .collect();
    // One that was left out may have reasons to run.
    let has_ended = |id: StageId| {
        ended.contains(ctx.pipeline.stages[id].name.as_str()) && !matches!(ctx.options.selection.ask(id), Ask::LeaveOut)
    };
    let mut unkept = Vec::new();
    for &id in ctx.needed.iter().filter(|&&id| !ctx.pipeline.stages[id].keep && has_ended(id)) {
        if !readers(ctx.pipeline, id).into_iter().all(has_ended) {
            continue;
        }
        let Given::Whole(tree) = given(id) else { continue };
        let mut items = Vec::new();
        for item in tree.items(ctx.cache)? {
            if !written_here(ctx, id, item).is_empty() && !is_made_of_all(ctx, id, item)? {
                items.push(item.clone());
            }
        }
        unkept.push(Unkept { id, tree: tree.digest, items });
    }
    Ok(unkept)
}

/// The outputs of an item that are in the cache.
fn written_here(ctx: &RunContext<'_>, id: StageId, item: &Item) -> Vec<Artifact> {
    let written = ctx.pipeline.stages[id].kind.writes.iter().filter_map(|field| item.fields.get(*field));
    written.filter(|artifact| ctx.cache.contains(&artifact.digest, artifact.size)).cloned().collect()
}

/// Whether an item is made of all others together, as a grid is: it is small, and would take all of them to make again.
fn is_made_of_all(ctx: &RunContext<'_>, id: StageId, item: &Item) -> Result<bool> {
    let Form::Items(_) = ctx.pipeline.stages[id].stage.form() else { return Ok(false) };
    let Some(record) = ctx.cache.lookup(&item.key)? else { return Ok(true) };
    let components = ComponentList::from_record(&record.components);
    // The record of a piece of work names what it read.
    Ok(components.section(Section::Input).next().is_none() && components.section(Section::Value).next().is_none())
}

/// What any other stage of this pipeline has made, or passed on, as the lock names it.
fn needed_by_others(ctx: &RunContext<'_>, unkept: &[Unkept]) -> Result<HashSet<Digest>> {
    let lock = ctx.lock_now().clone();
    let mut spared = HashSet::new();
    for (id, stage) in ctx.pipeline.stages.iter() {
        if unkept.iter().any(|unkept| unkept.id == id) {
            continue;
        }
        for row in lock.stages.get(&stage.name).into_iter().flatten() {
            add_outputs(ctx, &row.out, &mut spared)?;
        }
    }
    Ok(spared)
}

/// What runs of other pipelines need: what they noted, and what their locks name while they go on.
fn used_by_other_runs(ctx: &RunContext<'_>, folder: &Path, roots: &Roots) -> Result<HashSet<Digest>> {
    let others = ctx.cache.noted()?.into_iter().filter(|noted| noted.folder != folder);
    let mut used: HashSet<Digest> = others.flat_map(|noted| noted.digests).collect();
    for (other, digests) in &roots.pipelines {
        let is_other = fs::canonicalize(other).is_ok_and(|other| other != folder);
        if is_other && ctx.cache.runner(other)?.is_some() {
            used.extend(digests);
        }
    }
    for digest in used.clone() {
        add_outputs(ctx, &digest, &mut used)?;
    }
    Ok(used)
}

/// Adds what a tree lists; nothing if there is no such tree here.
fn add_outputs(ctx: &RunContext<'_>, tree: &Digest, to: &mut HashSet<Digest>) -> Result<()> {
    if !item_set::is_tree(&ctx.cache.path(tree)) {
        return Ok(());
    }
    // A damaged one is as good as none.
    let Ok(bytes) = ctx.cache.read_list(tree) else { return Ok(()) };
    item_set::visit(&bytes, |item| to.extend(item.fields.iter().map(|field| field.digest)))
}

fn words(ctx: &RunContext<'_>, unkept: &Unkept, items: usize, bytes: u64) -> String {
    let stage = &ctx.pipeline.stages[unkept.id];
    let noun = match stage.kind.writes {
        [field] => field,
        _ => "output",
    };
    let plural = if items == 1 { "" } else { "s" };
    let names: Vec<String> =
        readers(ctx.pipeline, unkept.id).into_iter().map(|reader| format!("`{}`", ctx.pipeline.stages[reader].name)).collect();
    let readers = match names.as_slice() {
        [] => "which nothing reads".to_string(),
        [one] => format!("which {one} has read"),
        [first @ .., last] => format!("which {} and {last} have read", first.join(", ")),
    };
    let is_shown = stage.owner.is_none() && is_stage_shown(ctx.pipeline, ctx.cache, unkept.id, &unkept.tree);
    let still = if is_shown { format!("; out/{} has them still", stage.folder()) } else { String::new() };
    format!("evicted {items} {noun}{plural}, {}, {readers}{still}", size(bytes))
}

/// The stages that read what the stage `id` makes, also where another passes it on.
fn readers(pipeline: &Pipeline, id: StageId) -> BTreeSet<StageId> {
    let mut givers = BTreeSet::from([id]);
    let mut readers = BTreeSet::new();
    // A stage comes after those it reads.
    for reader in pipeline.stages.ids_after(id) {
        if pipeline.producers(reader).any(|producer| givers.contains(&producer)) {
            readers.insert(reader);
            let stage = &pipeline.stages[reader];
            if stage.kind.passes_fields_on && matches!(stage.stage.form(), Form::Items(_)) {
                givers.insert(reader);
            }
        }
    }
    readers
}
