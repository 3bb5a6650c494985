//! Restores outputs that their stages did not keep, for a stage that must run: from `out/`, or made again. Lock file, records of
//! stages and `out/` stay as they are, because nothing new is made. Unaware of which stages keep nothing.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::decide::decision;
use crate::decide::files::ArtifactFiles;
use crate::decide::restore_plan;
use crate::decide::restore_plan::{Give, RestorePlan};
use crate::decide::taken;
use crate::decide::verdict::{Basis, ItemPlan};
use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::selection::Ask;
use crate::graph::stage_id::StageId;
use crate::kind::item::{Artifact, Item};
use crate::kind::item_tree::{Given, ItemTree};
use crate::kind::stage::{Draft, Ended, Form, WholeStage};
use crate::run::context::{Publishing, StageContext, store};
use crate::run::events::{Counts, Event, StageState};
use crate::run::from_out::missing;
use crate::run::guard::guarded;
use crate::run::items::run_dirty;
use crate::run::run_context::RunContext;
use crate::run::run_record::StageReport;
use crate::run::show_so_far::ItemWork;
use crate::run::whole::keep_only_what_is_read;

/// What became of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// All that a stage made which does not keep its outputs is here.
    Here,
    /// The user wants an end.
    Interrupted,
}

/// Restores evicted outputs, for one reader at a time.
#[derive(Default)]
pub(crate) struct Restorer {
    /// Held while outputs are restored. Never waited for the device under it.
    one_at_a_time: Mutex<()>,
    /// By stage, how many outputs were made again after its turn.
    restored: Mutex<BTreeMap<StageId, usize>>,
}

impl Restorer {
    /// Restores all that the stage `reader` may read. True if anything was missing.
    pub(crate) fn restore_all(
        &self,
        ctx: &RunContext<'_>,
        given: &Give<'_>,
        reader: StageId,
        files: &ArtifactFiles<'_>,
    ) -> Result<bool> {
        let plans = restore_plan::plan_all(&ctx.view(files), reader, &give(ctx, given))?;
        let from_out = plans.iter().flat_map(|plan| plan.from_out.iter().map(|(artifact, _)| artifact.clone()));
        let made = plans.iter().flat_map(|plan| plan.items.iter().flat_map(|item| item.fields.values().cloned()));
        let needed: Vec<Artifact> = from_out.chain(made).collect();
        Ok(!needed.is_empty() && self.restore(ctx, given, reader, needed)? == Restored::Here)
    }

    /// Restores what the stage `reader` needs, as far as stages made it that do not keep their outputs.
    ///
    /// # Errors
    /// It cannot be made again, or comes out different.
    pub(crate) fn restore(
        &self,
        ctx: &RunContext<'_>,
        given: &Give<'_>,
        reader: StageId,
        needed: impl IntoIterator<Item = Artifact>,
    ) -> Result<Restored> {
        let missing = missing(ctx, needed);
        if missing.is_empty() {
            return Ok(Restored::Here);
        }
        let stages = &ctx.pipeline.stages;
        let may_use_device =
            || ctx.pipeline.needed([reader]).into_iter().any(|id| !stages[id].keep && stages[id].stage.uses_device());
        // A stage of the device holds it already.
        let device = (!stages[reader].stage.uses_device() && may_use_device())
            .then(|| ctx.device.lock().unwrap_or_else(PoisonError::into_inner));
        let one_at_a_time = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let mut distrusted: HashSet<Digest> = HashSet::new();
        loop {
            let files = ArtifactFiles::new(ctx.cache, ctx.intake);
            let plans = restore_plan::plan(&ctx.view(&files), reader, missing.iter().cloned(), &give(ctx, given), &distrusted)?;
            let before = distrusted.len();
            for plan in &plans {
                for (artifact, file) in &plan.from_out {
                    if !file.take(ctx.cache, &artifact.digest)? {
                        distrusted.insert(artifact.digest);
                    }
                }
            }
            if distrusted.len() > before {
                continue;
            }
            for plan in plans.iter().filter(|plan| !plan.items.is_empty()) {
                if self.make_again(ctx, given, plan, &files)? == Restored::Interrupted {
                    return Ok(Restored::Interrupted);
                }
            }
            break;
        }
        drop(one_at_a_time);
        drop(device);
        Ok(Restored::Here)
    }

    /// Makes outputs of a stage again, and says so.
    fn make_again(
        &self,
        ctx: &RunContext<'_>,
        given: &Give<'_>,
        plan: &RestorePlan,
        files: &ArtifactFiles<'_>,
    ) -> Result<Restored> {
        let stage = &ctx.pipeline.stages[plan.stage];
        let reader = &ctx.pipeline.stages[plan.reader].name;
        let view = &ctx.view(files);
        let decision = decision::decide(view, plan.stage, &give(ctx, given), Ask::Complete)?;
        let started = Instant::now();
        let made = guarded(|| match stage.stage.form() {
            Form::Items(form) => {
                let works = restore_plan::works_of(view, stage, &decision, &plan.items)?;
                let works = ItemPlan { form, key: None, works, reasons: vec![plan.reason(&ctx.pipeline.stages)] };
                let done = run_dirty(ctx, ItemWork { stage: plan.stage, plan: &works, files }, None)?;
                match done.failed.into_iter().next() {
                    Some(first) => Err(anyhow!("{first}")),
                    None if done.interrupted => Ok(None),
                    None => Ok(Some(works.works.len())),
                }
            }
            Form::Whole(form) => make_whole_again(ctx, plan, form, &decision.basis, files),
        });
        let outcome = made.and_then(|made| {
            if made.is_some() {
                check_made(ctx, stage, &plan.items)?;
            }
            Ok(made)
        });
        let ran = outcome.as_ref().ok().copied().flatten().unwrap_or(0);
        let total = plan.items.len().max(ran);
        let (state, note) = match &outcome {
            Ok(Some(_)) => (StageState::Ran, Some(format!("made again for `{reader}`"))),
            Ok(None) => (StageState::Interrupted, None),
            Err(error) => (StageState::Failed, Some(format!("{error:#}"))),
        };
        let failed = usize::from(state == StageState::Failed);
        ctx.scope.observer.event(Event::StageFinished {
            stage: stage.name.clone(),
            state,
            counts: Counts { total, ran, failed, cached: 0 },
            seconds: started.elapsed().as_secs_f64(),
            note,
            came_out_the_same: state == StageState::Ran,
        });
        let why = || format!("it needs outputs of `{}` that were not kept", stage.name);
        match outcome.with_context(why)? {
            None => Ok(Restored::Interrupted),
            Some(_) => {
                *self.restored.lock().unwrap_or_else(PoisonError::into_inner).entry(plan.stage).or_default() += ran;
                Ok(Restored::Here)
            }
        }
    }

    /// Counts what was made again after the turn of its stage.
    pub(crate) fn count_restored(&self, ctx: &RunContext<'_>, reports: &mut [StageReport]) {
        for (&id, &ran) in self.restored.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let name = &ctx.pipeline.stages[id].name;
            for report in reports.iter_mut().filter(|report| report.name == *name && report.state == StageState::Cached) {
                report.state = StageState::Ran;
                report.counts.ran += ran;
                report.counts.cached = report.counts.cached.saturating_sub(ran);
            }
        }
    }
}

/// What producers give: those of this run, and for others what the lock names.
fn give<'g>(ctx: &'g RunContext<'_>, given: &'g Give<'g>) -> impl Fn(Producer) -> Given + 'g {
    move |producer| match (given(producer), producer) {
        (Given::Nothing, Producer::Stage(id)) => last_row_of(ctx, &ctx.pipeline.stages[id]),
        (given, _) => given,
    }
}

fn last_row_of(ctx: &RunContext<'_>, stage: &LoadedStage) -> Given {
    let row = ctx.lock.stages.get(&stage.name).and_then(|rows| rows.last());
    let here = row.filter(|row| ctx.cache.path(&row.out).exists());
    here.map_or(Given::Nothing, |row| Given::Whole(ItemTree::in_cache(row.out, row.items as usize)))
}

/// Runs a whole stage once more for the sake of its outputs. How many there are; `None` if the user wants an end.
fn make_whole_again(
    ctx: &RunContext<'_>,
    plan: &RestorePlan,
    form: &dyn WholeStage,
    basis: &Basis<'_>,
    files: &ArtifactFiles<'_>,
) -> Result<Option<usize>> {
    let stage = &ctx.pipeline.stages[plan.stage];
    let mut resolved = taken::resolve(&ctx.view(files), &basis.taken, true)?;
    keep_only_what_is_read(&mut resolved, basis);
    ctx.tell_start(
        plan.stage,
        &[plan.reason(&ctx.pipeline.stages)],
        Counts { total: form.forecast(&resolved).len().max(1), ..Counts::default() },
    );
    // What an earlier run left would be gone on from, and its checkpoints are not here.
    let state = ctx.cache.scratch_folder()?;
    let published: Mutex<Vec<Output>> = Mutex::default();
    let publish = |draft: Draft| {
        let batch = ctx.batch();
        let output = store(draft, "", &batch, files)?;
        batch.flush()?;
        published.lock().unwrap_or_else(PoisonError::into_inner).push(output);
        Ok(())
    };
    let publishing = Publishing { publish: &publish, state: &state };
    let mut context = StageContext::new(&ctx.scope, files, &stage.name, Some(publishing));
    let ended = ctx.attempts(plan.stage, None, || guarded(|| form.run(&resolved, &context)));
    let ended = context.settle(ended);
    drop(context);
    fs::remove_dir_all(&state).with_context(|| format!("removing `{}`", state.display()))?;
    files.check_unchanged()?;
    match ended {
        Ok(Ended::Interrupted) => Ok(None),
        Err(_) if ctx.scope.requests.interrupted() => Ok(None),
        Err(error) => Err(error),
        Ok(Ended::Done | Ended::Stopped(_)) => Ok(Some(published.into_inner().unwrap_or_else(PoisonError::into_inner).len())),
    }
}

/// An error if what was made again is not what it was.
fn check_made(ctx: &RunContext<'_>, stage: &LoadedStage, items: &[Item]) -> Result<()> {
    for item in items {
        let artifacts = stage.kind.writes.iter().filter_map(|field| item.fields.get(*field));
        if artifacts.into_iter().any(|artifact| !ctx.cache.contains(&artifact.digest, artifact.size)) {
            bail!(
                "`{}` of `{}` did not come out as it was, because it was made in another way then (on another device): run again \
                 with `--force {}`",
                item.name,
                stage.name,
                stage.name
            );
        }
    }
    Ok(())
}
