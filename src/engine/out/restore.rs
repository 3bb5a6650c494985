//! Rebuilds `out/` from a lock file alone: what it names and the cache still has. Runs nothing, and changes neither the lock nor
//! the texts beside the pipeline. Unaware of where the lock comes from.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::cache::manifest::{ComponentList, Section};
use crate::graph::pipeline::Pipeline;
use crate::graph::variant::folder_of_name;
use crate::kind::item::Item;
use crate::kind::item_set;
use crate::kind::item_tree::ItemTree;
use crate::kind::names::is_stage_of_a_lock;
use crate::kind::stage_kind::StageKind;
use crate::lock_file::{LockFile, StageRow};
use crate::out::earlier_shapes::earlier_shapes;
use crate::out::materialise::{Report, is_shown, materialise, withdraw};
use crate::out::shown;

/// What became of `out/<stage>/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredStage {
    pub name: String,
    /// Items that the lock says it has.
    pub total: usize,
    /// Names of those that are not in the cache any more, as far as their names are.
    pub missing: Vec<String>,
    /// Names of those that were not kept: that is no loss.
    pub not_kept: Vec<String>,
    /// Not even the list of its items is here.
    pub is_lost: bool,
    pub report: Report,
    /// Why it is not shown in `out/` at all.
    pub left_out: Option<String>,
}

impl RestoredStage {
    /// Whether nothing is missing or left out. Items that were not kept do not count.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && !self.is_lost && self.left_out.is_none()
    }
}

/// Shows each stage of the lock as it ended, in the order of the names. `pipeline` is the file as it stands, if it can be read:
/// it knows best which texts people edit. For use under the lock of the pipeline.
pub fn restore(
    cache: &Cache,
    out: &Path,
    lock: &LockFile,
    pipeline: Option<&Pipeline>,
    kinds: &[&'static StageKind],
) -> Result<Vec<RestoredStage>> {
    // Before anything is written.
    if let Some(name) = lock.stages.keys().find(|name| !is_stage_of_a_lock(name)) {
        bail!(
            "the lock file names a stage `{}`, and no stage can be called so: what it names would lie outside of `{}`; take the row out, or \
             `git checkout` another lock file",
            name.escape_debug(),
            out.display()
        );
    }
    let mut restored = Vec::new();
    for (name, rows) in &lock.stages {
        let owner = name.rsplit_once('/').map(|(owner, _)| owner);
        if owner.is_some_and(|owner| lock.stages.contains_key(owner)) {
            // A stage that belongs to another is nobody's to look at.
            continue;
        }
        let Some((row, items)) = fullest(cache, rows) else {
            let total = rows.first().map_or(0, |row| row.items as usize);
            restored.push(RestoredStage { name: name.clone(), total, is_lost: true, ..RestoredStage::default() });
            continue;
        };
        let mut stage = RestoredStage { name: name.clone(), total: row.items as usize, ..RestoredStage::default() };
        match fields(cache, name, row, lock, pipeline, kinds)? {
            Err(reason) => stage.left_out = Some(reason),
            // The texts of people lie beside the pipeline.
            Ok(fields) if fields.is_empty() => continue,
            Ok(fields) => {
                let keeps = keeps(cache, name, row, pipeline, kinds)?;
                show(cache, out, &mut stage, items, &fields, keeps)?;
            }
        }
        restored.push(stage);
    }
    withdraw_earlier_shapes(cache, out, &mut restored)?;
    Ok(restored)
}

/// Of several rows, which a merge leaves, that of which most is here.
fn fullest<'r>(cache: &Cache, rows: &'r [StageRow]) -> Option<(&'r StageRow, Vec<Item>)> {
    let read = |row: &'r StageRow| Some((row, item_set::decode(&cache.read_list(&row.out).ok()?).ok()?));
    let here = |items: &[Item]| {
        let artifacts = items.iter().flat_map(|item| item.fields.values());
        artifacts.filter(|artifact| cache.contains(&artifact.digest, artifact.size)).count()
    };
    rows.iter().filter_map(read).max_by_key(|(_, items)| here(items))
}

/// The name of the kind that made a row.
fn kind_of(cache: &Cache, name: &str, row: &StageRow, pipeline: Option<&Pipeline>) -> Result<String> {
    let record = cache.lookup(&row.key)?;
    let components = record.map(|record| ComponentList::from_record(&record.components)).unwrap_or_default();
    let recorded = components.section(Section::Kind).next().map(|kind| kind.name.as_str());
    let written = pipeline.and_then(|pipeline| pipeline.stage(name)).map(|stage| stage.kind.name);
    Ok(recorded.or(written).unwrap_or(name).to_string())
}

/// Whether a stage keeps its outputs: as the file says, else as its kind has it.
fn keeps(cache: &Cache, name: &str, row: &StageRow, pipeline: Option<&Pipeline>, kinds: &[&'static StageKind]) -> Result<bool> {
    if let Some(stage) = pipeline.and_then(|pipeline| pipeline.stage(name)) {
        return Ok(stage.keep);
    }
    let kind = kind_of(cache, name, row, pipeline)?;
    Ok(kinds.iter().find(|known| known.name == kind).is_none_or(|kind| kind.keeps))
}

/// The fields that a stage shows in `out/`; the reason if they are not known.
fn fields(
    cache: &Cache,
    name: &str,
    row: &StageRow,
    lock: &LockFile,
    pipeline: Option<&Pipeline>,
    kinds: &[&'static StageKind],
) -> Result<Result<Vec<&'static str>, String>> {
    let written = pipeline.and_then(|pipeline| pipeline.stage(name));
    let kind = kind_of(cache, name, row, pipeline)?;
    let Some(known) = kinds.iter().find(|known| known.name == kind) else {
        return Ok(Err(format!("its kind `{kind}` is not one of this version of loramill")));
    };
    let edited = match written.filter(|stage| stage.kind.name == kind) {
        Some(stage) => stage.stage.editable().map(|editable| editable.field),
        None if lock.edits.contains_key(name) => return Ok(Ok(Vec::new())),
        None => None,
    };
    Ok(Ok(known.writes.iter().copied().filter(|field| Some(*field) != edited).collect()))
}

fn show(cache: &Cache, out: &Path, stage: &mut RestoredStage, items: Vec<Item>, fields: &[&str], keeps: bool) -> Result<()> {
    // What is damaged is taken away when it is met, and is missing from then on.
    loop {
        match show_what_is_here(cache, out, stage, &items, fields, keeps) {
            Err(_) if !cache.take_damaged().is_empty() => {}
            shown => return shown,
        }
    }
}

fn show_what_is_here(
    cache: &Cache,
    out: &Path,
    stage: &mut RestoredStage,
    items: &[Item],
    fields: &[&str],
    keeps: bool,
) -> Result<()> {
    let Some(folder) = folder_of_name(&stage.name) else {
        stage.left_out = Some("that is no name of a stage or a variant".to_string());
        return Ok(());
    };
    // What is only in the folder stays there.
    let (here, missing) = shown::at_hand(cache, &out.join(&folder), items, fields)?;
    let missing = missing.into_iter().map(|item| item.name).collect();
    if keeps {
        stage.missing = missing
    } else {
        stage.not_kept = missing
    }
    if here.is_empty() {
        // Nothing would take the place of what lies there.
        return Ok(());
    }
    let tree = ItemTree::of(here);
    if !is_shown(cache, out, &folder, &tree.digest, fields) {
        stage.report = materialise(cache, out, &folder, &tree.digest, tree.items(cache)?, fields)?;
    }
    Ok(())
}

/// Takes away the folders of variants that the lock does not have, of stages that are shown as a whole.
fn withdraw_earlier_shapes(cache: &Cache, out: &Path, restored: &mut [RestoredStage]) -> Result<()> {
    let of_stage = |stage: &RestoredStage| stage.name.split('[').next().unwrap_or_default().to_string();
    let bases: BTreeSet<String> = restored.iter().map(of_stage).collect();
    for base in bases {
        let mut stages: Vec<&mut RestoredStage> = restored.iter_mut().filter(|stage| of_stage(stage) == base).collect();
        if !stages.iter().all(|stage| stage.is_whole()) {
            continue;
        }
        let current = stages.iter().filter_map(|stage| folder_of_name(&stage.name)).collect();
        for folder in earlier_shapes(cache, out, &base, &current)? {
            let report = withdraw(cache, out, &folder)?;
            if let Some(first) = stages.first_mut() {
                first.report.removed += report.removed;
                first.report.notes.extend(report.notes);
            }
        }
    }
    Ok(())
}
