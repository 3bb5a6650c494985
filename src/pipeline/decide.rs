//! Decides what of a stage is there already and what must run. `plan` asks it without running anything, `execute` asks it for each stage
//! whose inputs are there: what a plan says is what a run does. Unaware of how stages are run.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Covers, KeyHash, Purpose, Rendering, Section};
use crate::cache::records::Output;
use crate::edits::Editing;
use crate::pipeline::context::ArtifactFiles;
use crate::pipeline::freshness::{Reason, changed_items, changed_params};
use crate::pipeline::graph::{Edge, LoadedStage, Pipeline, Producer};
use crate::pipeline::item::{Artifact, Item};
use crate::pipeline::item_set;
use crate::pipeline::item_tree::{Given, ItemTree};
use crate::pipeline::keys::{KeyedInput, StageIdentity, members, render_inputs, render_work};
use crate::pipeline::lock_file::LockFile;
use crate::pipeline::recorded::Row;
use crate::pipeline::resolve::{Waiting, take, takes_all};
use crate::pipeline::stage::{Form, ItemStage, Resolved, WholeStage, Work};
use crate::pipeline::texts;

/// What a decision rests on.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub files: &'a ArtifactFiles<'a>,
    /// As it was when the run began.
    pub lock: &'a LockFile,
    /// Digests that stand for contents that nobody knows yet.
    pub unknown: &'a HashSet<Digest>,
}

/// An input of a stage, after selection.
pub struct Taken<'a> {
    pub edge: &'a Edge,
    pub tree: ItemTree,
}

/// The inputs of a stage, as far as they are there.
enum Inputs<'a> {
    There {
        taken: Vec<Taken<'a>>,
        /// Whether these are all items.
        complete: bool,
    },
    Awaited(Vec<Reason>),
}

pub struct Decision<'a> {
    pub identity: StageIdentity,
    pub taken: Vec<Taken<'a>>,
    pub verdict: Verdict,
}

pub enum Verdict {
    /// All outputs are here. `recorded`: the lock has this row already.
    Fresh {
        key: Digest,
        tree: ItemTree,
        recorded: bool,
        ended: Option<String>,
    },
    Works(Works),
    Whole(Whole),
    /// Nothing can be said before something else is there.
    Waits(Vec<Reason>),
}

/// An item stage that is not known to be fresh as a whole.
pub struct Works {
    /// Of the row; `None` if not all inputs are there.
    pub key: Option<Digest>,
    pub works: Vec<KeyedWork>,
    /// Why any of them must run.
    pub reasons: Vec<Reason>,
}

pub struct KeyedWork {
    pub work: Work,
    pub key: Digest,
    pub state: WorkState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WorkState {
    Fresh(Vec<Output>),
    Dirty,
    Unknown,
    /// A person wrote the text; the machine is not asked. Holds the fields that people wrote.
    Edited(BTreeMap<String, Artifact>),
    /// What a person wrote cannot be used: says why.
    Broken(String),
}

/// A whole stage that must run, or of which that is not known.
pub struct Whole {
    /// `None` if not all inputs are known.
    pub key: Option<Digest>,
    pub state_key: Option<Digest>,
    pub reasons: Vec<Reason>,
    /// By an interrupted run that this one goes on from.
    pub published: Vec<Output>,
    /// Some of what an interrupted run published is lost: nothing of it may be used.
    pub start_over: bool,
}

impl<'a> Grounds<'a> {
    /// What must run of the stage at `index`, whose producers give what `given` says.
    pub fn decide(&self, index: usize, given: &dyn Fn(Producer) -> Given, forced: bool) -> Result<Decision<'a>> {
        let stage = &self.pipeline.stages[index];
        let identity = StageIdentity::of(stage);
        let (taken, complete) = match self.take_all(stage, given)? {
            Inputs::There { taken, complete } => (taken, complete),
            Inputs::Awaited(reasons) => {
                return Ok(Decision { identity, taken: Vec::new(), verdict: Verdict::Waits(reasons) });
            }
        };
        let verdict = match stage.stage.form() {
            Form::Items(form) => self.decide_items(stage, form, &identity, &taken, complete, forced)?,
            Form::Whole(form) => self.decide_whole(stage, form, &identity, &taken, complete, forced)?,
        };
        Ok(Decision { identity, taken, verdict })
    }

    /// The inputs after selection, and whether they are all there.
    fn take_all(&self, stage: &'a LoadedStage, given: &dyn Fn(Producer) -> Given) -> Result<Inputs<'a>> {
        let mut taken = Vec::with_capacity(stage.edges.len());
        let mut complete = true;
        let mut waits = Vec::new();
        for edge in &stage.edges {
            let producer = || edge.reads.reference.name.clone();
            let (items, whole) = match given(edge.from) {
                Given::Nothing => {
                    waits.push(Reason::WaitsFor { stage: producer() });
                    continue;
                }
                Given::Part(_) if matches!(edge.from, Producer::Input(_)) => {
                    waits.push(Reason::InputAbsent { input: producer() });
                    continue;
                }
                Given::Whole(tree) if matches!(edge.from, Producer::Stage(_)) && takes_all(&edge.reads, &self.pipeline.skip) => {
                    taken.push(Taken { edge, tree });
                    continue;
                }
                Given::Whole(tree) => (tree.items(self.cache)?.to_vec(), true),
                Given::Part(items) => (items.as_ref().clone(), false),
            };
            match take(&edge.reads, &items, whole, &self.pipeline.skip, self.pipeline.pick)? {
                Ok(items) => {
                    complete &= whole;
                    taken.push(Taken { edge, tree: ItemTree::of(items) });
                }
                Err(Waiting::ForAPick) => waits.push(Reason::NothingPicked { input: producer() }),
                Err(Waiting::ForMore) => waits.push(Reason::WaitsFor { stage: producer() }),
            }
        }
        Ok(if waits.is_empty() { Inputs::There { taken, complete } } else { Inputs::Awaited(waits) })
    }

    fn decide_items(
        &self,
        stage: &'a LoadedStage,
        form: &dyn ItemStage,
        identity: &StageIdentity,
        taken: &[Taken<'_>],
        complete: bool,
        forced: bool,
    ) -> Result<Verdict> {
        let editable = stage.stage.editable();
        let editing = match &editable {
            Some(editable) => Some(texts::read(self.pipeline, self.cache, self.lock, stage, editable)?),
            None => None,
        };
        let texts = editing.as_ref().map(Editing::contents_digest);
        let key = if complete { Some(row_key(stage, identity, taken, texts)) } else { None };
        let mut lost = Vec::new();
        if let Some(key) = key
            && !forced
        {
            match self.find_row(stage, &key)? {
                Some(Row { lost: row_lost, tree, recorded, ended }) if row_lost.is_empty() => {
                    return Ok(Verdict::Fresh { key, tree, recorded, ended });
                }
                Some(row) => lost = row.lost,
                None => {}
            }
        }
        let resolved = self.resolve(taken, complete)?;
        let works = form.expand(&resolved, self.files)?;
        // Whose text a file is can only be told from what the machine wrote, so a forced stage looks that up all the same.
        let mut works = self.look_up(stage, identity, works, forced && editing.is_none())?;
        if let (Some(editing), Some(editable)) = (&editing, &editable) {
            texts::judge(editing, editable, &mut works, forced);
        }
        let must_run = |work: &&KeyedWork| matches!(work.state, WorkState::Dirty | WorkState::Broken(_));
        let dirty: Vec<&str> = works.iter().filter(must_run).map(|w| w.work.name.as_str()).collect();
        let reasons = if dirty.is_empty() {
            self.waits_of(taken)
        } else if forced {
            vec![Reason::Forced]
        } else {
            let mut reasons = self.reasons(stage, identity, taken)?;
            if !lost.is_empty() {
                reasons.push(Reason::OutputsLost { total: works.len(), items: lost });
            }
            if reasons.is_empty() {
                let items = dirty.into_iter().map(str::to_string).collect();
                reasons.push(Reason::NoResult { items, total: works.len() });
            }
            reasons
        };
        Ok(Verdict::Works(Works { key, works, reasons }))
    }

    fn decide_whole(
        &self,
        stage: &'a LoadedStage,
        form: &dyn WholeStage,
        identity: &StageIdentity,
        taken: &[Taken<'_>],
        complete: bool,
        forced: bool,
    ) -> Result<Verdict> {
        if !complete || self.reads_unknown(taken)? {
            let reasons = self.waits_of(taken);
            return Ok(Verdict::Whole(Whole { key: None, state_key: None, reasons, published: Vec::new(), start_over: false }));
        }
        let mut hash = KeyHash::new(Purpose::Stage);
        let mut state_hash = KeyHash::new(Purpose::State);
        identity.render(&mut hash);
        identity.render_without(form.horizon_components(), &mut state_hash);
        let keyed = self.keyed(taken)?;
        render_inputs(&keyed, &mut hash);
        render_inputs(&keyed, &mut state_hash);
        let (key, state_key) = (hash.key(), state_hash.key());

        let mut reasons = Vec::new();
        if forced {
            reasons.push(Reason::Forced);
            return Ok(Verdict::Whole(Whole {
                key: Some(key),
                state_key: Some(state_key),
                reasons,
                published: Vec::new(),
                start_over: true,
            }));
        }
        match self.find_row(stage, &key)? {
            Some(Row { lost, tree, recorded, ended }) if lost.is_empty() => {
                return Ok(Verdict::Fresh { key, tree, recorded, ended });
            }
            Some(row) => reasons.push(Reason::OutputsLost { total: row.tree.count, items: row.lost }),
            None => {}
        }
        let (published, start_over) = self.published(form, taken, &key, &state_key)?;
        reasons.extend(self.reasons(stage, identity, taken)?);
        if !published.is_empty() {
            reasons = vec![Reason::GoesOn { published: published.len() }];
        }
        Ok(Verdict::Whole(Whole { key: Some(key), state_key: Some(state_key), reasons, published, start_over }))
    }

    /// The inputs as the key of a whole stage sees them.
    fn keyed<'t>(&self, taken: &'t [Taken<'_>]) -> Result<Vec<KeyedInput<'t>>> {
        taken
            .iter()
            .map(|taken| {
                let members = members(taken.tree.items(self.cache)?, taken.edge.reads.reads);
                let param = taken.edge.reads.param.as_str();
                Ok(KeyedInput { param, members, count: taken.tree.count, tree: taken.tree.digest })
            })
            .collect()
    }

    /// The list that the record of the stage keeps.
    pub fn components(&self, stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>]) -> Result<ComponentList> {
        let mut list = ComponentList::default();
        match stage.stage.form() {
            Form::Items(_) => render_row(stage, identity, taken, &mut list),
            Form::Whole(_) => {
                identity.render(&mut list);
                render_inputs(&self.keyed(taken)?, &mut list);
            }
        }
        Ok(list)
    }

    /// The inputs as the stage gets them.
    pub fn resolve(&self, taken: &[Taken<'_>], complete: bool) -> Result<Resolved> {
        let mut resolved = Resolved { complete, ..Resolved::default() };
        for taken in taken {
            resolved.inputs.insert(taken.edge.reads.param.clone(), taken.tree.items(self.cache)?.to_vec());
        }
        Ok(resolved)
    }

    /// Keys of pieces of work, and which of them have a result here.
    pub fn look_up(
        &self,
        stage: &LoadedStage,
        identity: &StageIdentity,
        works: Vec<Work>,
        forced: bool,
    ) -> Result<Vec<KeyedWork>> {
        let mut names = HashSet::with_capacity(works.len());
        if let Some(twice) = works.iter().find(|work| !names.insert(work.name.as_str())) {
            bail!("`{}` would make `{}` twice", stage.name, twice.name);
        }
        let start = identity.work_hash();
        let preferred = self.preferred(stage);
        works
            .into_par_iter()
            .with_min_len(16)
            .map(|work| {
                if work.inputs.values().any(|artifact| self.unknown.contains(&artifact.digest)) {
                    let key = unknown_key(&work);
                    return Ok(KeyedWork { work, key, state: WorkState::Unknown });
                }
                let mut hash = start.clone();
                render_work(&work, &mut hash);
                let key = hash.key();
                let found = if forced { None } else { self.result(&key, &preferred)? };
                let state = found.map_or(WorkState::Dirty, |record| WorkState::Fresh(record.outputs));
                Ok(KeyedWork { work, key, state })
            })
            .collect()
    }

    /// The difference between what the lock's last row was made of and what is there now.
    fn reasons(&self, stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>]) -> Result<Vec<Reason>> {
        if !self.lock.stages.contains_key(&stage.name) {
            return Ok(vec![Reason::NeverRan]);
        }
        let Some(old) = self.last_components(stage)? else {
            return Ok(vec![Reason::NotInThisCache]);
        };
        let new = self.components(stage, identity, taken)?;
        let mut reasons = changed_params(&old, &new);
        for taken in taken {
            let reads = &taken.edge.reads;
            let before = match old.get(Section::Input, &reads.param) {
                Some(Covered::Set { tree: Some(tree), .. }) if *tree == taken.tree.digest => continue,
                Some(Covered::Set { tree: Some(tree), .. }) => self.cache.read(tree).ok().and_then(|t| item_set::decode(&t).ok()),
                _ => None,
            };
            match before {
                Some(before) => {
                    let now = taken.tree.items(self.cache)?;
                    reasons.extend(changed_items(&reads.reference.name, reads.reads, &before, now));
                }
                None => reasons.push(Reason::InputChanged { input: reads.reference.name.clone() }),
            }
        }
        Ok(reasons)
    }

    /// What the lock's last row of a stage was made of, if that is recorded here.
    pub fn last_components(&self, stage: &LoadedStage) -> Result<Option<ComponentList>> {
        let Some(row) = self.lock.stages.get(&stage.name).and_then(|rows| rows.last()) else { return Ok(None) };
        let record = self.cache.lookup(&row.key)?;
        Ok(record.map(|record| ComponentList::from_record(&record.components)))
    }

    pub const fn files(&self) -> &'a ArtifactFiles<'a> {
        self.files
    }

    /// The stages and inputs whose contents are not known yet.
    pub fn waits_of(&self, taken: &[Taken<'_>]) -> Vec<Reason> {
        let unknown = |taken: &&Taken<'_>| {
            taken.tree.items(self.cache).is_ok_and(|items| items.iter().any(|item| self.is_unknown(item, taken.edge)))
        };
        taken.iter().filter(unknown).map(|taken| Reason::WaitsFor { stage: taken.edge.reads.reference.name.clone() }).collect()
    }

    fn reads_unknown(&self, taken: &[Taken<'_>]) -> Result<bool> {
        if self.unknown.is_empty() {
            return Ok(false);
        }
        for taken in taken {
            if taken.tree.items(self.cache)?.iter().any(|item| self.is_unknown(item, taken.edge)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_unknown(&self, item: &Item, edge: &Edge) -> bool {
        let unknown = |artifact: &Artifact| self.unknown.contains(&artifact.digest);
        edge.reads.reads.iter().filter_map(|field| item.fields.get(*field)).any(unknown)
    }
}

/// The key of the row of an item stage. Names are in it, because the tree holds them, and what people wrote, because it takes the place
/// of what the machine did: `texts` stands for the folder of an editable stage.
pub fn row_key(stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>], texts: Option<Digest>) -> Digest {
    let mut hash = KeyHash::new(Purpose::Stage);
    render_row(stage, identity, taken, &mut hash);
    if let Some(texts) = texts {
        hash.entry(Section::Input, "texts of people", Covers::Artifact(texts));
    }
    hash.key()
}

/// What the row of an item stage covers, but for what people wrote.
fn render_row(stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>], into: &mut impl Rendering) {
    identity.render(into);
    let is_component = |name: &str| {
        identity
            .components
            .iter()
            .any(|(known, _)| known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    for (name, value) in stage.written.iter().filter(|(name, _)| !is_component(name)) {
        into.entry(Section::Value, name, Covers::Value(value));
    }
    render_inputs(&by_tree(taken), into);
}

/// The inputs as the row of an item stage sees them.
fn by_tree<'t>(taken: &'t [Taken<'_>]) -> Vec<KeyedInput<'t>> {
    taken
        .iter()
        .map(|taken| {
            let param = taken.edge.reads.param.as_str();
            KeyedInput { param, members: taken.tree.digest, count: taken.tree.count, tree: taken.tree.digest }
        })
        .collect()
}

/// Tells works apart whose key is not known.
fn unknown_key(work: &Work) -> Digest {
    crate::pipeline::intake::unknown_digest("work", &work.name, "key")
}

/// An error that names the stage.
pub fn in_stage<T>(stage: &LoadedStage, outcome: Result<T>) -> Result<T> {
    outcome.with_context(|| format!("stage `{}`", stage.name))
}
