//! Runs a stage as a whole. What it publishes is durable at once, and stages that wait for it run before it goes on. Unaware of when the
//! stage's turn comes.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::engine::cache::digest::Digest;
use crate::engine::cache::records::{Output, Record};
use crate::engine::cache::trouble::told;
use crate::engine::decide::decision::{Decision, Verdict, Works};
use crate::engine::decide::estimate::item_size;
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::outputs::items_of_stage;
use crate::engine::decide::reason::worded;
use crate::engine::decide::recall::inputs_of_dirty;
use crate::engine::decide::recorded::STAGE_FACT;
use crate::engine::graph::selection::Ask;
use crate::engine::kind::item_tree::{Given, ItemTree};
use crate::engine::kind::stage::{Draft, Effort, Ended, Form, Resolved, WholeStage};
use crate::engine::run::commit::Took;
use crate::engine::run::context::{Publishing, StageContext, store};
use crate::engine::run::events::{Counts, Event, StageState};
use crate::engine::run::guard::guarded;
use crate::engine::run::items::{Done, Pieces, check_names};
use crate::engine::run::restore_evicted::Brought;
use crate::engine::run::schedule::{Ending, Run};
use crate::engine::run::show_so_far::{Showing, items_done};

/// What a whole stage has published.
struct Published {
    outputs: Vec<Output>,
    /// The time that went by in showing it, and in stages that run on it meanwhile.
    aside: Duration,
}

impl Run<'_> {
    pub(crate) fn run_whole(&self, index: usize, decision: Decision<'_>, files: &ArtifactFiles<'_>) -> Result<Ending> {
        let stage = &self.pipeline.stages[index];
        let Form::Whole(form) = stage.stage.form() else { unreachable!("asked for whole stages only") };
        let Verdict::Whole(whole) = &decision.verdict else { unreachable!("asked for whole stages only") };
        let Some(key) = whole.key else {
            let reasons = &whole.reasons;
            let note = if reasons.is_empty() { "some of its items failed before".to_string() } else { worded(reasons) };
            return Ok(Ending::new(StageState::Blocked, Given::Nothing, Counts::default()).note(note));
        };
        let Some(_lock) = self.wait_for_key(&stage.name, &key)? else {
            return Ok(Ending::new(StageState::Interrupted, Given::Nothing, Counts::default()));
        };
        // Another process may have done it in the meantime, or some of it.
        let ask = self.options.selection.ask(index);
        let decision = self.grounds(files).decide(index, &|producer| self.given(producer), ask)?;
        match &decision.verdict {
            Verdict::Whole(whole) if whole.key == Some(key) => {}
            Verdict::Fresh { .. } => return self.take_fresh(index, decision),
            _ => bail!("what `{}` reads changed while it waited: run again", stage.name),
        }
        match self.bring_back(index, self.grounds(files).needed_by(&decision)?)? {
            Brought::Back => self.run_locked(index, form, &decision, key, files),
            Brought::Interrupted => Ok(Ending::new(StageState::Interrupted, Given::Nothing, Counts::default())),
        }
    }

    fn run_locked(
        &self,
        index: usize,
        form: &dyn WholeStage,
        decision: &Decision<'_>,
        key: Digest,
        files: &ArtifactFiles<'_>,
    ) -> Result<Ending> {
        let started = Instant::now();
        let stage = &self.pipeline.stages[index];
        let Verdict::Whole(whole) = &decision.verdict else { unreachable!("checked by the caller") };
        let state_key = whole.state_key.expect("known where the key is");
        let state = self.cache.state_folder(&state_key)?;
        if whole.start_over {
            empty(&state)?;
        }
        let mut resolved = self.grounds(files).resolve(&decision.taken, true)?;
        keep_only_what_is_read(&mut resolved, decision);

        let foreseen = form.forecast(&resolved).len();
        let counts = Counts { total: foreseen.max(1), cached: whole.published.len(), ..Counts::default() };
        self.scope.observer.event(Event::StageStarted {
            stage: stage.name.clone(),
            kind: stage.kind.name.to_string(),
            reasons: whole.reasons.clone(),
            counts,
        });
        if !whole.published.is_empty() {
            // A kill may have come between an output and its place in `out/`.
            self.show_so_far(index, items_of_stage(&whole.published, state_key), &[]);
        }
        let published = Mutex::new(Published { outputs: whole.published.clone(), aside: Duration::ZERO });
        let publish = |draft: Draft| self.publish(index, draft, &key, &state_key, files, &published);
        let publishing = Publishing { publish: &publish, state: &state };
        let mut context = StageContext::new(&self.scope, files, &stage.name, Some(publishing));
        self.scope.wishes.stage_asks();
        let ended = self.attempts(index, None, || guarded(|| form.run(&resolved, &context)));
        let ended = context.settle(ended);
        drop(context);
        self.scope.wishes.stage_ended();

        let Published { outputs: published, aside } = published.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ran = published.len().saturating_sub(whole.published.len());
        let counts = Counts { total: published.len(), ran, cached: published.len() - ran, failed: 0 };
        let ended = ended.and_then(|ended| files.check_unchanged().map(|()| ended));
        let note = match ended {
            Ok(Ended::Interrupted) => return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts)),
            Err(_) if self.scope.wishes.interrupted() => {
                return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts));
            }
            Err(error) => {
                let items = items_of_stage(&published, state_key);
                let given = if self.options.keep_going { Given::Part(items.into()) } else { Given::Nothing };
                let counts = Counts { total: foreseen.max(1), failed: 1, ..counts };
                return Ok(Ending::new(StageState::Failed, given, counts).note(told(&error)));
            }
            Ok(Ended::Stopped(words)) => Some(words),
            Ok(Ended::Done) => None,
        };
        if published.is_empty() {
            bail!("`{}` ended without any output", stage.name);
        }
        let items = items_of_stage(&published, state_key);
        check_names(&stage.name, &items)?;
        let tree = ItemTree::of(items);
        let took =
            took(started.elapsed().saturating_sub(aside), whole.done, form.effort(&resolved, item_size(self.pipeline, index)));
        let same = self.record_row(index, decision, key, &tree, took, note.clone())?;
        if form.horizon_components().is_empty() {
            fs::remove_dir_all(&state).with_context(|| format!("removing `{}`", state.display()))?;
        }
        let ending = Ending::new(StageState::Ran, Given::Whole(tree), counts);
        Ok(Ending { note, came_out_the_same: same, ..ending })
    }

    /// Makes an output durable and shows it, then runs what waits for it.
    fn publish(
        &self,
        index: usize,
        draft: Draft,
        key: &Digest,
        state_key: &Digest,
        files: &ArtifactFiles<'_>,
        published: &Mutex<Published>,
    ) -> Result<()> {
        let stage = &self.pipeline.stages[index];
        let batch = self.batch();
        let (item, attributes) = (draft.name.clone(), draft.attributes.clone());
        let output = store(draft, "", &batch, files)?;
        let mut facts = self.facts(index);
        facts.insert(STAGE_FACT.to_string(), key.to_hex());
        let outputs = vec![output.clone()];
        batch.partial(Record { key: *state_key, components: Vec::new(), outputs, seconds: 0.0, ended: None, facts })?;
        batch.flush()?;
        let items = {
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            published.outputs.retain(|known| known.name != output.name);
            published.outputs.push(output);
            items_of_stage(&published.outputs, *state_key)
        };
        let set_aside = Instant::now();
        let shown = self.show_so_far(index, items.clone(), std::slice::from_ref(&item));
        self.scope.observer.event(Event::Checkpoint { stage: stage.name.clone(), item, attributes, files: shown });
        self.show(index, Given::Part(items.into()));
        for consumer in self.waiting_consumers(index) {
            self.run_inline(consumer);
        }
        published.lock().unwrap_or_else(PoisonError::into_inner).aside += set_aside.elapsed();
        Ok(())
    }

    /// Runs what a consumer lacks of what has been published so far. If that fails, the stage that publishes goes on; the consumer tries
    /// again when its own turn comes.
    fn run_inline(&self, consumer: usize) {
        let started = Instant::now();
        let stage = &self.pipeline.stages[consumer];
        let outcome = guarded(|| {
            let files = ArtifactFiles::new(self.cache, self.intake);
            let decision = self.grounds(&files).decide(consumer, &|producer| self.given(producer), Ask::Complete)?;
            let Verdict::Works(works) = &decision.verdict else { return Ok(None) };
            let Form::Items(form) = stage.stage.form() else { return Ok(None) };
            if works.waits_for_decision().is_some() {
                return Ok(None);
            }
            // What was not kept comes back in its own turn: nothing else is made while this stage runs.
            if !self.missing(inputs_of_dirty(works)).is_empty() {
                return Ok(None);
            }
            let pieces = Pieces { index: consumer, form, works, files: &files };
            let showing = Showing::of(self, pieces, &decision);
            let done = self.run_works(pieces, showing.as_ref())?;
            self.show_inline(consumer, works, &done, showing.as_ref());
            Ok(Some(done))
        });
        let mut board = self.board();
        let inline = &mut board[consumer].inline;
        inline.seconds += started.elapsed().as_secs_f64();
        match outcome {
            Ok(Some(done)) => {
                inline.ran += done.ran;
            }
            Ok(None) => {}
            Err(error) => {
                drop(board);
                let message = format!("could not run on what is there so far: {error:#}");
                self.scope.observer.event(Event::Said { stage: Some(stage.name.clone()), message });
            }
        }
    }
}

impl Run<'_> {
    /// Shows what a consumer has made of what is published so far, all together where nothing of it failed.
    fn show_inline(&self, consumer: usize, works: &Works, done: &Done, showing: Option<&Showing<'_, '_>>) {
        // Texts that people may edit lie in a folder of their own, which is brought up to date in the stage's own turn.
        if self.pipeline.stages[consumer].stage.editable().is_some() {
            return;
        }
        let items = items_done(works, &done.outputs);
        match showing {
            Some(showing) if done.failed.is_empty() && !done.interrupted => showing.with_sheet(items),
            Some(_) => {}
            None => {
                self.show_so_far(consumer, items, &[]);
            }
        }
    }
}

/// A whole stage sees the fields that its key covers and no others.
pub(crate) fn keep_only_what_is_read(resolved: &mut Resolved, decision: &Decision<'_>) {
    for taken in &decision.taken {
        let reads = &taken.edge.reads;
        let items = resolved.inputs.get_mut(&reads.param).map(Arc::make_mut);
        for item in items.into_iter().flatten() {
            item.fields.retain(|field, _| reads.reads.contains(&field.as_str()));
        }
    }
}

/// What all of a whole stage takes, by a run that went on where an interrupted one had done so much of it.
fn took(elapsed: Duration, done: f64, effort: Option<Effort>) -> Took {
    let seconds = elapsed.as_secs_f64();
    // Of too small a rest nothing can be told but that it took at least this.
    if done > 0.9 { Took { seconds, effort: None } } else { Took { seconds: seconds / (1.0 - done), effort } }
}

/// Removes what a state folder holds, and keeps the folder.
fn empty(folder: &Path) -> Result<()> {
    let removing = || format!("removing `{}`", folder.display());
    fs::remove_dir_all(folder).with_context(removing)?;
    fs::create_dir(folder).with_context(removing)
}
