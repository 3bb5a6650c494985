//! Does one piece of work of an item stage: under its lock, with what it reads unchanged, and records what came of it. Unaware of
//! which pieces must run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use crate::cache::batch::Batch;
use crate::cache::manifest::{ComponentList, Covers, Rendering as _, Section};
use crate::cache::records::{Output, Record};
use crate::cache::trouble::error_message;
use crate::decide::estimate::effort_fact;
use crate::decide::files::ArtifactFiles;
use crate::decide::keys::render_work;
use crate::decide::recorded;
use crate::decide::recorded::Preferred;
use crate::decide::verdict::KeyedWork;
use crate::graph::selection::Ask;
use crate::graph::stage_id::StageId;
use crate::kind::stage::{Effort, ItemStage, Worker};
use crate::run::context::{StageContext, store};
use crate::run::events::{Counts, Event};
use crate::run::guard::guarded;
use crate::run::run_context::RunContext;
use crate::run::waiting::wait_for_key;

/// One item stage that is running.
pub(crate) struct ItemRunner<'a, 'r> {
    pub(crate) ctx: &'a RunContext<'r>,
    pub(crate) stage: StageId,
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) worker: &'a dyn Worker,
    pub(crate) opened_with: &'a ArtifactFiles<'a>,
    pub(crate) preferred: &'a Preferred,
    pub(crate) ask: Ask<'a>,
    pub(crate) form: &'a dyn ItemStage,
    /// Of what the stage takes, where settings say it.
    pub(crate) item_size: Option<f64>,
    pub(crate) counts: Mutex<Counts>,
    pub(crate) failure: AtomicBool,
}

impl ItemRunner<'_, '_> {
    /// `None` if it was not begun: the user wants an end, or another piece has failed.
    pub(crate) fn do_one(&self, work: &KeyedWork) -> Option<Result<Vec<Output>>> {
        let ends_at_failure = !self.ctx.options.keep_going;
        if self.ctx.scope.requests.interrupted() || (ends_at_failure && self.failure.load(Ordering::Relaxed)) {
            return None;
        }
        let outcome = self.locked(work).transpose()?;
        if outcome.is_err() && self.ctx.scope.requests.interrupted() {
            // It gave up because it was asked to.
            return None;
        }
        let (error, counts) = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let error = match &outcome {
                Ok((_, true)) => {
                    counts.ran += 1;
                    None
                }
                Ok((_, false)) => {
                    counts.cached += 1;
                    None
                }
                Err(error) => {
                    counts.failed += 1;
                    self.failure.store(true, Ordering::Relaxed);
                    Some(error_message(error))
                }
            };
            (error, *counts)
        };
        let stage = self.ctx.pipeline.stages[self.stage].name.clone();
        self.ctx.scope.observer.event(Event::ItemFinished { stage, item: work.work.name.clone(), counts, error });
        Some(outcome.map(|(outputs, _)| outputs))
    }

    /// The outputs, and whether they were made here; `None` if the user does not want to wait for another process.
    fn locked(&self, work: &KeyedWork) -> Result<Option<(Vec<Output>, bool)>> {
        let stage = &self.ctx.pipeline.stages[self.stage];
        if !stage.stage.uses_device() {
            return self.make(work).map(|outputs| Some((outputs, true)));
        }
        let Some(_lock) = wait_for_key(self.ctx, self.stage, &work.key)? else { return Ok(None) };
        if !self.ask.forces(&work.work.name)
            && let Some(outputs) = self
                .ctx
                .cache
                .with_lease(|lease| recorded::result(&self.ctx.view(self.opened_with), &work.key, self.preferred, lease))?
        {
            return Ok(Some((outputs, false)));
        }
        let outputs = self.make(work)?;
        // The next to hold the lock looks for the record.
        self.batch.flush()?;
        Ok(Some((outputs, true)))
    }

    fn make(&self, work: &KeyedWork) -> Result<Vec<Output>> {
        let started = Instant::now();
        let ctx = self.ctx;
        let stage = &ctx.pipeline.stages[self.stage];
        let files = ArtifactFiles::new(ctx.cache, ctx.intake);
        // The scratch folder goes with the context, and drafts may lie there.
        let (drafts, _context) = ctx.attempts(self.stage, Some(&work.work.name), || {
            let mut context = StageContext::new(&ctx.scope, &files, &stage.name, None);
            let drafts = guarded(|| self.worker.run(&work.work, &context));
            Ok((context.settle(drafts)?, context))
        })?;
        self.opened_with.check_unchanged()?;
        files.check_unchanged()?;
        let mut outputs = Vec::with_capacity(drafts.len());
        for mut draft in drafts {
            // The record outlives the names of photos: that an output descends from what the work descends from is the work's to
            // say.
            if draft.origin.is_some() && draft.origin == work.work.origin {
                draft.origin = (draft.name != work.work.name).then(|| work.work.name.clone());
            }
            outputs.push(store(draft, &work.work.name, self.batch, &files)?);
        }
        let mut facts = ctx.facts(self.stage);
        let effort = self.form.effort(&work.work, self.item_size).filter(|effort| *effort != Effort::default());
        facts.extend(effort.as_ref().map(effort_fact));
        let mut list = ComponentList::default();
        list.entry(Section::Kind, stage.kind.name, Covers::Value(&stage.kind.version.into()));
        render_work(&work.work, &mut list);
        self.batch.record(Record {
            key: work.key,
            components: list.to_record(),
            outputs: outputs.clone(),
            seconds: started.elapsed().as_secs_f64(),
            ended: None,
            facts,
        })?;
        Ok(outputs)
    }
}
