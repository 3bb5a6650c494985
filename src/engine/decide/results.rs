//! What the records of a cache tell of the past: what was made, from what, and what it cost. Unaware of what is still needed.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::cache::records::{Completeness, Record};
use crate::decide::estimate::effort_of;
use crate::decide::recorded::{STAGE_FACT, TREE_FIELD};
use crate::kind::stage::Effort;

/// All records of a cache, as far as they tell what needs what and what it cost.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) by_key: HashMap<Digest, Vec<Made>>,
    /// Records that this version cannot read: nobody knows what they need.
    pub(crate) unreadable: usize,
}

/// What one record says.
pub(crate) struct Made {
    pub(crate) is_complete: bool,
    pub(crate) kind: Rc<str>,
    /// The outputs but for trees.
    pub(crate) artifacts: Vec<Digest>,
    /// Of these, what was not among the inputs: a picture beside its mirror image is nobody's work.
    pub(crate) own: Vec<Digest>,
    pub(crate) tree: Option<Digest>,
    /// The lists of what was read: they tell what has changed since.
    pub(crate) input_trees: Vec<Digest>,
    pub(crate) seconds: f64,
    pub(crate) effort: Option<Effort>,
    /// Of an output that was published before the end: the key of the stage that was running.
    pub(crate) stage: Option<Digest>,
}

impl Results {
    /// Reads every record; one that this version cannot read is only counted. An error if the log cannot be read.
    pub(crate) fn read(cache: &Cache) -> Result<Self> {
        let mut results = Self::default();
        let mut kinds: HashSet<Rc<str>> = HashSet::new();
        results.unreadable = cache.each_record(&mut |completeness, record| {
            let made = Made::of(completeness, &record, &mut kinds);
            results.by_key.entry(record.key).or_default().push(made);
        })?;
        Ok(results)
    }

    /// All records of a key, in the order of the log; empty if there is none.
    pub(crate) fn of(&self, key: &Digest) -> &[Made] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// The record of the stage that published under this state key, if the last run of it came to its end.
    pub(crate) fn ending_of(&self, state_key: &Digest) -> Option<&Made> {
        let last = self.of(state_key).iter().rfind(|made| !made.is_complete)?;
        self.of(&last.stage?).iter().find(|made| made.is_complete)
    }

    /// Whether a run published under this state key before the stage ended.
    pub(crate) fn has_published(&self, key: &Digest) -> bool {
        self.of(key).iter().any(|made| !made.is_complete)
    }
}

impl Made {
    fn of(completeness: Completeness, record: &Record, kinds: &mut HashSet<Rc<str>>) -> Self {
        let components = ComponentList::from_record(&record.components);
        let name = components.section(Section::Kind).next().map_or("", |kind| kind.name.as_str());
        let kind = match kinds.get(name) {
            Some(kind) => Rc::clone(kind),
            None => {
                let kind: Rc<str> = name.into();
                kinds.insert(Rc::clone(&kind));
                kind
            }
        };
        let fields = record.outputs.iter().flat_map(|output| &output.fields);
        let (trees, others): (Vec<_>, Vec<_>) = fields.partition(|(field, _)| *field == TREE_FIELD);
        let tree_of = |covered: &Covered| match covered {
            Covered::Set { tree, .. } => *tree,
            Covered::Value(_) | Covered::Artifact(_) => None,
        };
        let reads = |digest: &Digest| {
            let mut inputs = components.section(Section::Input);
            inputs.any(|input| input.covered == Covered::Artifact(*digest))
        };
        let artifacts: Vec<Digest> = others.into_iter().map(|(_, artifact)| artifact.digest).collect();
        Self {
            is_complete: completeness == Completeness::Complete,
            kind,
            own: artifacts.iter().copied().filter(|digest| !reads(digest)).collect(),
            artifacts,
            tree: trees.first().map(|(_, artifact)| artifact.digest),
            input_trees: components.section(Section::Input).filter_map(|component| tree_of(&component.covered)).collect(),
            seconds: record.seconds.max(0.0),
            effort: effort_of(&record.facts),
            stage: record.facts.get(STAGE_FACT).and_then(|stage| stage.parse().ok()),
        }
    }
}
