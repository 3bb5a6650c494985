//! Runs one stage, from the decision to its end: schedule → stage → items or whole → the kind's own work. Unaware of which stage
//! comes next.

use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::cache::digest::Digest;
use crate::cache::trouble::error_message;
use crate::decide::decision;
use crate::decide::files::ArtifactFiles;
use crate::decide::lints::{self, UnstoredTexts};
use crate::decide::reason::{Reason, worded};
use crate::decide::restore_plan::{inputs_of_dirty, read_by};
use crate::decide::verdict::{Basis, Decision, ItemPlan, Verdict, WholePlan};
use crate::graph::pipeline::Producer;
use crate::graph::selection::Ask;
use crate::graph::stage_id::StageId;
use crate::kind::item::ItemSet;
use crate::kind::item_tree::{Given, ItemTree};
use crate::run::board::Board;
use crate::run::commit::{has_input_rows, show_outputs, write_row};
use crate::run::ending::{Ending, Inline};
use crate::run::events::{Counts, Event, StageState};
use crate::run::from_out::missing;
use crate::run::guard::guarded;
use crate::run::items::{self, Done};
use crate::run::restore_evicted::{Restored, Restorer};
use crate::run::run_context::RunContext;
use crate::run::run_record::StageReport;
use crate::run::show_so_far::{ItemWork, Showing, items_done, show_so_far};
use crate::run::waiting::wait_for_key;
use crate::run::whole;

/// Runs stages of one run, each once in its turn.
pub(crate) struct StageRunner<'a> {
    ctx: &'a RunContext<'a>,
    pub(crate) board: Board,
    pub(crate) restorer: Restorer,
}

impl<'a> StageRunner<'a> {
    /// All stages wait.
    pub(crate) fn new(ctx: &'a RunContext<'a>) -> Self {
        Self { ctx, board: Board::new(&ctx.pipeline.stages), restorer: Restorer::default() }
    }

    /// What a producer gives so far; while it publishes, a part.
    pub(crate) fn given(&self, producer: Producer) -> Given {
        self.board.given(self.ctx, producer)
    }

    /// The whole turn of a stage. An error is in the report.
    pub(crate) fn run_stage(&self, id: StageId) -> StageReport {
        let started = Instant::now();
        let stage = &self.ctx.pipeline.stages[id];
        let device = stage.stage.uses_device().then(|| self.ctx.device.lock().unwrap_or_else(PoisonError::into_inner));
        let ending = guarded(|| self.try_stage(id)).unwrap_or_else(|error| {
            let counts = Counts { total: 1, failed: 1, ..Counts::default() };
            Ending::new(StageState::Failed, Given::Nothing, counts).note(error_message(&error))
        });
        if stage.stage.uses_device() {
            self.ctx.scope.shared.stage_ended();
        }
        drop(device);
        let seconds = started.elapsed().as_secs_f64() + self.board.inline(id).seconds;
        // One that met a damaged object has another turn.
        if ending.state != StageState::Failed || !self.ctx.cache.has_met_damage() {
            self.ctx.scope.observer.event(Event::StageFinished {
                stage: stage.name.clone(),
                state: ending.state,
                counts: ending.counts,
                seconds,
                note: ending.note.clone(),
                came_out_the_same: ending.came_out_the_same,
            });
        }
        // Only now may a stage that reads this one start: observers get the end of a stage before what follows from it.
        self.board.end(id, ending.given);
        StageReport {
            name: stage.name.clone(),
            state: ending.state,
            counts: ending.counts,
            seconds,
            note: ending.note,
            waits_for_user: ending.waits_for_user,
        }
    }

    fn try_stage(&self, id: StageId) -> Result<Ending> {
        let files = ArtifactFiles::new(self.ctx.cache, self.ctx.intake);
        let Decision { basis, verdict } = self.decide(id, &files)?;
        match verdict {
            Verdict::Waits(reasons) => self.blocked(&reasons),
            Verdict::Kept { tree, reasons } => {
                let counts = Counts { total: tree.count, cached: tree.count, ..Counts::default() };
                let note = format!("left as it was; {}", worded(&reasons));
                Ok(Ending::new(StageState::Cached, Given::Whole(tree), counts).note(note))
            }
            Verdict::Fresh { key, tree, recorded, ended } => self.take_fresh(id, key, tree, recorded, ended),
            Verdict::Items(plan) => self.run_items(id, &plan, &basis, &files),
            Verdict::Whole(plan) => self.run_whole(id, &plan, &files),
        }
    }

    /// The verdict, and what the stage remarks on its inputs.
    fn decide<'s>(&'s self, id: StageId, files: &'s ArtifactFiles<'s>) -> Result<Decision<'s>> {
        let ask = self.ctx.options.selection.ask(id);
        let given = |producer| self.given(producer);
        let decide = || decision::decide(&self.ctx.view(files), id, &given, ask);
        let decision = match decide() {
            // A stage that reads its inputs to know its works may lack what was evicted.
            Err(_) if self.restorer.restore_all(self.ctx, &given, id, files)? => decide()?,
            decision => decision?,
        };
        let stage = &self.ctx.pipeline.stages[id];
        let read_by_lints = ArtifactFiles::new(self.ctx.cache, self.ctx.intake);
        let lints = lints::of_stage(&self.ctx.view(&read_by_lints), stage, &decision, &UnstoredTexts::default())?;
        if !lints.is_empty() {
            self.ctx.scope.observer.event(Event::Linted { stage: stage.name.clone(), lints });
        }
        Ok(decision)
    }

    fn blocked(&self, reasons: &[Reason]) -> Result<Ending> {
        for reason in reasons {
            if let Reason::InputAbsent { input } = reason
                && let Some(absent) = self.ctx.intake.absent.values().find(|absent| absent.name == *input)
            {
                return Err(absent.error());
            }
        }
        let waits_for_user = reasons.iter().any(|reason| matches!(reason, Reason::NothingPicked { .. }));
        let ending = Ending::new(StageState::Blocked, Given::Nothing, Counts::default()).note(worded(reasons));
        Ok(Ending { waits_for_user, ..ending })
    }

    /// A stage that is up to date: brings `out/` and the lock to it.
    fn take_fresh(&self, id: StageId, key: Digest, tree: ItemTree, recorded: bool, ended: Option<String>) -> Result<Ending> {
        show_outputs(self.ctx, id, &tree)?;
        // Names of photos are in no key of a stage that runs as a whole, and in what the lock says of its input.
        if !recorded || !has_input_rows(self.ctx, id) {
            write_row(self.ctx, id, key, &tree)?;
        }
        let inline = self.board.inline(id);
        let counts = Counts { total: tree.count, ran: inline.ran, cached: tree.count - inline.ran.min(tree.count), failed: 0 };
        let state = if inline.ran > 0 { StageState::Ran } else { StageState::Cached };
        let ending = Ending::new(state, Given::Whole(tree), counts);
        Ok(Ending { note: ended, ..ending })
    }

    fn run_items(&self, id: StageId, plan: &ItemPlan<'_>, basis: &Basis<'_>, files: &ArtifactFiles<'_>) -> Result<Ending> {
        if let Some(reason) = plan.waits_for_decision() {
            bail!("{reason}");
        }
        let inline = self.board.inline(id);
        match self.restorer.restore(self.ctx, &|producer| self.given(producer), id, inputs_of_dirty(plan))? {
            Restored::Here => items::run(self.ctx, id, plan, basis, files, inline),
            Restored::Interrupted => {
                let total = plan.works.len();
                let counts = Counts { total, ran: inline.ran, failed: 0, cached: total.saturating_sub(inline.ran) };
                Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts))
            }
        }
    }

    fn run_whole(&self, id: StageId, plan: &WholePlan<'_>, files: &ArtifactFiles<'_>) -> Result<Ending> {
        let stage = &self.ctx.pipeline.stages[id];
        let interrupted = || Ok(Ending::new(StageState::Interrupted, Given::Nothing, Counts::default()));
        let Some(key) = plan.key else {
            let reasons = &plan.reasons;
            let note = if reasons.is_empty() { "some of its items failed before".to_string() } else { worded(reasons) };
            return Ok(Ending::new(StageState::Blocked, Given::Nothing, Counts::default()).note(note));
        };
        let Some(_lock) = wait_for_key(self.ctx, id, &key)? else { return interrupted() };
        // Another process may have done it in the meantime, or some of it.
        let given = |producer| self.given(producer);
        let ask = self.ctx.options.selection.ask(id);
        let Decision { basis, verdict } = decision::decide(&self.ctx.view(files), id, &given, ask)?;
        match verdict {
            Verdict::Fresh { key, tree, recorded, ended } => self.take_fresh(id, key, tree, recorded, ended),
            Verdict::Whole(plan) if plan.key == Some(key) => {
                let needed = read_by(&self.ctx.view(files), &basis.taken)?;
                if self.restorer.restore(self.ctx, &given, id, needed)? == Restored::Interrupted {
                    return interrupted();
                }
                whole::run(self.ctx, id, &plan, &basis, key, files, &|items| self.published(id, items))
            }
            Verdict::Whole(_) | Verdict::Items(_) | Verdict::Kept { .. } | Verdict::Waits(_) => {
                bail!("what `{}` reads changed while it waited: run again", stage.name)
            }
        }
    }

    /// Runs pieces of work alone: what they give is recorded, and neither shown nor in the lock.
    pub(crate) fn run_pieces(&self, id: StageId, plan: &ItemPlan<'_>, files: &ArtifactFiles<'_>) -> Result<Done> {
        match self.restorer.restore(self.ctx, &|producer| self.given(producer), id, inputs_of_dirty(plan))? {
            Restored::Here => items::run_dirty(self.ctx, ItemWork { stage: id, plan, files }, None),
            Restored::Interrupted => Ok(Done::interrupted()),
        }
    }

    /// Gives others what a stage has published so far, and runs those that wait for it.
    fn published(&self, id: StageId, items: ItemSet) {
        self.board.publish(id, Given::Part(items.into()));
        for consumer in self.board.waiting_consumers(self.ctx, id) {
            self.run_inline(consumer);
        }
    }

    /// Runs what a consumer lacks of what has been published so far. If that fails, the stage that publishes goes on; the
    /// consumer tries again when its own turn comes.
    fn run_inline(&self, consumer: StageId) {
        let started = Instant::now();
        let outcome = guarded(|| {
            let files = ArtifactFiles::new(self.ctx.cache, self.ctx.intake);
            let given = |producer| self.given(producer);
            let Decision { basis, verdict } = decision::decide(&self.ctx.view(&files), consumer, &given, Ask::Complete)?;
            let Verdict::Items(plan) = &verdict else { return Ok(0) };
            // What was evicted is restored in the consumer's own turn: nothing else is made while this stage runs.
            if plan.waits_for_decision().is_some() || !missing(self.ctx, inputs_of_dirty(plan)).is_empty() {
                return Ok(0);
            }
            let work = ItemWork { stage: consumer, plan, files: &files };
            let showing = Showing::of(self.ctx, work, &basis);
            let done = items::run_dirty(self.ctx, work, showing.as_ref())?;
            self.show_inline(consumer, plan, &done, showing.as_ref());
            Ok(done.ran)
        });
        let ran = outcome.unwrap_or_else(|error| {
            self.ctx.say(consumer, &format!("could not run on what is there so far: {error:#}"));
            0
        });
        self.board.add_inline(consumer, Inline { ran, seconds: started.elapsed().as_secs_f64() });
    }

    /// Shows what a consumer has made of what is published so far, all together where nothing of it failed.
    fn show_inline(&self, consumer: StageId, works: &ItemPlan<'_>, done: &Done, showing: Option<&Showing<'_, '_>>) {
        // Texts that people may edit lie in a folder of their own, which is brought up to date in the stage's own turn.
        if self.ctx.pipeline.stages[consumer].stage.editable().is_some() {
            return;
        }
        let items = items_done(works, &done.outputs);
        match showing {
            Some(showing) if done.failed.is_empty() && !done.interrupted => showing.with_sheet(items),
            Some(_) => {}
            None => {
                show_so_far(self.ctx, consumer, items, &[]);
            }
        }
    }
}
