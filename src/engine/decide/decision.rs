//! Decides what of a stage is there already and what must run. `plan` asks it without running anything, `execute` asks it for each stage
//! whose inputs are there: what a plan says is what a run does. Unaware of how stages are run.

use std::collections::HashSet;

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;

use crate::engine::cache::Cache;
use crate::engine::cache::digest::Digest;
use crate::engine::cache::manifest::{ComponentList, Covered, KeyHash, Purpose, Section};
use crate::engine::cache::records::Output;
use crate::engine::cache::uses::Turn;
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::keys::{KeyedInput, StageIdentity, members, render_inputs, render_row, render_work, row_key};
use crate::engine::decide::reason::{Reason, changed_items, changed_params};
use crate::engine::decide::recorded::Row;
use crate::engine::decide::taken::{Inputs, Taken};
use crate::engine::decide::texts;
use crate::engine::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::engine::graph::selection::Ask;
use crate::engine::kind::item::Fields;
use crate::engine::kind::item_set;
use crate::engine::kind::item_tree::{Given, ItemTree};
use crate::engine::kind::stage::{Form, ItemStage, Reached, WholeStage, Work};
use crate::engine::lock_file::LockFile;

/// What a decision rests on.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub files: &'a ArtifactFiles<'a>,
    /// As it was when the run began.
    pub lock: &'a LockFile,
    /// Stages that somebody wants to see, and not only other stages.
    pub wanted: &'a [usize],
    /// Digests that stand for contents that nobody knows yet.
    pub unknown: &'a HashSet<Digest>,
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
    /// It is left out of the run: these are its outputs of before, though there are reasons to run it.
    Kept {
        tree: ItemTree,
        reasons: Vec<Reason>,
    },
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

impl Works {
    /// Nothing of it runs, and nobody is given anything, before a person has decided.
    fn withheld(mut works: Vec<KeyedWork>, reason: Reason) -> Self {
        works.iter_mut().for_each(|keyed| keyed.state = WorkState::Unknown);
        Self { key: None, works, reasons: vec![reason] }
    }

    /// Why a person has to decide before any of it runs.
    pub fn waits_for_decision(&self) -> Option<&Reason> {
        self.reasons.iter().find(|reason| matches!(reason, Reason::TextsLost { .. }))
    }
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
    Edited(Fields),
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
    /// How much of the work the interrupted run did, from 0 to 1.
    pub done: f64,
}

impl Whole {
    /// One that begins at its beginning.
    pub(crate) const fn from_the_start(key: Option<Digest>, state_key: Option<Digest>, reasons: Vec<Reason>) -> Self {
        Self { key, state_key, reasons, published: Vec::new(), start_over: false, done: 0.0 }
    }
}

impl<'a> Grounds<'a> {
    /// What must run of the stage at `index`, whose producers give what `given` says.
    pub fn decide(&self, index: usize, given: &dyn Fn(Producer) -> Given, ask: Ask<'_>) -> Result<Decision<'a>> {
        let stage = &self.pipeline.stages[index];
        let identity = StageIdentity::of(stage);
        let (taken, complete) = match self.take_all(stage, given)? {
            Inputs::There { taken, complete } => (taken, complete),
            Inputs::Awaited(reasons) => {
                let verdict = self.spare(stage, Verdict::Waits(reasons), ask)?;
                return Ok(Decision { identity, taken: Vec::new(), verdict });
            }
        };
        let verdict = match stage.stage.form() {
            Form::Items(form) => self.decide_items(stage, form, &identity, &taken, complete, ask)?,
            Form::Whole(form) => self.decide_whole(stage, form, &identity, &taken, complete, ask)?,
        };
        let verdict = self.spare(stage, verdict, ask)?;
        Ok(Decision { identity, taken, verdict })
    }

    /// A stage that is left out of the run gives what it gave last, if that is here.
    fn spare(&self, stage: &LoadedStage, verdict: Verdict, ask: Ask<'_>) -> Result<Verdict> {
        let is_done = |work: &KeyedWork| matches!(work.state, WorkState::Fresh(_) | WorkState::Edited(_));
        let reasons = match verdict {
            Verdict::Works(Works { key: Some(_), ref works, .. }) if works.iter().all(is_done) => return Ok(verdict),
            verdict @ Verdict::Fresh { .. } => return Ok(verdict),
            verdict if !matches!(ask, Ask::LeaveOut) => return Ok(verdict),
            Verdict::Works(Works { reasons, .. }) | Verdict::Whole(Whole { reasons, .. }) | Verdict::Waits(reasons) => reasons,
            Verdict::Kept { reasons, .. } => reasons,
        };
        // What people wrote since the last run counts, and a result of before does not hold it.
        if stage.stage.editable().is_none()
            && let Some(key) = self.lock.stages.get(&stage.name).and_then(|rows| rows.last()).map(|row| row.key)
            && let Some(Row { lost, tree, .. }) = self.find_row(stage, &key)?
            && lost.is_empty()
        {
            return Ok(Verdict::Kept { tree, reasons });
        }
        Ok(Verdict::Waits([vec![Reason::LeftOut { stage: stage.name.clone() }], reasons].concat()))
    }

    fn decide_items(
        &self,
        stage: &'a LoadedStage,
        form: &dyn ItemStage,
        identity: &StageIdentity,
        taken: &[Taken<'_>],
        complete: bool,
        ask: Ask<'_>,
    ) -> Result<Verdict> {
        let editable = stage.stage.editable();
        let editing = match &editable {
            Some(editable) => Some(texts::read(self.pipeline, self.cache, self.lock, stage, editable)?),
            None => None,
        };
        let texts = editing.as_ref().map(|editing| editing.contents_digest());
        let key = if complete { Some(row_key(stage, identity, taken, texts)) } else { None };
        // What the machine wrote is told from what a person wrote by the rows of the lock. A kill, a damaged lock or a merge may have taken
        // some or put others beside them: they are written with the works, though none of these may have to run.
        let rows_must_be_written = editable.is_some() && self.pipeline.settings.is_empty();
        let mut lost = Vec::new();
        if let Some(key) = key
            && !ask.is_forced()
        {
            match self.find_row(stage, &key)? {
                Some(Row { recorded, ref tree, .. })
                    if rows_must_be_written && (!recorded || texts::rows(self.lock, stage).len() < tree.count) => {}
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
        let mut works = self.look_up(stage, identity, works, false)?;
        if let (Some(editing), Some(editable)) = (&editing, &editable) {
            if let Some(lost) = texts::lost(self, stage, editable, editing, &works)? {
                return Ok(Verdict::Works(Works::withheld(works, lost.reason())));
            }
            // The texts of a run with settings are not written, so there is nothing to tell apart.
            texts::judge(editing, editable, &mut works, ask, self.pipeline.settings.is_empty());
        } else {
            let forced = works.iter_mut().filter(|keyed| ask.forces(&keyed.work.name));
            forced.filter(|keyed| keyed.state != WorkState::Unknown).for_each(|keyed| keyed.state = WorkState::Dirty);
        }
        if complete && let Some(message) = ask.matches_none(works.iter().map(|keyed| keyed.work.name.as_str())) {
            bail!("`--force`: {message}");
        }
        let must_run = |work: &&KeyedWork| matches!(work.state, WorkState::Dirty | WorkState::Broken(_));
        let dirty: Vec<&str> = works.iter().filter(must_run).map(|w| w.work.name.as_str()).collect();
        let reasons = if dirty.is_empty() {
            self.waits_of(taken)
        } else if dirty.iter().all(|name| ask.forces(name)) {
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
        ask: Ask<'_>,
    ) -> Result<Verdict> {
        if !complete || self.reads_unknown(taken)? {
            let reasons = self.waits_of(taken);
            return Ok(Verdict::Whole(Whole::from_the_start(None, None, reasons)));
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
        if ask.is_forced() {
            reasons.push(Reason::Forced);
            let whole = Whole::from_the_start(Some(key), Some(state_key), reasons);
            return Ok(Verdict::Whole(Whole { start_over: true, ..whole }));
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
        let reached = if start_over { Reached::Start } else { self.reached(form, taken, &state_key, &published)? };
        let (goes_on, done, words) = match reached {
            Reached::Part { share, words } => (true, share.clamp(0.0, 1.0), Some(words)),
            Reached::Untold => (!published.is_empty(), 0.0, None),
            Reached::Start => (false, 0.0, None),
        };
        if goes_on {
            reasons = vec![Reason::GoesOn { published: published.len(), reached: words }];
        }
        Ok(Verdict::Whole(Whole { key: Some(key), state_key: Some(state_key), reasons, published, start_over, done }))
    }

    /// How far an interrupted run of a whole stage came.
    fn reached(&self, form: &dyn WholeStage, taken: &[Taken<'_>], state_key: &Digest, published: &[Output]) -> Result<Reached> {
        let state = self.cache.state_path(state_key);
        if !state.is_dir() {
            return Ok(if published.is_empty() { Reached::Start } else { Reached::Untold });
        }
        let is_published = |name: &str| published.iter().any(|output| output.name.resolve("") == name);
        Ok(form.reached(&self.resolve(taken, true)?, &state, &is_published))
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
        let look_up = |turn: &Turn| {
            let mut keyed: Vec<KeyedWork> = works
                .into_par_iter()
                .with_min_len(16)
                .map(|work| {
                    if work.inputs.values().any(|artifact| self.unknown.contains(&artifact.digest)) {
                        let key = unknown_key(&work);
                        return KeyedWork { work, key, state: WorkState::Unknown };
                    }
                    let mut hash = start.clone();
                    render_work(&work, &mut hash);
                    KeyedWork { key: hash.key(), work, state: WorkState::Dirty }
                })
                .collect();
            if forced {
                return Ok(keyed);
            }
            let known = keyed.iter().map(|keyed| keyed.key).collect::<Vec<_>>();
            let results = self.cache.outputs_of(&known)?;
            keyed.par_iter_mut().zip(results).with_min_len(16).for_each(|(keyed, results)| {
                if let (WorkState::Dirty, Some(outputs)) = (&keyed.state, self.choose(&keyed.key, results, &preferred, turn)) {
                    keyed.state = WorkState::Fresh(outputs);
                }
            });
            Ok(keyed)
        };
        self.cache.in_turn(look_up)
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
                Some(Covered::Set { tree: Some(tree), .. }) => {
                    self.cache.read_list(tree).ok().and_then(|t| item_set::decode(&t).ok())
                }
                _ => None,
            };
            match before {
                Some(before) => {
                    let now = taken.tree.items(self.cache)?;
                    reasons.extend(changed_items(taken.producer(), reads.reads, &before, now));
                }
                None => reasons.push(Reason::InputChanged { input: taken.producer().to_string() }),
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
}

/// Tells works apart whose key is not known.
fn unknown_key(work: &Work) -> Digest {
    crate::engine::decide::intake::unknown_digest("work", &work.name, "key")
}

/// An error that names the stage.
pub fn in_stage<T>(stage: &LoadedStage, outcome: Result<T>) -> Result<T> {
    outcome.with_context(|| format!("stage `{}`", stage.name))
}
