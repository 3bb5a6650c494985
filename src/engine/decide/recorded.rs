//! What the cache and the lock hold for a key: results whose objects are all here, rows of stages, and what an interrupted run
//! published. Unaware of what is to be run.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use anyhow::Result;
use rayon::prelude::*;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::cache::uses::Lease;
use crate::decide::taken::{Taken, resolve};
use crate::decide::view::View;
use crate::graph::pipeline::LoadedStage;
use crate::kind::item_set;
use crate::kind::item_tree::ItemTree;
use crate::kind::stage::WholeStage;
use crate::out::shown;

/// The field under which the record of a stage names its tree.
pub const TREE_FIELD: &str = "tree";
/// The attribute that says how many items a tree has.
pub const COUNT_ATTRIBUTE: &str = "items";
/// The fact under which a published output names the key of the stage that was running.
pub const STAGE_FACT: &str = "stage";
/// The fact that says how much work a record stands for, where it is not one piece like all others of its kind.
pub const EFFORT_FACT: &str = "effort";

/// The outputs of a result of `key` of which nothing is lost: of the one the lock names, else of the first that is here. It stays
/// here while the run lasts.
pub(crate) fn result(view: &View<'_>, key: &Digest, preferred: &Preferred, lease: &Lease) -> Result<Option<Vec<Output>>> {
    Ok(choose(view, key, view.cache.outputs(key)?, preferred, lease))
}

/// The one of several `results` of `key` that counts, as `result` says.
pub(crate) fn choose(
    view: &View<'_>,
    key: &Digest,
    results: Vec<Vec<Output>>,
    preferred: &Preferred,
    lease: &Lease,
) -> Option<Vec<Output>> {
    let chosen = choose_among(view, key, results, preferred);
    if chosen.is_some() {
        lease.note(*key);
    }
    chosen
}

fn choose_among(view: &View<'_>, key: &Digest, mut here: Vec<Vec<Output>>, preferred: &Preferred) -> Option<Vec<Output>> {
    let is_lost = |artifact: &Artifact| {
        !view.cache.contains(&artifact.digest, artifact.size) && preferred.absence.is_loss(&artifact.digest)
    };
    here.retain(|outputs| !outputs.iter().flat_map(|output| output.fields.values()).any(is_lost));
    if here.len() > 1
        && let Some(digests) = preferred.get(view.cache, key)
    {
        let named = |output: &Output| output.fields.values().any(|artifact| digests.contains(&artifact.digest));
        if let Some(position) = here.iter().position(|outputs| outputs.iter().any(named)) {
            return Some(here.swap_remove(position));
        }
    }
    let whole = here.iter().position(|outputs| outputs.iter().all(|output| is_here(view, output)));
    (!here.is_empty()).then(|| here.swap_remove(whole.unwrap_or(0)))
}

/// What counts among results of a stage when it is decided whether it is fresh.
pub fn preferred(view: &View<'_>, stage: &LoadedStage) -> Preferred {
    preferring(view, stage, absence(view, stage))
}

/// As `preferred`, for a result that is taken in place of one that would be made: all of it must be here.
pub(crate) fn preferred_here(view: &View<'_>, stage: &LoadedStage) -> Preferred {
    preferring(view, stage, Absence::Loss)
}

fn preferring(view: &View<'_>, stage: &LoadedStage, absence: Absence) -> Preferred {
    let rows = view.lock.stages.get(&stage.name).map_or(&[][..], Vec::as_slice);
    Preferred { trees: rows.iter().map(|row| row.out).collect(), by_key: OnceLock::new(), absence }
}

fn absence(view: &View<'_>, stage: &LoadedStage) -> Absence {
    if stage.keep {
        return Absence::Loss;
    }
    match view.requested.iter().find(|&&wanted| view.pipeline.stages[wanted].name == stage.name) {
        Some(&id) => {
            let shown = shown::of_stage(view.pipeline, view.cache, id);
            Absence::LossUnlessShown(shown.into_iter().map(|file| file.digest).collect())
        }
        None => Absence::NoLoss,
    }
}

fn is_here(view: &View<'_>, output: &Output) -> bool {
    output.fields.values().all(|artifact| view.cache.contains(&artifact.digest, artifact.size))
}

/// The tree that the lock or a record names for a key.
pub(crate) fn find_row(view: &View<'_>, stage: &LoadedStage, key: &Digest) -> Result<Option<Row>> {
    let rows = view.lock.stages.get(&stage.name).map_or(&[][..], Vec::as_slice);
    let mut damaged = None;
    for row in rows.iter().filter(|row| row.key == *key) {
        let tree = ItemTree::in_cache(row.out, row.items as usize);
        if let Some(row) = check_row(view, stage, tree, rows.len() == 1)? {
            if row.lost.is_empty() {
                let ended = view.cache.lookup(key)?.and_then(|record| record.ended);
                return Ok(Some(Row { ended, ..row }));
            }
            damaged = Some(row);
        }
    }
    let recorded = view.cache.with_lease(|lease| {
        for record in view.cache.results(key)? {
            let Some(tree) = record.outputs.first().and_then(|output| output.fields.get(TREE_FIELD)) else { continue };
            let count = record.outputs[0].attributes.get(COUNT_ATTRIBUTE).and_then(|n| n.parse().ok()).unwrap_or_default();
            if let Some(row) = check_row(view, stage, ItemTree::in_cache(tree.digest, count), false)? {
                if row.lost.is_empty() {
                    lease.note(*key);
                    return Ok(Some(Row { ended: record.ended, ..row }));
                }
                damaged = Some(row);
            }
        }
        Ok(None)
    })?;
    Ok(recorded.or(damaged))
}

/// Whether any of the outputs that a tree lists are lost; `None` if the tree itself is.
fn check_row(view: &View<'_>, stage: &LoadedStage, tree: ItemTree, recorded: bool) -> Result<Option<Row>> {
    if !view.cache.path(&tree.digest).exists() {
        return Ok(None);
    }
    let Ok(bytes) = view.cache.read_list(&tree.digest) else { return Ok(None) };
    // Fields that passed through are those of stages before, which were checked in their turn.
    let written = stage.kind.writes;
    let mut outputs = Vec::new();
    let rows_of_texts = stage.stage.editable().map(|_| view.lock.edit_rows(&stage.name));
    let (mut count, mut has_rows) = (0, true);
    item_set::visit(&bytes, |view| {
        count += 1;
        has_rows &= rows_of_texts.is_none_or(|rows| rows.get(view.name).is_some_and(|rows| rows.len() == 1));
        let fields = view.fields.iter().filter(|field| written.contains(&field.name));
        outputs.extend(fields.map(|field| (field.digest, field.size, view.name)));
    })?;
    let absence_of_stage = OnceLock::new();
    let is_lost = |digest: &Digest, size: u64| {
        !view.cache.contains(digest, size) && absence_of_stage.get_or_init(|| absence(view, stage)).is_loss(digest)
    };
    let lost: Vec<String> = outputs
        .par_iter()
        .with_min_len(256)
        .filter(|(digest, size, _)| is_lost(digest, *size))
        .map(|(_, _, name)| name.to_string())
        .collect();
    // A damaged lock may count them wrong, and lack rows of texts.
    let recorded = recorded && count == tree.count && has_rows;
    Ok(Some(Row { tree: ItemTree::in_cache(tree.digest, count), lost, recorded, ended: None }))
}

/// What an interrupted run published that this one can take over, and whether it must start over.
pub(crate) fn published(
    view: &View<'_>,
    form: &dyn WholeStage,
    taken: &[Taken<'_>],
    key: &Digest,
    state_key: &Digest,
) -> Result<(Vec<Output>, bool)> {
    let records = view.cache.published(state_key)?;
    if records.is_empty() {
        return Ok((Vec::new(), false));
    }
    // What was published stays while it is looked at, and as long as the run lasts.
    view.cache.with_lease(|lease| {
        lease.note(*state_key);
        Ok(())
    })?;
    let forecast = form.forecast(&resolve(view, taken, true)?);
    let key = key.to_hex();
    let mut published: Vec<Output> = Vec::new();
    for record in records {
        let same_end = record.facts.get(STAGE_FACT) == Some(&key);
        for output in record.outputs {
            let name = output.name.resolve("");
            let foreseen = forecast.iter().any(|(foreseen, attributes)| {
                *foreseen == name && attributes.iter().all(|(n, value)| output.attributes.get(n) == Some(value))
            });
            if same_end || foreseen {
                published.retain(|known| known.name != output.name);
                published.push(output);
            }
        }
    }
    if published.iter().all(|output| is_here(view, output)) { Ok((published, false)) } else { Ok((Vec::new(), true)) }
}

/// Results that the lock names, read when two results compete.
pub struct Preferred {
    trees: Vec<Digest>,
    by_key: OnceLock<HashMap<Digest, HashSet<Digest>>>,
    absence: Absence,
}

/// What it means that an object is not in the cache.
enum Absence {
    Loss,
    /// The stage does not keep its outputs, and somebody wants to see them. Holds the contents of what `out/` shows.
    LossUnlessShown(HashSet<Digest>),
    /// The stage does not keep its outputs, and they are there for others only.
    NoLoss,
}

impl Absence {
    fn is_loss(&self, digest: &Digest) -> bool {
        match self {
            Self::Loss => true,
            Self::LossUnlessShown(shown) => !shown.contains(digest),
            Self::NoLoss => false,
        }
    }
}

impl Preferred {
    fn get(&self, cache: &Cache, key: &Digest) -> Option<&HashSet<Digest>> {
        let by_key = self.by_key.get_or_init(|| {
            let mut by_key: HashMap<Digest, HashSet<Digest>> = HashMap::new();
            for items in self.trees.iter().filter_map(|tree| item_set::decode(&cache.read_list(tree).ok()?).ok()) {
                for item in items {
                    by_key.entry(item.key).or_default().extend(item.fields.values().map(|artifact| artifact.digest));
                }
            }
            by_key
        });
        by_key.get(key)
    }
}

/// What is recorded for the key of a stage.
pub(crate) struct Row {
    pub(crate) tree: ItemTree,
    /// Names of items whose outputs are lost.
    pub(crate) lost: Vec<String>,
    /// Whether the lock has this row and no other for the stage, and one for each of its texts.
    pub(crate) recorded: bool,
    /// How the stage was stopped, if it was.
    pub(crate) ended: Option<String>,
}
