//! Runs what a pipeline lacks: stages whose inputs are there, those of the CPU side by side, those of the device one at a time.
//! Unaware of what a stage computes and of who watches.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::faults::Faults;
use crate::decide::intake::read_inputs;
use crate::decide::lost_texts;
use crate::decide::texts;
use crate::gc::derived::derived_since;
use crate::graph::pipeline::{Pipeline, Producer};
use crate::graph::stage_id::StageId;
use crate::lock_file::LockFile;
use crate::out::folder::out_folder;
use crate::out::materialise;
use crate::run::commit::{settle_rows, withdraw_earlier_shapes};
use crate::run::context::{RunScope, Shared};
use crate::run::control::StopRequests;
use crate::run::events::{Counts, Event, Observer, StageState};
use crate::run::evict::evict_unkept;
use crate::run::run_context::{RunContext, RunOptions};
use crate::run::run_record::{RunRecord, StageReport};
use crate::run::stage::StageRunner;
use crate::run::waiting::wait_for_pipeline;

/// The note of a stage that never had its turn: it follows from what is reported of another.
pub const NOT_STARTED: &str = "not started, because another stage failed";

/// Builds the targets.
///
/// # Errors
/// Only what concerns the run as a whole: an input that cannot be read, a cache that cannot be written. What a stage meets is in
/// the record.
pub fn run(
    pipeline: &Pipeline,
    cache: &Cache,
    options: &RunOptions,
    observer: &dyn Observer,
    requests: &StopRequests,
) -> Result<RunRecord> {
    let started = Instant::now();
    let waiting = wait_for_pipeline(pipeline, cache, observer, requests)?;
    let Some(_pipeline_lock) = waiting else {
        return Ok(RunRecord { stages: Vec::new(), seconds: started.elapsed().as_secs_f64(), interrupted: true });
    };
    cache.register_root(&pipeline.folder)?;
    cache.begin_uses(&pipeline.folder)?;
    cache.forget_old_displaced()?;
    materialise::sweep(&out_folder(pipeline));

    let mut lock = LockFile::read(&pipeline.lock_file())?;
    let needed = options.selection.needed(pipeline);
    let names = needed.iter().map(|&id| pipeline.stages[id].name.clone()).collect();
    observer.event(Event::RunStarted { pipeline: pipeline.file.display().to_string(), stages: names });
    let intake = read_inputs(pipeline, &needed, cache, &lock)?;
    let unknown: HashSet<Digest> = intake.absent.keys().copied().collect();
    if pipeline.settings.is_empty() {
        recover_texts(pipeline, &needed, cache, &lock, observer)?;
    }
    for message in pipeline.photo_remarks.iter().cloned().chain(lost_texts::unread_folders(pipeline)?) {
        observer.event(Event::Said { stage: None, message });
    }
    let shared = Shared::default();
    loop {
        {
            let scope = RunScope { cache, device: &options.device, observer, requests, shared: &shared };
            let ctx = RunContext::new(pipeline, options, scope, &intake, &lock, &unknown, needed.clone());
            let runner = StageRunner::new(&ctx);
            let stages = run_all(&ctx, &runner);
            let damaged = cache.take_damaged().len();
            let failed = stages.iter().any(|stage| stage.state == StageState::Failed);
            if damaged == 0 || !failed || requests.interrupted() {
                return conclude(&ctx, &runner, stages, started);
            }
            let objects = if damaged == 1 { "an object".to_string() } else { format!("{damaged} objects") };
            let derived = derived_since(cache, &[])?;
            let then = if derived.is_empty() { "" } else { "; `loramill fsck` names what was made from damaged bytes" };
            let message = format!(
                "{objects} in the cache held other bytes than were written and went: what is missing is made again{then}"
            );
            observer.event(Event::Said { stage: None, message });
        }
        // Rows of stages that ended before the damage was met are there by now.
        lock = LockFile::read(&pipeline.lock_file())?;
    }
}

/// True if nothing new should begin.
fn is_ending(ctx: &RunContext<'_>, reports: &BTreeMap<StageId, StageReport>) -> bool {
    let failed = reports.values().any(|report| report.state == StageState::Failed);
    ctx.scope.requests.interrupted() || (failed && !ctx.options.keep_going)
}

/// What is left to do when every stage has ended.
fn conclude(ctx: &RunContext<'_>, runner: &StageRunner<'_>, mut stages: Vec<StageReport>, started: Instant) -> Result<RunRecord> {
    settle_rows(ctx, &stages)?;
    runner.restorer.count_restored(ctx, &mut stages);
    ctx.cache.save_stat_index()?;
    withdraw_earlier_shapes(ctx, &stages)?;
    let interrupted = ctx.scope.requests.interrupted();
    let record = RunRecord { stages, seconds: started.elapsed().as_secs_f64(), interrupted };
    // Results with `--set` have no row in the lock.
    if record.is_ok() && ctx.pipeline.settings.is_empty() {
        evict_unkept(ctx, &|id| runner.given(Producer::Stage(id)), &record.stages)?;
        ctx.cache.end_uses(ctx.pipeline.by_default().iter().all(|stage| ctx.needed.contains(stage)))?;
    }
    ctx.scope.observer.event(Event::RunFinished { ok: record.is_ok(), seconds: record.seconds });
    Ok(record)
}

/// Starts the stages whose producers have ended: those of the CPU side by side, those of the device one at a time.
fn run_all(ctx: &RunContext<'_>, runner: &StageRunner<'_>) -> Vec<StageReport> {
    let mut reports: BTreeMap<StageId, StageReport> = BTreeMap::new();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let mut running = 0usize;
        let mut device_is_taken = false;
        loop {
            if !is_ending(ctx, &reports) {
                for &id in &ctx.needed {
                    let uses_device = ctx.pipeline.stages[id].stage.uses_device();
                    if !runner.board.is_ready(ctx, id) || (uses_device && device_is_taken) {
                        continue;
                    }
                    runner.board.start(id);
                    device_is_taken |= uses_device;
                    running += 1;
                    let sender = sender.clone();
                    let faults = Faults::of_this_thread();
                    scope.spawn(move || {
                        faults.follow();
                        let report = runner.run_stage(id);
                        // The receiver outlives every sender.
                        let _ = sender.send((id, uses_device, report));
                    });
                }
            }
            if running == 0 {
                break;
            }
            let (id, used_device, report) = receiver.recv().expect("a running stage reports");
            running -= 1;
            device_is_taken &= !used_device;
            reports.insert(id, report);
        }
    });
    if !ctx.scope.requests.interrupted() {
        for &id in ctx.needed.iter().filter(|id| !reports.contains_key(id)).collect::<Vec<_>>() {
            reports.insert(id, left_over(ctx, id));
        }
    }
    reports.into_values().collect()
}

/// A stage that never had its turn because another failed.
fn left_over(ctx: &RunContext<'_>, id: StageId) -> StageReport {
    let name = ctx.pipeline.stages[id].name.clone();
    let note = Some(NOT_STARTED.to_string());
    let counts = Counts::default();
    ctx.scope.observer.event(Event::StageFinished {
        stage: name.clone(),
        state: StageState::Blocked,
        counts,
        seconds: 0.0,
        note: note.clone(),
        came_out_the_same: false,
    });
    StageReport { name, state: StageState::Blocked, counts, seconds: 0.0, note, waits_for_user: false }
}

/// Puts right what a killed run left in the folders of texts.
fn recover_texts(pipeline: &Pipeline, needed: &[StageId], cache: &Cache, lock: &LockFile, observer: &dyn Observer) -> Result<()> {
    for stage in needed.iter().map(|&id| &pipeline.stages[id]) {
        for message in texts::recover(pipeline, cache, lock, stage)? {
            observer.event(Event::Said { stage: Some(stage.name.clone()), message });
        }
    }
    Ok(())
}
