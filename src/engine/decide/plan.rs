//! What a run would do, without running anything: the same decision as in a run, with stand-ins for what nobody knows yet. Hashes
//! inputs and reads the cache.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::decide::decision;
use crate::decide::decision::in_stage;
use crate::decide::estimate::{Estimate, Experience, TotalEstimate};
use crate::decide::files::ArtifactFiles;
use crate::decide::intake::read_inputs;
use crate::decide::intake::unknown_digest;
use crate::decide::lints;
use crate::decide::lints::{Lints, UnstoredTexts};
use crate::decide::outputs::{edited_item, items_of};
use crate::decide::reason::Reason;
use crate::decide::restore_plan;
use crate::decide::restore_plan::RestorePlan;
use crate::decide::taken;
use crate::decide::verdict::{Decision, ItemPlan, Verdict, WholePlan, WorkState};
use crate::decide::view::View;
use crate::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::graph::selection::Selection;
use crate::graph::stage_id::StageId;
use crate::kind::item::{Artifact, Fields, Item, ItemSet};
use crate::kind::item_tree::{Given, ItemTree};
use crate::kind::stage::{Form, Work};
use crate::lock_file::LockFile;

/// What a run would make of a stage: nothing, something, or what depends on stages before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedState {
    Fresh,
    Dirty,
    Unknown,
}

/// How many pieces of work a stage has, by state. Of a whole stage, and of any that is fresh, outputs are counted instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedItems {
    pub total: usize,
    pub fresh: usize,
    pub dirty: usize,
    pub unknown: usize,
}

/// What a run would do of one stage.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    pub name: String,
    pub kind: &'static str,
    pub state: PlannedState,
    pub items: PlannedItems,
    pub reasons: Vec<Reason>,
    /// Names of the pieces of work that would run.
    pub dirty: Vec<String>,
    /// The run leaves it out although there are reasons to run it: it gives what it gave last.
    pub is_kept: bool,
    /// What it would remark on its inputs. Found by `plan` alone.
    pub lints: Lints,
    /// How long it would take; `None` if nobody knows. Found by `plan` alone.
    pub estimate: Option<Estimate>,
}

/// What a run would do, by the inputs, texts and records as they were when they were read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order in which they would run.
    pub stages: Vec<PlannedStage>,
}

impl Plan {
    /// Whether a run would have nothing to do.
    pub fn is_fresh(&self) -> bool {
        self.stages.iter().all(|stage| stage.state == PlannedState::Fresh)
    }

    /// Finds a stage by its full name; `None` if the run would not look at it.
    pub fn stage(&self, name: &str) -> Option<&PlannedStage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The contract of `plan --json`.
    pub fn to_json(&self) -> serde_json::Value {
        let stages: Vec<serde_json::Value> = self
            .stages
            .iter()
            .map(|stage| {
                let mut value = json!({
                    "name": stage.name,
                    "kind": stage.kind,
                    "state": stage.state.word(),
                    "items": {
                        "total": stage.items.total,
                        "fresh": stage.items.fresh,
                        "dirty": stage.items.dirty,
                        "unknown": stage.items.unknown,
                    },
                    "reasons": stage.reasons.iter().map(Reason::to_json).collect::<Vec<_>>(),
                    "lints": stage.lints.to_json(),
                    "estimate": stage.estimate.map(Estimate::to_json),
                });
                if stage.is_kept {
                    value["kept"] = true.into();
                }
                value
            })
            .collect();
        json!({ "stages": stages, "estimate": self.estimate().to_json() })
    }

    /// How long all of it would take.
    pub fn estimate(&self) -> TotalEstimate {
        TotalEstimate::of(&self.stages)
    }
}

impl PlannedState {
    /// As `plan --json` writes it.
    pub const fn word(self) -> &'static str {
        match self {
            PlannedState::Fresh => "fresh",
            PlannedState::Dirty => "dirty",
            PlannedState::Unknown => "unknown",
        }
    }

    /// Dirty if anything is, else unknown if anything is.
    fn of(items: PlannedItems) -> Self {
        match items {
            PlannedItems { dirty: 1.., .. } => Self::Dirty,
            PlannedItems { unknown: 1.., .. } => Self::Unknown,
            _ => Self::Fresh,
        }
    }
}

/// What a run would do.
pub fn plan(pipeline: &Pipeline, cache: &Cache, selection: &Selection) -> Result<Plan> {
    let mut stages = Vec::new();
    let mut unstored = None;
    let mut experience = Experience::new(cache);
    let walked = walk(pipeline, cache, selection, &mut |id, decision, planned, view| {
        let mut planned = planned.clone();
        if !matches!(decision.verdict, Verdict::Fresh { .. } | Verdict::Kept { .. } | Verdict::Waits(_)) {
            let unstored = match &mut unstored {
                Some(unstored) => unstored,
                none => none.insert(UnstoredTexts::find(view)?),
            };
            planned.lints = lints::of_stage(view, &pipeline.stages[id], decision, unstored)?;
        }
        planned.estimate = experience.estimate(id, decision, &planned, view)?;
        stages.push(planned);
        Ok(())
    })?;
    // Stages that could not even be decided come with the names of those they wait for.
    for (place, planned) in walked.undecided {
        stages.insert(place, planned);
    }
    for (id, again) in walked.again {
        let stage = &pipeline.stages[id];
        stages.iter_mut().filter(|planned| planned.name == stage.name).for_each(|planned| again.show_in(stage, planned));
    }
    Ok(Plan { stages })
}

/// What a walk finds beyond the decisions.
#[derive(Default)]
pub struct Walked {
    /// Stages of which nothing is known before others have ended, with their places.
    undecided: Vec<(usize, PlannedStage)>,
    /// Stages that are fresh, did not keep their outputs, and must make some again for others.
    again: BTreeMap<StageId, Again>,
}

/// What is made again for others.
#[derive(Default)]
struct Again {
    names: BTreeSet<String>,
    reasons: Vec<Reason>,
}

impl Walked {
    /// A stage of which nothing is known before others have ended, with its place.
    pub(crate) fn stage(&mut self, name: &str) -> Option<(usize, PlannedStage)> {
        let at = self.undecided.iter().position(|(_, planned)| planned.name == name)?;
        Some(self.undecided.swap_remove(at))
    }

    fn note(&mut self, pipeline: &Pipeline, plans: &[RestorePlan]) {
        for restore in plans.iter().filter(|restore| !restore.items.is_empty()) {
            let again = self.again.entry(restore.stage).or_default();
            again.names.extend(restore.names(&pipeline.stages));
            let reason = restore.reason(&pipeline.stages);
            if !again.reasons.contains(&reason) {
                again.reasons.push(reason);
            }
        }
    }
}

impl Again {
    fn show_in(&self, stage: &LoadedStage, planned: &mut PlannedStage) {
        let items = &mut planned.items;
        let count = match stage.stage.form() {
            Form::Items(_) => self.names.len().min(items.fresh),
            Form::Whole(_) => items.fresh,
        };
        items.fresh -= count;
        items.dirty += count;
        planned.state = PlannedState::of(planned.items);
        planned.dirty.extend(self.names.iter().cloned());
        planned.reasons.extend(self.reasons.iter().cloned());
    }
}

/// Sees each decision of a plan in turn: the stage, the decision, what it means, and what it was made from.
pub type See<'s> = dyn FnMut(StageId, &Decision<'_>, &PlannedStage, &View<'_>) -> Result<()> + 's;

/// Decides stage after stage.
pub fn walk(pipeline: &Pipeline, cache: &Cache, selection: &Selection, see: &mut See<'_>) -> Result<Walked> {
    let lock = LockFile::read(&pipeline.lock_file())?;
    let needed = selection.needed(pipeline);
    let intake = read_inputs(pipeline, &needed, cache, &lock)?;
    let mut unknown: HashSet<Digest> = HashSet::new();
    let mut given: BTreeMap<StageId, Given> = BTreeMap::new();
    let mut walked = Walked::default();
    let mut promised: HashMap<Digest, String> = HashMap::new();
    for (place, id) in needed.into_iter().enumerate() {
        let stage = &pipeline.stages[id];
        let files = ArtifactFiles::new(cache, &intake);
        let view = &View { pipeline, cache, files: &files, lock: &lock, requested: &selection.targets, unknown: &unknown };
        let give = |producer: Producer| match producer {
            Producer::Input(input) => intake.given.get(&input).cloned().unwrap_or(Given::Nothing),
            Producer::Stage(stage) => given.get(&stage).cloned().unwrap_or(Given::Nothing),
        };
        let waits_for_unknown = stage.edges.iter().any(|edge| matches!(give(edge.from), Given::Part(_) | Given::Nothing));
        let mut decision = match decision::decide(view, id, &give, selection.ask(id)) {
            Ok(decision) => decision,
            // A stage that reads its inputs to know its works cannot do so before they are there.
            Err(error) => {
                let plans = restore_plan::plan_all(view, id, &give)?;
                if !waits_for_unknown && plans.is_empty() {
                    return in_stage(stage, Err(error));
                }
                walked.note(pipeline, &plans);
                let producers = pipeline.producers(id).map(|p| pipeline.stages[p].name.clone()).collect();
                walked.undecided.push((place, waiting(stage, producers)));
                continue;
            }
        };
        if !selection.ask(id).is_forced() {
            leave_to_others(stage, &mut decision.verdict, &mut promised);
        }
        let needed = restore_plan::needed_by(view, &decision)?;
        walked.note(pipeline, &restore_plan::plan(view, id, needed, &give, &HashSet::new())?);
        let (planned, gives) = foresee(stage, &decision, view)?;
        see(id, &decision, &planned, view)?;
        let mut stand_ins = Vec::new();
        if let Given::Part(items) = &gives {
            for item in items.iter() {
                let is_stand_in =
                    |field: &str, artifact: &Artifact| artifact.digest == unknown_digest(&stage.name, &item.name, field);
                let new = item.fields.iter().filter(|(field, artifact)| is_stand_in(field, artifact));
                stand_ins.extend(new.map(|(_, artifact)| artifact.digest));
            }
        }
        unknown.extend(stand_ins);
        given.insert(id, gives);
    }
    cache.save_stat_index()?;
    Ok(walked)
}

/// What a stage before makes as well is made once: variants often have work in common.
fn leave_to_others(stage: &LoadedStage, verdict: &mut Verdict, promised: &mut HashMap<Digest, String>) {
    let mut others: Vec<Reason> = Vec::new();
    let mut is_left = |key: &Digest| match promised.get(key) {
        Some(other) => {
            let reason = Reason::WaitsFor { stage: other.clone() };
            if !others.contains(&reason) {
                others.push(reason);
            }
            true
        }
        None => {
            promised.insert(*key, stage.name.clone());
            false
        }
    };
    match verdict {
        Verdict::Items(works) => {
            for work in works.works.iter_mut().filter(|work| work.state == WorkState::Dirty) {
                if is_left(&work.key) {
                    work.state = WorkState::Unknown;
                }
            }
            if !works.works.iter().any(|work| matches!(work.state, WorkState::Dirty | WorkState::Broken(_))) && !others.is_empty()
            {
                works.reasons = others;
            }
        }
        Verdict::Whole(whole) if whole.key.is_some_and(|key| is_left(&key)) => {
            *whole = WholePlan::from_the_start(whole.form, None, None, others);
        }
        Verdict::Whole(_) | Verdict::Fresh { .. } | Verdict::Kept { .. } | Verdict::Waits(_) => {}
    }
}

/// A stage of which nothing is known before others have ended.
fn waiting(stage: &LoadedStage, producers: Vec<String>) -> PlannedStage {
    PlannedStage {
        name: stage.name.clone(),
        kind: stage.kind.name,
        state: PlannedState::Unknown,
        items: PlannedItems::default(),
        reasons: producers.into_iter().map(|stage| Reason::WaitsFor { stage }).collect(),
        dirty: Vec::new(),
        is_kept: false,
        lints: Lints::default(),
        estimate: None,
    }
}

/// What becomes of a stage, and what it gives as far as that is known.
fn foresee(stage: &LoadedStage, decision: &Decision<'_>, view: &View<'_>) -> Result<(PlannedStage, Given)> {
    let mut planned = waiting(stage, Vec::new());
    let given = match &decision.verdict {
        Verdict::Fresh { tree, .. } => {
            planned.items = PlannedItems { total: tree.count, fresh: tree.count, ..PlannedItems::default() };
            planned.state = PlannedState::Fresh;
            Given::Whole(tree.clone())
        }
        Verdict::Kept { tree, reasons } => {
            planned.items = PlannedItems { total: tree.count, fresh: tree.count, ..PlannedItems::default() };
            planned.state = PlannedState::Fresh;
            planned.reasons.clone_from(reasons);
            planned.is_kept = true;
            Given::Whole(tree.clone())
        }
        Verdict::Waits(reasons) => {
            planned.reasons.clone_from(reasons);
            Given::Nothing
        }
        Verdict::Items(works) => foresee_items(stage, works, &mut planned),
        Verdict::Whole(whole) => {
            let resolved = taken::resolve(view, &decision.basis.taken, false)?;
            foresee_whole(stage, whole, whole.form.forecast(&resolved), &mut planned)
        }
    };
    Ok((planned, given))
}

/// What an item stage will give: the items that are here, and stand-ins for those that must be made.
fn foresee_items(stage: &LoadedStage, works: &ItemPlan<'_>, planned: &mut PlannedStage) -> Given {
    let count = |state: fn(&WorkState) -> bool| works.works.iter().filter(|work| state(&work.state)).count();
    planned.items = PlannedItems {
        total: works.works.len(),
        fresh: count(|state| matches!(state, WorkState::Fresh(_) | WorkState::Edited(_))),
        dirty: count(|state| matches!(state, WorkState::Dirty | WorkState::Broken(_))),
        unknown: count(|state| *state == WorkState::Unknown),
    };
    planned.state = PlannedState::of(planned.items);
    planned.reasons.clone_from(&works.reasons);
    planned.dirty = works.works.iter().filter(|w| w.state == WorkState::Dirty).map(|w| w.work.name.clone()).collect();
    let mut items = ItemSet::new();
    for work in &works.works {
        match &work.state {
            WorkState::Fresh(outputs) => items.extend(items_of(&work.work, work.key, outputs)),
            WorkState::Edited(fields) => items.push(edited_item(&work.work, work.key, fields)),
            WorkState::Dirty | WorkState::Unknown | WorkState::Broken(_) => {
                items.extend(works.form.outputs(&work.work).into_iter().map(|name| stand_in(stage, &work.work, name)));
            }
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    if planned.state == PlannedState::Fresh && works.key.is_some() {
        Given::Whole(ItemTree::of(items))
    } else {
        Given::Part(Arc::new(items))
    }
}

/// What a whole stage will give by its forecast; what an interrupted run has published counts as done.
fn foresee_whole(
    stage: &LoadedStage,
    whole: &WholePlan<'_>,
    foreseen: Vec<(String, BTreeMap<String, String>)>,
    planned: &mut PlannedStage,
) -> Given {
    let total = foreseen.len().max(1);
    let is_known = whole.key.is_some();
    planned.state = if is_known { PlannedState::Dirty } else { PlannedState::Unknown };
    let fresh = whole.published.len().min(total.saturating_sub(1));
    let left = total - fresh;
    let (dirty, unknown) = if is_known { (left, 0) } else { (0, left) };
    planned.items = PlannedItems { total, fresh, dirty, unknown };
    planned.reasons.clone_from(&whole.reasons);
    if is_known {
        planned.dirty.push(stage.name.clone());
    }
    let items = foreseen
        .into_iter()
        .map(|(name, attributes)| {
            let work = Work {
                name: name.clone(),
                origin: None,
                values: BTreeMap::new(),
                inputs: Fields::new(),
                carry: Fields::new(),
                attributes,
            };
            stand_in(stage, &work, name)
        })
        .collect();
    Given::Part(Arc::new(items))
}

/// An item that a stage will make, with contents that nobody knows yet.
fn stand_in(stage: &LoadedStage, work: &Work, name: String) -> Item {
    let mut fields = work.carry.clone();
    for field in stage.kind.writes {
        let digest = unknown_digest(&stage.name, &name, field);
        fields.insert((*field).into(), Artifact { digest, size: 0, extension: Default::default() });
    }
    let key = unknown_digest(&stage.name, &name, "key");
    Item { name, origin: work.origin.clone(), fields, attributes: work.attributes.clone(), key }
}
