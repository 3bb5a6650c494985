//! Runs the pieces of work of an item stage that have no result yet: on the CPU side by side, on the device one at a time. Unaware of
//! when the stage's turn comes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rayon::prelude::*;

use crate::engine::cache::digest::Digest;
use crate::engine::cache::manifest::ComponentList;
use crate::engine::cache::records::{Output, Record};
use crate::engine::cache::trouble::told;
use crate::engine::cache::uses::Turn;
use crate::engine::decide::decision::{Decision, KeyedWork, Verdict, WorkState, Works, in_stage};
use crate::engine::decide::estimate::item_size;
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::keys::row_key;
use crate::engine::decide::outputs::{finish_key, items_of_stage};
use crate::engine::decide::recall::inputs_of_dirty;
use crate::engine::decide::texts;
use crate::engine::graph::selection::{Ask, Force};
use crate::engine::kind::item::{Item, ItemSet};
use crate::engine::kind::item_tree::{Given, ItemTree};
use crate::engine::kind::stage::{Draft, Editable, Form, ItemStage};
use crate::engine::run::commit::Took;
use crate::engine::run::context::{StageContext, store};
use crate::engine::run::events::{Counts, Event, StageState};
use crate::engine::run::guard::guarded;
use crate::engine::run::item_runner::Bench;
use crate::engine::run::restore_evicted::Brought;
use crate::engine::run::schedule::{Ending, Run};
use crate::engine::run::show_so_far::{Showing, items_done};

/// What became of the pieces of work that had to run.
#[derive(Default)]
pub(crate) struct Done {
    /// By place in the list of works.
    pub(crate) outputs: BTreeMap<usize, Vec<Output>>,
    pub(crate) ran: usize,
    pub(crate) failed: Vec<String>,
    /// What befell those that failed when they ran, by place.
    errors: BTreeMap<usize, String>,
    /// Places of those that were done here, by this process.
    made: HashSet<usize>,
    pub(crate) interrupted: bool,
}

/// Works of an item stage, and what they take.
#[derive(Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pub(crate) index: usize,
    pub(crate) form: &'a dyn ItemStage,
    pub(crate) works: &'a Works,
    pub(crate) files: &'a ArtifactFiles<'a>,
}

/// How long a stage sleeps between two looks at what is done elsewhere.
const NAP: Duration = Duration::from_millis(20);

impl Run<'_> {
    pub(crate) fn run_items(&self, index: usize, decision: Decision<'_>, files: &ArtifactFiles<'_>) -> Result<Ending> {
        let started = Instant::now();
        let stage = &self.pipeline.stages[index];
        let Form::Items(form) = stage.stage.form() else { unreachable!("an item stage has works") };
        let Verdict::Works(works) = &decision.verdict else { unreachable!("asked for works only") };
        if let Some(reason) = works.waits_for_decision() {
            bail!("{reason}");
        }
        let inline = self.board()[index].inline;

        let pieces = Pieces { index, form, works, files };
        let showing = Showing::of(self, pieces, &decision);
        let done = self.run_works(pieces, showing.as_ref())?;
        let total = works.works.len();
        let ran = done.ran + inline.ran;
        let counts = Counts { total, ran, failed: done.failed.len(), cached: total.saturating_sub(ran + done.failed.len()) };
        let outputs = done.outputs;
        let mut failed = done.failed;
        let mut items = items_done(works, &outputs);
        if done.interrupted {
            return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts));
        }
        let texts = match stage.stage.editable() {
            Some(editable) => self.write_texts(index, &editable, works, &outputs, &mut items, &mut failed)?,
            None => None,
        };
        if texts.is_some() && (!failed.is_empty() || works.key.is_none()) {
            // The machine's texts lie in the folder by now, and must be known as such though the stage has not ended.
            self.write_edit_rows()?;
        }
        let part = |items: ItemSet| if self.options.keep_going { Given::Part(items.into()) } else { Given::Nothing };
        if let Some(first) = failed.first() {
            let counts = Counts { failed: failed.len(), cached: total.saturating_sub(ran + failed.len()), ..counts };
            return Ok(Ending::new(StageState::Failed, part(items), counts).note(first.clone()));
        }
        let state = if counts.ran > 0 { StageState::Ran } else { StageState::Cached };
        let Some(key) = works.key else {
            let ending = Ending::new(StageState::Blocked, part(items), counts);
            return Ok(ending.note("without the items that failed before"));
        };
        check_names(&stage.name, &items)?;
        let finished = self.finish(index, form, &decision, &items, files)?;
        let made_more = finished.made > 0;
        items.extend(finished.items);
        check_names(&stage.name, &items)?;
        let tree = ItemTree::of(items);
        // The folder holds the machine's texts by now. What somebody saves from here on is for the next run to find.
        let key = texts.map_or(key, |texts| row_key(stage, &decision.identity, &decision.taken, Some(texts)));
        let seconds = started.elapsed().as_secs_f64() + inline.seconds;
        let same = self.record_row(index, &decision, key, &tree, Took { seconds, effort: None }, None)?;
        let state = if made_more { StageState::Ran } else { state };
        let ending = Ending::new(state, Given::Whole(tree), counts);
        Ok(Ending { came_out_the_same: same && state == StageState::Ran, ..ending })
    }

    /// Runs the dirty works among `works`, after what they read was brought back where it was not kept.
    /// `showing` is told of each picture of a stage whose pictures are to be seen at once.
    pub(crate) fn run_works(&self, pieces: Pieces<'_>, showing: Option<&Showing<'_, '_>>) -> Result<Done> {
        match self.bring_back(pieces.index, inputs_of_dirty(pieces.works))? {
            Brought::Back => self.run_works_on_what_is_here(pieces, showing),
            Brought::Interrupted => Ok(Done { interrupted: true, ..Done::default() }),
        }
    }

    /// Runs the dirty works among `works`.
    pub(crate) fn run_works_on_what_is_here(&self, pieces: Pieces<'_>, showing: Option<&Showing<'_, '_>>) -> Result<Done> {
        let works = pieces.works;
        let stage = &self.pipeline.stages[pieces.index];
        let mut done = Done::default();
        let mut dirty: Vec<usize> =
            works.works.iter().enumerate().filter(|(_, work)| work.state == WorkState::Dirty).map(|(place, _)| place).collect();
        for work in &works.works {
            if let WorkState::Broken(message) = &work.state {
                done.failed.push(format!("{}: {message}", work.work.name));
            }
        }
        if dirty.is_empty() {
            return Ok(done);
        }
        if stage.stage.uses_device() {
            // Another process may be at the same works: they are locked one by one.
            self.do_works(pieces, &dirty, &mut done, showing)?;
            return Ok(done);
        }
        // Items with the same contents are one piece of work.
        let mut first_of: HashMap<Digest, usize> = HashMap::with_capacity(dirty.len());
        let mut copies = Vec::new();
        dirty.retain(|&place| {
            let first = *first_of.entry(works.works[place].key).or_insert(place);
            if first != place {
                copies.push((place, first));
            }
            first == place
        });
        self.do_claimed(pieces, dirty, &mut done)?;
        for (place, first) in copies {
            if let Some(outputs) = done.outputs.get(&first).cloned() {
                done.outputs.insert(place, outputs);
                done.ran += usize::from(done.made.contains(&first));
            } else if let Some(error) = done.errors.get(&first) {
                done.failed.push(format!("{}: {error}", works.works[place].work.name));
            }
        }
        Ok(done)
    }

    /// Does works that no other process or stage is at, and takes the results of the others when they are there.
    fn do_claimed(&self, pieces: Pieces<'_>, mut dirty: Vec<usize>, done: &mut Done) -> Result<()> {
        let Pieces { index, works, files, .. } = pieces;
        let stage = &self.pipeline.stages[index];
        let preferred = self.grounds(files).preferred_here(stage);
        let ask = self.options.selection.ask(index);
        let mut told = false;
        loop {
            let keys: Vec<Digest> = dirty.iter().map(|&place| works.works[place].key).collect();
            let (claim, taken) = self.cache.claim(&keys)?;
            // Somebody may have done them in the meantime.
            let grounds = self.grounds(files);
            let (elsewhere, ours) = self.cache.in_turn(|turn| {
                let (mut elsewhere, mut ours) = (Vec::new(), Vec::new());
                for &place in &dirty {
                    let KeyedWork { work, key, .. } = &works.works[place];
                    let found = if ask.forces(&work.name) { None } else { grounds.result(key, &preferred, turn)? };
                    match found {
                        Some(outputs) => drop(done.outputs.insert(place, outputs)),
                        None if taken.contains(key) => elsewhere.push(place),
                        None => ours.push(place),
                    }
                }
                Ok((elsewhere, ours))
            })?;
            let failed = done.failed.len();
            self.do_works(pieces, &ours, done, None)?;
            drop(claim);
            let ends = done.interrupted || (done.failed.len() > failed && !self.options.keep_going);
            if elsewhere.is_empty() || ends {
                return Ok(());
            }
            if elsewhere.len() == dirty.len() {
                if !told {
                    let message = "another run is at it; waiting for its result".to_string();
                    self.scope.observer.event(Event::Said { stage: Some(stage.name.clone()), message });
                    told = true;
                }
                if self.scope.wishes.interrupted() {
                    done.interrupted = true;
                    return Ok(());
                }
                thread::sleep(NAP);
            }
            dirty = elsewhere;
        }
    }

    /// Does the works at `dirty`.
    fn do_works(&self, pieces: Pieces<'_>, dirty: &[usize], done: &mut Done, showing: Option<&Showing<'_, '_>>) -> Result<()> {
        let Pieces { index, form, works, files } = pieces;
        if dirty.is_empty() {
            return Ok(());
        }
        let stage = &self.pipeline.stages[index];
        let preferred = self.grounds(files).preferred_here(stage);
        let ask = self.options.selection.ask(index);
        let cached = works.works.len() - dirty.len() - done.ran;
        let counts = Counts { total: works.works.len(), ran: done.ran, cached, ..Counts::default() };
        self.scope.observer.event(Event::StageStarted {
            stage: stage.name.clone(),
            kind: stage.kind.name.to_string(),
            reasons: works.reasons.clone(),
            counts,
        });

        let batch = self.batch();
        let context = StageContext::new(&self.scope, files, &stage.name, None);
        let worker = self.attempts(index, None, || guarded(|| form.open(&context)))?;
        let bench = Bench {
            run: self,
            index,
            batch: &batch,
            worker: worker.as_ref(),
            opened_with: files,
            preferred: &preferred,
            ask,
            form,
            item_size: item_size(self.pipeline, index),
            counts: Mutex::new(counts),
            failure: AtomicBool::new(false),
        };
        let results: Vec<(usize, Option<Result<Vec<Output>>>)> = if stage.stage.uses_device() {
            let mut so_far = done.outputs.clone();
            let do_one = |&place: &usize| {
                let outcome = bench.do_one(&works.works[place]);
                if let (Some(Ok(outputs)), Some(showing)) = (&outcome, showing) {
                    so_far.insert(place, outputs.clone());
                    showing.one_more(&so_far);
                }
                (place, outcome)
            };
            dirty.iter().map(do_one).collect()
        } else {
            let pool = self.pool()?;
            pool.install(|| dirty.par_iter().with_max_len(1).map(|&place| (place, bench.do_one(&works.works[place]))).collect())
        };
        done.ran = bench.counts.lock().unwrap_or_else(PoisonError::into_inner).ran;
        drop(worker);
        batch.flush()?;

        for (place, result) in results {
            match result {
                Some(Ok(outputs)) => {
                    done.outputs.insert(place, outputs);
                    done.made.insert(place);
                }
                Some(Err(error)) => {
                    let error = told(&error);
                    done.failed.push(format!("{}: {error}", works.works[place].work.name));
                    done.errors.insert(place, error);
                }
                None => done.interrupted |= self.scope.wishes.interrupted(),
            }
        }
        Ok(())
    }

    /// Waits until no other process computes `key`; `None` if the user does not want to wait.
    pub(crate) fn wait_for_key(&self, stage: &str, key: &Digest) -> Result<Option<crate::engine::cache::locks::KeyLock>> {
        if let Some(lock) = self.cache.try_lock_key(key)? {
            return Ok(Some(lock));
        }
        let message = "another run is at it; waiting for its result".to_string();
        self.scope.observer.event(Event::Said { stage: Some(stage.to_string()), message });
        self.cache.lock_key(key, &mut || !self.scope.wishes.interrupted())
    }

    /// Brings the folder of texts and the items together: what people wrote goes into the items, what the machine wrote into the folder.
    /// Returns what stands for the folder then, if it was touched.
    fn write_texts(
        &self,
        index: usize,
        editable: &Editable,
        works: &Works,
        outputs: &BTreeMap<usize, Vec<Output>>,
        items: &mut ItemSet,
        failed: &mut Vec<String>,
    ) -> Result<Option<Digest>> {
        let stage = &self.pipeline.stages[index];
        if !self.pipeline.settings.is_empty() {
            // The folder belongs to the file as it stands; only texts that are known already can be used.
            if !outputs.is_empty() {
                bail!("with `--set` texts of `{}` would have to be written: run without it first", stage.name);
            }
            let mut missing = BTreeSet::new();
            for text in items.iter().flat_map(|item| item.fields.values()) {
                if !self.cache.holds(&text.digest, text.size)? {
                    missing.insert(text.digest);
                }
            }
            if !missing.is_empty() {
                let batch = self.batch();
                texts::read(self.pipeline, self.cache, self.lock, stage, editable)?.keep(&missing, &batch)?;
                batch.flush()?;
            }
            return Ok(None);
        }
        let known = texts::items(&works.works, |place, keyed| match outputs.get(&place) {
            Some(made) => texts::text_of(editable, made).cloned(),
            None => texts::made(editable, keyed),
        });
        let batch = self.batch();
        let editing = texts::read(self.pipeline, self.cache, self.lock, stage, editable)?;
        let applied = editing.apply(&known, &batch)?;
        batch.flush()?;
        let orphans = told_orphans(&applied.orphans, &texts::folder(self.pipeline, stage, editable));
        for message in applied.notes.into_iter().chain(orphans) {
            self.scope.observer.event(Event::Said { stage: Some(stage.name.clone()), message });
        }
        let places: HashMap<String, usize> = items.iter().enumerate().map(|(place, item)| (item.name.clone(), place)).collect();
        for (work, told) in works.works.iter().zip(applied.items) {
            if let Some(failure) = told.failure
                && !matches!(work.state, WorkState::Broken(_))
            {
                failed.push(format!("{}: {failure}", work.work.name));
            }
            if let Some(&place) = places.get(&work.work.name) {
                items[place].fields.extend(told.fields);
            }
        }
        self.take_edit_rows(index, applied.rows);
        Ok(Some(applied.contents))
    }

    /// Items made of all outputs together.
    pub(crate) fn finish(
        &self,
        index: usize,
        form: &dyn ItemStage,
        decision: &Decision<'_>,
        outputs: &[Item],
        files: &ArtifactFiles<'_>,
    ) -> Result<Finished> {
        let stage = &self.pipeline.stages[index];
        let started = Instant::now();
        let key = finish_key(&decision.identity, outputs, stage.kind.writes);
        let is_forced = matches!(self.options.selection.ask(index), Ask::Again(Force::All));
        let preferred = self.grounds(files).preferred(stage);
        let look_up = |turn: &Turn| self.grounds(files).result(&key, &preferred, turn);
        let found = if is_forced { None } else { self.cache.in_turn(look_up)? };
        let (made, outputs) = match found {
            Some(outputs) => (0, outputs),
            None => {
                let drafts = in_stage(stage, self.finish_drafts(index, form, outputs, files))?;
                let batch = self.batch();
                let outputs: Vec<Output> =
                    drafts.into_iter().map(|draft| store(draft, "", &batch, files)).collect::<Result<_>>()?;
                let mut list = ComponentList::default();
                decision.identity.render(&mut list);
                let record = Record {
                    key,
                    components: list.to_record(),
                    outputs: outputs.clone(),
                    seconds: started.elapsed().as_secs_f64(),
                    ended: None,
                    facts: self.facts(index),
                };
                batch.record(record)?;
                batch.flush()?;
                (outputs.len(), outputs)
            }
        };
        Ok(Finished { made, items: items_of_stage(&outputs, key) })
    }
}

impl Run<'_> {
    /// What is made of all outputs together. Some of them may be only in `out/`.
    fn finish_drafts(
        &self,
        index: usize,
        form: &dyn ItemStage,
        outputs: &[Item],
        files: &ArtifactFiles<'_>,
    ) -> Result<Vec<Draft>> {
        let stage = &self.pipeline.stages[index];
        let drafts = guarded(|| form.finish(outputs, files));
        let written = outputs.iter().flat_map(|item| stage.kind.writes.iter().filter_map(|field| item.fields.get(*field)));
        let missing = self.missing(written.cloned());
        if drafts.is_ok() || stage.keep || missing.is_empty() {
            return drafts;
        }
        if !self.take_from_out(index, missing)?.is_empty() {
            bail!("it needs all its outputs together, and some were not kept: run again with `--force {}`", stage.name);
        }
        guarded(|| form.finish(outputs, files))
    }
}

/// A sentence about texts that belong to no photo.
fn told_orphans(orphans: &[String], folder: &Path) -> Option<String> {
    const TOLD: usize = 5;
    let names: Vec<String> = orphans.iter().take(TOLD).map(|name| format!("`{name}`")).collect();
    let more = if orphans.len() > TOLD { format!(" and {} more", orphans.len() - TOLD) } else { String::new() };
    let texts = if orphans.len() == 1 { "1 text".to_string() } else { format!("{} texts", orphans.len()) };
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    (!orphans.is_empty()).then(|| {
        let names = names.join(", ");
        format!("{texts} in `{folder}/` without a photo: {names}{more}; `loramill edits prune` puts such away")
    })
}

/// What is made of all outputs together.
pub(crate) struct Finished {
    /// How many of them were not there before.
    made: usize,
    pub(crate) items: ItemSet,
}

/// An error if two outputs have one name.
pub(crate) fn check_names(stage: &str, items: &[Item]) -> Result<()> {
    let mut names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => bail!("`{stage}` made two items called `{}`", pair[0]),
        None => Ok(()),
    }
}
