//! How long a run would take, by what the same work took before: a range where it is not known how much there is to do. Unaware of other
//! machines: what was recorded elsewhere counts as if it had run here.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::pipeline::decide::Grounds;
use crate::pipeline::graph::LoadedStage;
use crate::pipeline::item_set;
use crate::pipeline::live::Results;
use crate::pipeline::plan::{PlannedItems, PlannedStage, PlannedState};
use crate::pipeline::stage::Form;

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
    /// Stages that may run and of whose kind nothing is recorded here.
    pub unknown: Vec<String>,
}

/// What pieces of work took, looked up when a stage needs it.
pub(crate) struct Experience<'a> {
    cache: &'a Cache,
    /// Seconds of an item by kind; read from all records when a stage has none of its own.
    by_kind: Option<BTreeMap<String, f64>>,
}

impl Estimate {
    pub const NOTHING: Self = Self { least: 0.0, most: 0.0 };

    pub fn to_json(self) -> Value {
        json!({ "seconds": [self.least, self.most] })
    }
}

impl TotalEstimate {
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

    pub fn to_json(&self) -> Value {
        json!({ "seconds": [self.known.least, self.known.most], "unknown": self.unknown })
    }
}

impl<'a> Experience<'a> {
    pub(crate) const fn new(cache: &'a Cache) -> Self {
        Self { cache, by_kind: None }
    }

    /// What a planned stage takes; `None` if nothing of its kind is recorded, or if it is not known how many items it has.
    pub(crate) fn estimate(
        &mut self,
        stage: &LoadedStage,
        planned: &PlannedStage,
        grounds: &Grounds<'_>,
    ) -> Result<Option<Estimate>> {
        let PlannedItems { dirty, unknown, total, .. } = planned.items;
        if planned.state == PlannedState::Fresh {
            return Ok(Some(Estimate::NOTHING));
        }
        if total == 0 {
            return Ok(None);
        }
        let each = match self.of_last_run(stage, grounds)? {
            Some(each) => each,
            None => match self.of_kind(stage.kind.name())? {
                Some(each) => each,
                None => return Ok(None),
            },
        };
        let side_by_side = match stage.stage.form() {
            Form::Items(_) if !stage.stage.uses_device() => available_parallelism().map_or(1, |count| count.get()),
            _ => 1,
        };
        let seconds = |items: usize| each * items as f64 / side_by_side.min(items.max(1)) as f64;
        Ok(Some(Estimate { least: seconds(dirty), most: seconds(dirty + unknown) }))
    }

    /// Seconds for an item of the stage as the lock names it.
    fn of_last_run(&self, stage: &LoadedStage, grounds: &Grounds<'_>) -> Result<Option<f64>> {
        let Some(row) = grounds.lock.stages.get(&stage.name).and_then(|rows| rows.last()) else { return Ok(None) };
        if let Form::Whole(_) = stage.stage.form() {
            let record = self.cache.lookup(&row.key)?;
            return Ok(record.map(|record| record.seconds / row.items.max(1) as f64));
        }
        let items = self.cache.read(&row.out).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default();
        let step = items.len().div_ceil(SAMPLES).max(1);
        let mut keys: Vec<Digest> = items.iter().step_by(step).map(|item| item.key).collect();
        keys.dedup();
        let mut took = Vec::with_capacity(keys.len());
        for key in keys {
            took.extend(self.cache.lookup(&key)?.map(|record| record.seconds));
        }
        Ok(mean(&took))
    }

    /// Seconds for an item of any stage of the kind that this cache has records of.
    fn of_kind(&mut self, kind: &str) -> Result<Option<f64>> {
        if self.by_kind.is_none() {
            self.by_kind = Some(by_kind(&Results::read(self.cache)?));
        }
        Ok(self.by_kind.as_ref().and_then(|by_kind| by_kind.get(kind)).copied())
    }
}

fn by_kind(results: &Results) -> BTreeMap<String, f64> {
    let mut took: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, made) in &results.by_key {
        for made in made.iter().filter(|made| made.is_complete && made.tree.is_none()) {
            took.entry(made.kind.to_string()).or_default().push(made.seconds);
        }
        // A stage that runs as a whole tells the time of all that it published.
        if let Some(ending) = results.ending_of(key) {
            let published = results.of(key).iter().filter(|made| !made.is_complete).count();
            took.entry(ending.kind.to_string()).or_default().push(ending.seconds / published.max(1) as f64);
        }
    }
    // Records come in no order, and sums of floating-point numbers depend on theirs: the same records are to give the same estimate.
    took.values_mut().for_each(|took| took.sort_unstable_by(f64::total_cmp));
    took.into_iter().filter_map(|(kind, took)| Some((kind, mean(&took)?))).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
