//! Runs the pieces of work of an item stage that have no result yet: on the CPU side by side, on the device one at a time.
//! Unaware of when the stage's turn comes.
//!
//! `run` runs the stage and commits it; `run_dirty` runs each piece once though several items share it; `run_claimed` leaves to
//! other processes what they are at; `run_batch` computes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rayon::prelude::*;

use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::cache::trouble::error_message;
use crate::decide::estimate::item_size;
use crate::decide::files::ArtifactFiles;
use crate::decide::keys::row_key;
use crate::decide::recorded;
use crate::decide::verdict::{Basis, ItemPlan, KeyedWork, WorkState};
use crate::graph::stage_id::StageId;
use crate::kind::item::ItemSet;
use crate::kind::item_tree::{Given, ItemTree};
use crate::run::caption_files::write_texts;
use crate::run::commit::{Took, record_row, write_edit_rows};
use crate::run::context::StageContext;
use crate::run::ending::{Ending, Inline};
use crate::run::events::{Counts, StageState};
use crate::run::finish::{check_names, finish};
use crate::run::guard::guarded;
use crate::run::item_runner::ItemRunner;
use crate::run::run_context::RunContext;
use crate::run::show_so_far::{ItemWork, Showing, items_done};
use crate::run::waiting::say_computed_elsewhere;

/// What became of the pieces of work that had to run.
#[derive(Default)]
pub(crate) struct Done {
    /// By place in the list of works.
    pub(crate) outputs: BTreeMap<usize, Vec<Output>>,
    pub(crate) ran: usize,
    pub(crate) failed: Vec<String>,
    /// The errors of those that failed when they ran, by place.
    errors: BTreeMap<usize, String>,
    /// Places of those that were done here, by this process.
    made: HashSet<usize>,
    pub(crate) interrupted: bool,
}

impl Done {
    /// Adds what became of the works at these places. Without an outcome one was not begun: because of an interruption, if there
    /// is one.
    fn take(&mut self, plan: &ItemPlan<'_>, results: Vec<(usize, Option<Result<Vec<Output>>>)>, is_interrupted: bool) {
        for (place, result) in results {
            match result {
                Some(Ok(outputs)) => {
                    self.outputs.insert(place, outputs);
                    self.made.insert(place);
                }
                Some(Err(error)) => {
                    let error = error_message(&error);
                    self.failed.push(format!("{}: {error}", plan.works[place].work.name));
                    self.errors.insert(place, error);
                }
                None => self.interrupted |= is_interrupted,
            }
        }
    }

    /// Nothing was begun.
    pub(crate) fn interrupted() -> Self {
        Self { interrupted: true, ..Self::default() }
    }
}

/// How long a stage sleeps between two looks at what is done elsewhere.
const NAP: Duration = Duration::from_millis(20);

/// Runs what is dirty in `plan` and writes texts; if nothing failed, also what the stage makes of all outputs together, and its
/// row. `inline`: what it did before its own turn. A piece of work that fails is reported in the ending, and is no error.
pub(crate) fn run(
    ctx: &RunContext<'_>,
    id: StageId,
    plan: &ItemPlan<'_>,
    basis: &Basis<'_>,
    files: &ArtifactFiles<'_>,
    inline: Inline,
) -> Result<Ending> {
    let started = Instant::now();
    let stage = &ctx.pipeline.stages[id];
    let work = ItemWork { stage: id, plan, files };
    let showing = Showing::of(ctx, work, basis);
    let done = run_dirty(ctx, work, showing.as_ref())?;
    let total = plan.works.len();
    let ran = done.ran + inline.ran;
    let counts = Counts { total, ran, failed: done.failed.len(), cached: total.saturating_sub(ran + done.failed.len()) };
    let outputs = done.outputs;
    let mut failed = done.failed;
    let mut items = items_done(plan, &outputs);
    if done.interrupted {
        return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts));
    }
    let texts = match stage.stage.editable() {
        Some(editable) => write_texts(ctx, id, &editable, plan, &outputs, &mut items, &mut failed)?,
        None => None,
    };
    if texts.is_some() && (!failed.is_empty() || plan.key.is_none()) {
        // The machine's texts lie in the folder by now, and must be known as such though the stage has not ended.
        write_edit_rows(ctx)?;
    }
    let part = |items: ItemSet| if ctx.options.keep_going { Given::Part(items.into()) } else { Given::Nothing };
    if let Some(first) = failed.first() {
        let counts = Counts { failed: failed.len(), cached: total.saturating_sub(ran + failed.len()), ..counts };
        return Ok(Ending::new(StageState::Failed, part(items), counts).note(first.clone()));
    }
    let state = if counts.ran > 0 { StageState::Ran } else { StageState::Cached };
    let Some(key) = plan.key else {
        let ending = Ending::new(StageState::Blocked, part(items), counts);
        return Ok(ending.note("without the items that failed before"));
    };
    check_names(&stage.name, &items)?;
    let finished = finish(ctx, id, plan.form, basis, &items, files)?;
    let made_more = finished.made > 0;
    items.extend(finished.items);
    check_names(&stage.name, &items)?;
    let tree = ItemTree::of(items);
    // The folder holds the machine's texts by now. What somebody saves from here on is for the next run to find.
    let key = texts.map_or(key, |texts| row_key(stage, &basis.identity, &basis.taken, Some(texts)));
    let seconds = started.elapsed().as_secs_f64() + inline.seconds;
    let same = record_row(ctx, id, basis, key, &tree, Took { seconds, effort: None }, None)?;
    let state = if made_more { StageState::Ran } else { state };
    let ending = Ending::new(state, Given::Whole(tree), counts);
    Ok(Ending { came_out_the_same: same && state == StageState::Ran, ..ending })
}

/// Runs the dirty works among `works`.
pub(crate) fn run_dirty(ctx: &RunContext<'_>, work: ItemWork<'_>, showing: Option<&Showing<'_, '_>>) -> Result<Done> {
    let plan = work.plan;
    let stage = &ctx.pipeline.stages[work.stage];
    let mut done = Done::default();
    let mut dirty: Vec<usize> =
        plan.works.iter().enumerate().filter(|(_, keyed)| keyed.state == WorkState::Dirty).map(|(place, _)| place).collect();
    for keyed in &plan.works {
        if let WorkState::Broken(message) = &keyed.state {
            done.failed.push(format!("{}: {message}", keyed.work.name));
        }
    }
    if dirty.is_empty() {
        return Ok(done);
    }
    if stage.stage.uses_device() {
        // Another process may be at the same works: they are locked one by one.
        run_batch(ctx, work, &dirty, &mut done, showing)?;
        return Ok(done);
    }
    // Items with the same contents are one piece of work.
    let mut first_of: HashMap<Digest, usize> = HashMap::with_capacity(dirty.len());
    let mut copies = Vec::new();
    dirty.retain(|&place| {
        let first = *first_of.entry(plan.works[place].key).or_insert(place);
        if first != place {
            copies.push((place, first));
        }
        first == place
    });
    run_claimed(ctx, work, dirty, &mut done)?;
    for (place, first) in copies {
        if let Some(outputs) = done.outputs.get(&first).cloned() {
            done.outputs.insert(place, outputs);
            done.ran += usize::from(done.made.contains(&first));
        } else if let Some(error) = done.errors.get(&first) {
            done.failed.push(format!("{}: {error}", plan.works[place].work.name));
        }
    }
    Ok(done)
}

/// Does works that no other process or stage is at, and takes the results of the others when they are there.
fn run_claimed(ctx: &RunContext<'_>, work: ItemWork<'_>, mut dirty: Vec<usize>, done: &mut Done) -> Result<()> {
    let ItemWork { stage: id, plan, files } = work;
    let stage = &ctx.pipeline.stages[id];
    let preferred = recorded::preferred_here(&ctx.view(files), stage);
    let ask = ctx.options.selection.ask(id);
    let mut told = false;
    loop {
        let keys: Vec<Digest> = dirty.iter().map(|&place| plan.works[place].key).collect();
        let (claim, taken) = ctx.cache.claim(&keys)?;
        // Somebody may have done them in the meantime.
        let view = &ctx.view(files);
        let (elsewhere, ours) = ctx.cache.with_lease(|lease| {
            let (mut elsewhere, mut ours) = (Vec::new(), Vec::new());
            for &place in &dirty {
                let KeyedWork { work, key, .. } = &plan.works[place];
                let found = if ask.forces(&work.name) { None } else { recorded::result(view, key, &preferred, lease)? };
                match found {
                    Some(outputs) => drop(done.outputs.insert(place, outputs)),
                    None if taken.contains(key) => elsewhere.push(place),
                    None => ours.push(place),
                }
            }
            Ok((elsewhere, ours))
        })?;
        let failed = done.failed.len();
        run_batch(ctx, work, &ours, done, None)?;
        drop(claim);
        let ends = done.interrupted || (done.failed.len() > failed && !ctx.options.keep_going);
        if elsewhere.is_empty() || ends {
            return Ok(());
        }
        if elsewhere.len() == dirty.len() {
            if !told {
                say_computed_elsewhere(ctx, id);
                told = true;
            }
            if ctx.scope.requests.interrupted() {
                done.interrupted = true;
                return Ok(());
            }
            thread::sleep(NAP);
        }
        dirty = elsewhere;
    }
}

/// Does the works at `dirty`.
fn run_batch(
    ctx: &RunContext<'_>,
    work: ItemWork<'_>,
    dirty: &[usize],
    done: &mut Done,
    showing: Option<&Showing<'_, '_>>,
) -> Result<()> {
    let ItemWork { stage: id, plan, files } = work;
    if dirty.is_empty() {
        return Ok(());
    }
    let stage = &ctx.pipeline.stages[id];
    let preferred = recorded::preferred_here(&ctx.view(files), stage);
    let ask = ctx.options.selection.ask(id);
    let cached = plan.works.len() - dirty.len() - done.ran;
    let counts = Counts { total: plan.works.len(), ran: done.ran, cached, ..Counts::default() };
    ctx.tell_start(id, &plan.reasons, counts);

    let batch = ctx.batch();
    let context = StageContext::new(&ctx.scope, files, &stage.name, None);
    let worker = ctx.attempts(id, None, || guarded(|| plan.form.open(&context)))?;
    let runner = ItemRunner {
        ctx,
        stage: id,
        batch: &batch,
        worker: worker.as_ref(),
        opened_with: files,
        preferred: &preferred,
        ask,
        form: plan.form,
        item_size: item_size(ctx.pipeline, id),
        counts: Mutex::new(counts),
        failure: AtomicBool::new(false),
    };
    let results: Vec<(usize, Option<Result<Vec<Output>>>)> = if stage.stage.uses_device() {
        let mut so_far = done.outputs.clone();
        let do_one = |&place: &usize| {
            let outcome = runner.do_one(&plan.works[place]);
            if let (Some(Ok(outputs)), Some(showing)) = (&outcome, showing) {
                so_far.insert(place, outputs.clone());
                showing.one_more(&so_far);
            }
            (place, outcome)
        };
        dirty.iter().map(do_one).collect()
    } else {
        let pool = ctx.pool()?;
        pool.install(|| dirty.par_iter().with_max_len(1).map(|&place| (place, runner.do_one(&plan.works[place]))).collect())
    };
    done.ran = runner.counts.lock().unwrap_or_else(PoisonError::into_inner).ran;
    drop(worker);
    batch.flush()?;

    done.take(plan, results, ctx.scope.requests.interrupted());
    Ok(())
}
