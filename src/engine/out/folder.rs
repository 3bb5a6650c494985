//! Where a stage is shown below `out/`, with which of its fields, and whether it is. Unaware of how files get there.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::graph::pipeline::{LoadedStage, Pipeline};
use crate::graph::stage_id::StageId;
use crate::kind::item_tree::ItemTree;
use crate::out::materialise::is_shown;
use crate::out::shown;

/// Where the outputs lie under friendly names.
pub fn out_folder(pipeline: &Pipeline) -> PathBuf {
    if pipeline.settings.is_empty() {
        return pipeline.out();
    }
    let mut settings = pipeline.settings.clone();
    settings.sort_unstable();
    pipeline.out().join(format!("@{}", Digest::of(settings.join("\n").as_bytes()).short()))
}

/// The fields of a stage that lie in `out/`. What people may edit lies in a folder of its own.
pub(crate) fn shown_fields(stage: &LoadedStage) -> Vec<&'static str> {
    if stage.owner.is_some() {
        return Vec::new();
    }
    let edited = stage.stage.editable().map(|editable| editable.field);
    stage.kind.writes.iter().copied().filter(|field| Some(*field) != edited).collect()
}

/// Whether the folder of a stage below `out/` shows the outputs that `tree` lists, and nobody touched it.
pub(crate) fn is_stage_shown(pipeline: &Pipeline, cache: &Cache, id: StageId, tree: &Digest) -> bool {
    let stage = &pipeline.stages[id];
    let fields = shown_fields(stage);
    fields.is_empty() || is_shown(cache, &out_folder(pipeline), &stage.folder(), tree, &fields)
}

/// What the folder of a stage below `out/` is to show of `tree`: all of it, or, of a stage that does not keep its outputs, what
/// is in the cache or in the folder.
pub(crate) fn tree_to_show(pipeline: &Pipeline, cache: &Cache, id: StageId, tree: &ItemTree) -> Result<ItemTree> {
    let stage = &pipeline.stages[id];
    if stage.keep || is_stage_shown(pipeline, cache, id, &tree.digest) {
        return Ok(tree.clone());
    }
    let folder = out_folder(pipeline).join(stage.folder());
    let (there, missing) = shown::at_hand(cache, &folder, tree.items(cache)?, &shown_fields(stage))?;
    Ok(if missing.is_empty() { tree.clone() } else { ItemTree::of(there) })
}
