//! How long a run would take, by what like work took before: so much for each unit of its amount, and a range where it is not
//! known how much there is to do. Of what nothing like it was measured, nothing is known. Unaware of other machines: what was
//! recorded elsewhere counts as if it had run here.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::decide::plan::{PlannedStage, PlannedState};
use crate::decide::recorded::EFFORT_FACT;
use crate::decide::results::{Made, Results};
use crate::decide::taken;
use crate::decide::verdict::{Decision, ItemPlan, Verdict, WholePlan, WorkState};
use crate::decide::view::View;
use crate::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::graph::stage_id::StageId;
use crate::kind::input_use::InputShape;
use crate::kind::item_set;
use crate::kind::stage::{Effort, Form, ItemSize};

/// Records of single items that are looked at; more would change little.
const SAMPLES: usize = 64;

/// Seconds, from the least that is to be done to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub least: f64,
    pub most: f64,
}

/// What a whole plan takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TotalEstimate {
    /// Of the stages of which something is recorded.
    pub known: Estimate,
    /// Stages that may run and of which nothing alike was measured here.
    pub unknown: Vec<String>,
}

/// What pieces of work took, looked up when a stage needs it.
pub(crate) struct Experience<'a> {
    cache: &'a Cache,
    /// Seconds for a unit of work, by kind and by what the work was like; read from all records when a stage has none of its own.
    by_kind: Option<BTreeMap<(String, String), f64>>,
}

impl Estimate {
    /// What a fresh stage takes.
    pub const NOTHING: Self = Self { least: 0.0, most: 0.0 };

    /// For one stage in `plan --json`: least and most, in seconds.
    pub fn to_json(self) -> Value {
        json!({ "seconds": [self.least, self.most] })
    }
}

impl TotalEstimate {
    /// Adds up the stages, as if none ran beside another.
    pub fn of(stages: &[PlannedStage]) -> Self {
        let mut total = Self::default();
        for stage in stages {
            match stage.estimate {
                Some(estimate) => {
                    total.known.least += estimate.least;
                    total.known.most += estimate.most;
                }
                None => total.unknown.push(stage.name.clone()),
            }
        }
        total
    }

    /// For the plan as a whole in `plan --json`; `unknown` has the names of stages.
    pub fn to_json(&self) -> Value {
        json!({ "seconds": [self.known.least, self.known.most], "unknown": self.unknown })
    }
}

/// How large the items are that a stage takes, where the settings of a stage before it say so.
pub(crate) fn item_size(pipeline: &Pipeline, id: StageId) -> Option<f64> {
    let mut at = id;
    loop {
        let items = pipeline.stages[at].edges.iter().find(|edge| edge.reads.shape != InputShape::One)?;
        let Producer::Stage(producer) = items.from else { return None };
        match pipeline.stages[producer].stage.item_size() {
            ItemSize::Fixed(size) => return Some(size),
            ItemSize::Varying => return None,
            ItemSize::AsTaken => at = producer,
        }
    }
}

/// How much work a record stands for, as a fact of it.
pub(crate) fn effort_fact(effort: &Effort) -> (String, String) {
    (EFFORT_FACT.to_string(), format!("{} {}", effort.amount, effort.like))
}

/// What `effort_fact` wrote, if it did.
pub(crate) fn effort_of(facts: &BTreeMap<String, String>) -> Option<Effort> {
    let (amount, like) = facts.get(EFFORT_FACT)?.split_once(' ')?;
    let amount = amount.parse().ok().filter(|amount: &f64| amount.is_finite() && *amount > 0.0)?;
    Some(Effort { amount, like: like.to_string() })
}

/// How much there is to do of one sort of work.
#[derive(Default)]
struct ToDo {
    like: String,
    /// That must be done.
    dirty: f64,
    /// That may have to be done.
    unknown: f64,
    /// Pieces that must be done, and that may have to be.
    pieces: [usize; 2],
}

impl<'a> Experience<'a> {
    /// Reads no record yet.
    pub(crate) const fn new(cache: &'a Cache) -> Self {
        Self { cache, by_kind: None }
    }

    /// What a planned stage takes; `None` if nothing like it was measured, or if it is not known how much there is to do.
    pub(crate) fn estimate(
        &mut self,
        id: StageId,
        decision: &Decision<'_>,
        planned: &PlannedStage,
        view: &View<'_>,
    ) -> Result<Option<Estimate>> {
        if planned.state == PlannedState::Fresh {
            return Ok(Some(Estimate::NOTHING));
        }
        let stage = &view.pipeline.stages[id];
        let item_size = item_size(view.pipeline, id);
        let to_do = match &decision.verdict {
            Verdict::Items(works) => of_works(stage, works, item_size),
            Verdict::Whole(whole) => of_whole(stage, whole, decision, view, item_size)?,
            Verdict::Fresh { .. } | Verdict::Kept { .. } | Verdict::Waits(_) => None,
        };
        let Some(to_do) = to_do else { return Ok(None) };
        let Some(each) = self.seconds_each(stage, &to_do.like, view)? else { return Ok(None) };
        let side_by_side = match stage.stage.form() {
            Form::Items(_) if !stage.stage.uses_device() => available_parallelism().map_or(1, |count| count.get()),
            Form::Items(_) | Form::Whole(_) => 1,
        };
        let seconds = |amount: f64, pieces: usize| each * amount / side_by_side.min(pieces.max(1)) as f64;
        let [dirty, unknown] = to_do.pieces;
        let least = seconds(to_do.dirty, dirty);
        Ok(Some(Estimate { least, most: seconds(to_do.dirty + to_do.unknown, dirty + unknown) }))
    }

    /// Seconds for a unit of work: of the stage as the lock names it, else of any stage of its kind.
    fn seconds_each(&mut self, stage: &LoadedStage, like: &str, view: &View<'_>) -> Result<Option<f64>> {
        match self.of_last_run(stage, like, view)? {
            Some(each) => Ok(Some(each)),
            None => self.of_kind(stage.kind.name, like),
        }
    }

    fn of_last_run(&self, stage: &LoadedStage, like: &str, view: &View<'_>) -> Result<Option<f64>> {
        let Some(row) = view.lock.stages.get(&stage.name).and_then(|rows| rows.last()) else { return Ok(None) };
        let each = |seconds: f64, effort: Option<Effort>, otherwise: f64| {
            let effort = effort.unwrap_or(Effort { amount: otherwise, ..Effort::default() });
            (effort.like == like).then_some(seconds / effort.amount)
        };
        if let Form::Whole(_) = stage.stage.form() {
            let record = self.cache.lookup(&row.key)?;
            return Ok(record.and_then(|record| each(record.seconds, effort_of(&record.facts), row.items.max(1) as f64)));
        }
        let items = self.cache.read_list(&row.out).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default();
        let step = items.len().div_ceil(SAMPLES).max(1);
        let mut keys: Vec<Digest> = items.iter().step_by(step).map(|item| item.key).collect();
        keys.dedup();
        let mut took = Vec::with_capacity(keys.len());
        for key in keys {
            let record = self.cache.lookup(&key)?;
            took.extend(record.and_then(|record| each(record.seconds, effort_of(&record.facts), 1.0)));
        }
        Ok(mean(&took))
    }

    fn of_kind(&mut self, kind: &str, like: &str) -> Result<Option<f64>> {
        if self.by_kind.is_none() {
            self.by_kind = Some(by_kind(&Results::read(self.cache)?));
        }
        let by_kind = self.by_kind.as_ref().expect("just read");
        Ok(by_kind.get(&(kind.to_string(), like.to_string())).copied())
    }
}

/// `None` where the work is of several sorts, or is not known.
fn of_works(stage: &LoadedStage, works: &ItemPlan<'_>, item_size: Option<f64>) -> Option<ToDo> {
    let Form::Items(form) = stage.stage.form() else { return None };
    let mut to_do: Option<ToDo> = None;
    for keyed in &works.works {
        let may_be_done = matches!(keyed.state, WorkState::Unknown);
        if !may_be_done && !matches!(keyed.state, WorkState::Dirty | WorkState::Broken(_)) {
            continue;
        }
        let effort = form.effort(&keyed.work, item_size)?;
        let to_do = to_do.get_or_insert_with(|| ToDo { like: effort.like.clone(), ..ToDo::default() });
        if to_do.like != effort.like {
            return None;
        }
        *(if may_be_done { &mut to_do.unknown } else { &mut to_do.dirty }) += effort.amount;
        to_do.pieces[usize::from(may_be_done)] += 1;
    }
    to_do
}

/// What is left of a stage that runs as a whole.
fn of_whole(
    stage: &LoadedStage,
    whole: &WholePlan<'_>,
    decision: &Decision<'_>,
    view: &View<'_>,
    item_size: Option<f64>,
) -> Result<Option<ToDo>> {
    let Form::Whole(form) = stage.stage.form() else { return Ok(None) };
    let Some(effort) = form.effort(&taken::resolve(view, &decision.basis.taken, whole.key.is_some())?, item_size) else {
        return Ok(None);
    };
    let left = effort.amount * (1.0 - whole.done);
    let (dirty, unknown) = if whole.key.is_some() { (left, 0.0) } else { (0.0, left) };
    Ok(Some(ToDo { like: effort.like, dirty, unknown, pieces: [1, 0] }))
}

fn by_kind(results: &Results) -> BTreeMap<(String, String), f64> {
    let mut took: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    let mut add = |made: &Made, otherwise: f64| {
        let effort = made.effort.clone().unwrap_or(Effort { amount: otherwise, ..Effort::default() });
        took.entry((made.kind.to_string(), effort.like)).or_default().push(made.seconds / effort.amount);
    };
    for (key, made) in &results.by_key {
        made.iter().filter(|made| made.is_complete && made.tree.is_none()).for_each(|made| add(made, 1.0));
        // A stage that runs as a whole tells the time of all that it published.
        if let Some(ending) = results.ending_of(key) {
            let published = results.of(key).iter().filter(|made| !made.is_complete).count();
            add(ending, published.max(1) as f64);
        }
    }
    // Records come in no order, and sums of floating-point numbers depend on theirs: the same records are to give the same
    // estimate.
    took.values_mut().for_each(|took| took.sort_unstable_by(f64::total_cmp));
    took.into_iter().filter_map(|(kind, took)| Some((kind, mean(&took)?))).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
