//! What must be restored so that a stage can run: outputs of stages that do not keep theirs, with what it takes to make them
//! again, and so on up to what is here. `plan` says it, a run does it. Unaware of how.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;

use crate::cache::digest::Digest;
use crate::cache::manifest::KeyHash;
use crate::decide::decision::decide;
use crate::decide::keys::render_work;
use crate::decide::reason::Reason;
use crate::decide::taken::{Taken, resolve};
use crate::decide::verdict::{Decision, ItemPlan, KeyedWork, Verdict, WorkState};
use crate::decide::view::View;
use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::selection::Ask;
use crate::graph::stage_id::{StageId, StageVec};
use crate::kind::item::{Artifact, Item};
use crate::kind::item_tree::Given;
use crate::kind::stage::{Form, Work};
use crate::out::shown::{self, Shown};

/// What is to be restored of one stage.
pub(crate) struct RestorePlan {
    pub(crate) stage: StageId,
    /// A stage that reads it and must run.
    pub(crate) reader: StageId,
    /// What `out/` shows.
    pub(crate) from_out: Vec<(Artifact, Shown)>,
    /// Items that must be made again.
    pub(crate) items: Vec<Item>,
    /// The pieces of work of an item stage that give them, as far as they are known before what they read is here.
    pub(crate) works: Vec<KeyedWork>,
}

impl RestorePlan {
    /// For a plan and the start of the stage: why it runs although nothing of it changed.
    pub(crate) fn reason(&self, stages: &StageVec<LoadedStage>) -> Reason {
        Reason::MadeAgain { reader: stages[self.reader].name.clone() }
    }

    /// Names of the pieces of work that run again.
    pub(crate) fn names(&self, stages: &StageVec<LoadedStage>) -> BTreeSet<String> {
        match stages[self.stage].stage.form() {
            Form::Whole(_) => BTreeSet::from([stages[self.stage].name.clone()]),
            Form::Items(_) if self.works.is_empty() => self.items.iter().map(|item| item.name.clone()).collect(),
            Form::Items(_) => self.works.iter().map(|keyed| keyed.work.name.clone()).collect(),
        }
    }
}

/// Sees what each producer gives.
pub(crate) type Give<'g> = dyn Fn(Producer) -> Given + 'g;

/// Whether the contents can be read, or nobody knows them yet.
fn is_at_hand(view: &View<'_>, artifact: &Artifact) -> bool {
    let digest = &artifact.digest;
    let intake = view.files.intake();
    intake.places.contains_key(digest)
        || intake.absent.contains_key(digest)
        || view.unknown.contains(digest)
        || view.cache.contains(digest, artifact.size)
}

/// What to restore so that the stage `reader` can read `needed`, each stage after those it needs itself. What no stage made
/// that does not keep its outputs is left alone. `distrusted`: what `out/` only seems to show.
pub(crate) fn plan(
    view: &View<'_>,
    reader: StageId,
    needed: impl IntoIterator<Item = Artifact>,
    give: &Give<'_>,
    distrusted: &HashSet<Digest>,
) -> Result<Vec<RestorePlan>> {
    let mut missing: HashMap<Digest, StageId> = HashMap::new();
    let lacks = |artifact: &Artifact| !is_at_hand(view, artifact);
    missing.extend(needed.into_iter().filter(lacks).map(|artifact| (artifact.digest, reader)));
    let mut plans = Vec::new();
    // From the reader upwards: what a stage needs to make its outputs again comes from stages before it.
    for id in view.pipeline.needed([reader]).into_iter().rev().filter(|&id| id != reader) {
        let stage = &view.pipeline.stages[id];
        if missing.is_empty() || stage.keep {
            continue;
        }
        let items = match give(Producer::Stage(id)) {
            Given::Whole(tree) => tree.shared(view.cache)?,
            Given::Part(items) => items,
            Given::Nothing => continue,
        };
        let mut plan = RestorePlan { stage: id, reader, from_out: Vec::new(), items: Vec::new(), works: Vec::new() };
        let mut files = None;
        for item in items.iter() {
            let mut is_needed = false;
            for artifact in stage.kind.writes.iter().filter_map(|field| item.fields.get(*field)) {
                let Some(needs_it) = missing.remove(&artifact.digest) else { continue };
                plan.reader = needs_it;
                let files = files.get_or_insert_with(|| files_of(view, id));
                match files.get(&artifact.digest).filter(|_| !distrusted.contains(&artifact.digest)) {
                    Some(file) => plan.from_out.push((artifact.clone(), file.clone())),
                    None => is_needed = true,
                }
            }
            if is_needed {
                plan.items.push(item.clone());
            }
        }
        if !plan.items.is_empty() {
            let (works, needed) = remake(view, id, &plan.items, give)?;
            plan.works = works;
            missing.extend(needed.into_iter().filter(lacks).map(|artifact| (artifact.digest, id)));
        }
        if !plan.items.is_empty() || !plan.from_out.is_empty() {
            plans.push(plan);
        }
    }
    plans.reverse();
    Ok(plans)
}

/// What to restore so that the stage `reader` can read all that it takes.
pub(crate) fn plan_all(view: &View<'_>, reader: StageId, give: &Give<'_>) -> Result<Vec<RestorePlan>> {
    let mut needed = Vec::new();
    for edge in &view.pipeline.stages[reader].edges {
        let items = match give(edge.from) {
            Given::Whole(tree) => tree.shared(view.cache)?,
            Given::Part(items) => items,
            Given::Nothing => continue,
        };
        let read = items.iter().flat_map(|item| edge.reads.reads.iter().filter_map(|field| item.fields.get(*field)));
        needed.extend(read.cloned());
    }
    plan(view, reader, needed, give, &HashSet::new())
}

fn files_of(view: &View<'_>, id: StageId) -> BTreeMap<Digest, Shown> {
    shown::of_stage(view.pipeline, view.cache, id).into_iter().map(|file| (file.digest, file)).collect()
}

/// The pieces of work that made `items`, and what it takes to do them again.
fn remake(view: &View<'_>, id: StageId, items: &[Item], give: &Give<'_>) -> Result<(Vec<KeyedWork>, Vec<Artifact>)> {
    let stage = &view.pipeline.stages[id];
    let decision = decide(view, id, give, Ask::Complete)?;
    if let Form::Whole(_) = stage.stage.form() {
        return Ok((Vec::new(), read_by(view, &decision.basis.taken)?));
    }
    match works_of(view, stage, &decision, items) {
        Ok(works) => {
            let needed = works.iter().flat_map(|keyed| keyed.work.inputs.values().cloned()).collect();
            Ok((works, needed))
        }
        // A stage that reads its inputs to know its works cannot do so before they are here.
        Err(error) => match read_by(view, &decision.basis.taken)? {
            needed if needed.iter().all(|artifact| is_at_hand(view, artifact)) => Err(error),
            needed => Ok((Vec::new(), needed)),
        },
    }
}

/// The pieces of work of an item stage that made `items`, to be done again.
pub(crate) fn works_of(view: &View<'_>, stage: &LoadedStage, decision: &Decision<'_>, items: &[Item]) -> Result<Vec<KeyedWork>> {
    let Form::Items(form) = stage.stage.form() else { return Ok(Vec::new()) };
    let keys: HashSet<Digest> = items.iter().map(|item| item.key).collect();
    let works: Vec<Work> = match &decision.verdict {
        Verdict::Items(works) => works.works.iter().map(|keyed| keyed.work.clone()).collect(),
        Verdict::Fresh { .. } | Verdict::Whole(_) | Verdict::Kept { .. } | Verdict::Waits(_) => {
            form.expand(&resolve(view, &decision.basis.taken, true)?, view.files)?
        }
    };
    let start = decision.basis.identity.work_hash();
    let keyed = works.into_iter().map(|work| {
        let mut hash: KeyHash = start.clone();
        render_work(&work, &mut hash);
        KeyedWork { key: hash.key(), work, state: WorkState::Dirty }
    });
    Ok(keyed.filter(|keyed| keys.contains(&keyed.key)).collect())
}

/// All that a stage reads of what it takes.
pub(crate) fn read_by(view: &View<'_>, taken: &[Taken<'_>]) -> Result<Vec<Artifact>> {
    let mut read = Vec::new();
    for taken in taken {
        let fields = |item: &'_ Item| -> Vec<Artifact> {
            taken.edge.reads.reads.iter().filter_map(|field| item.fields.get(*field).cloned()).collect()
        };
        read.extend(taken.tree.items(view.cache)?.iter().flat_map(fields));
    }
    Ok(read)
}

/// What a stage reads that is about to run.
pub(crate) fn needed_by(view: &View<'_>, decision: &Decision<'_>) -> Result<Vec<Artifact>> {
    match &decision.verdict {
        Verdict::Items(works) => Ok(inputs_of_dirty(works)),
        Verdict::Whole(whole) if whole.key.is_some() => read_by(view, &decision.basis.taken),
        Verdict::Whole(_) | Verdict::Fresh { .. } | Verdict::Kept { .. } | Verdict::Waits(_) => Ok(Vec::new()),
    }
}

/// What pieces of work read that must run.
pub(crate) fn inputs_of_dirty(works: &ItemPlan<'_>) -> Vec<Artifact> {
    let dirty = works.works.iter().filter(|keyed| keyed.state == WorkState::Dirty);
    dirty.flat_map(|keyed| keyed.work.inputs.values().cloned()).collect()
}
