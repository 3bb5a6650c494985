//! Runs what a pipeline lacks: stages whose inputs are there, those of the CPU side by side, those of the device one at a time. Unaware of
//! what a stage computes and of who watches.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::engine::cache::Cache;
use crate::engine::cache::batch::Batch;
use crate::engine::cache::digest::Digest;
use crate::engine::cache::faults::Faults;
use crate::engine::cache::locks::PipelineLock;
use crate::engine::cache::trouble::told;
use crate::engine::decide::decision;
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::intake::{Intake, read_inputs};
use crate::engine::decide::lints;
use crate::engine::decide::lints::UnstoredTexts;
use crate::engine::decide::lost_texts;
use crate::engine::decide::reason::{Reason, worded};
use crate::engine::decide::texts;
use crate::engine::decide::verdict::{Decision, Verdict};
use crate::engine::decide::view::View;
use crate::engine::gc::derived::derived_since;
use crate::engine::graph::pipeline::{Pipeline, Producer};
use crate::engine::graph::selection::{Ask, Selection};
use crate::engine::kind::item::ItemSet;
use crate::engine::kind::item_tree::Given;
use crate::engine::kind::stage::Form;
use crate::engine::lock_file::LockFile;
use crate::engine::out::folder::out_folder;
use crate::engine::out::materialise;
use crate::engine::run::context::{RunScope, Shared};
use crate::engine::run::control::Wishes;
use crate::engine::run::events::{Counts, Event, Observer, StageState};
use crate::engine::run::guard::guarded;
use crate::engine::run::run_record::{RunRecord, StageReport};

/// The note of a stage that never had its turn: it follows from what is told of another.
pub const NOT_STARTED: &str = "not started, because another stage failed";

/// What the user asks of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub selection: Selection,
    /// A failed item or stage does not stop what does not need it.
    pub keep_going: bool,
    /// Threads of CPU stages; 0 takes one for each core.
    pub jobs: usize,
    pub device: String,
}

/// A run while it goes on.
pub(crate) struct Run<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) cache: &'a Cache,
    pub(crate) options: &'a RunOptions,
    pub(crate) scope: RunScope<'a>,
    pub(crate) intake: &'a Intake,
    /// As it was when the run began.
    pub(crate) lock: &'a LockFile,
    pub(crate) unknown: &'a HashSet<Digest>,
    pub(crate) needed: Vec<usize>,
    board: Mutex<Vec<Place>>,
    lock_now: Mutex<LockFile>,
    /// Held while outputs are put into `out/`.
    pub(crate) showing: Mutex<()>,
    /// What this run has made last of all outputs of a stage together, which may not have ended.
    pub(crate) sheets: Mutex<BTreeMap<usize, ItemSet>>,
    /// Held while a stage of the device runs.
    pub(crate) device: Mutex<()>,
    /// Held while outputs that were not kept are brought back. Never waited for the device under it.
    pub(crate) bringing: Mutex<()>,
    /// What was made again of stages whose turn had come before.
    pub(crate) remade: Mutex<BTreeMap<usize, usize>>,
    pool: OnceLock<rayon::ThreadPool>,
}

/// How far a stage is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    phase: Phase,
    given: Given,
    pub(crate) inline: Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    Ended,
}

/// What a stage did while one that it reads was still publishing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inline {
    pub(crate) ran: usize,
    pub(crate) seconds: f64,
}

/// How a stage ended.
pub(crate) struct Ending {
    pub(crate) state: StageState,
    pub(crate) given: Given,
    pub(crate) counts: Counts,
    pub(crate) note: Option<String>,
    pub(crate) waits_for_user: bool,
    pub(crate) came_out_the_same: bool,
}

impl Ending {
    pub(crate) fn new(state: StageState, given: Given, counts: Counts) -> Self {
        Self { state, given, counts, note: None, waits_for_user: false, came_out_the_same: false }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

/// Builds the targets.
///
/// # Errors
/// Only what concerns the run as a whole: an input that cannot be read, a cache that cannot be written. What a stage meets is in the record.
pub fn run(
    pipeline: &Pipeline,
    cache: &Cache,
    options: &RunOptions,
    observer: &dyn Observer,
    wishes: &Wishes,
) -> Result<RunRecord> {
    let started = Instant::now();
    let waiting = wait_for_pipeline(pipeline, cache, observer, wishes)?;
    let Some(_pipeline_lock) = waiting else {
        return Ok(RunRecord { stages: Vec::new(), seconds: started.elapsed().as_secs_f64(), interrupted: true });
    };
    cache.register_root(&pipeline.folder)?;
    cache.begin_uses(&pipeline.folder)?;
    cache.forget_old_displaced()?;
    materialise::sweep(&out_folder(pipeline));

    let mut lock = LockFile::read(&pipeline.lock_file())?;
    let needed = options.selection.needed(pipeline);
    let names = needed.iter().map(|&index| pipeline.stages[index].name.clone()).collect();
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
            let scope = RunScope { cache, device: &options.device, observer, wishes, shared: &shared };
            let run = Run::new(pipeline, options, scope, &intake, &lock, &unknown, needed.clone());
            let stages = run.schedule();
            let damaged = cache.take_damaged().len();
            let failed = stages.iter().any(|stage| stage.state == StageState::Failed);
            if damaged == 0 || !failed || wishes.interrupted() {
                return run.conclude(stages, started);
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

/// Waits until no other process runs the pipeline; `None` if the user does not want to wait.
pub(crate) fn wait_for_pipeline(
    pipeline: &Pipeline,
    cache: &Cache,
    observer: &dyn Observer,
    wishes: &Wishes,
) -> Result<Option<PipelineLock>> {
    let mut told = false;
    let lock = cache.lock_pipeline(&pipeline.folder, &mut |holder| {
        if let (false, Some(holder)) = (told, holder) {
            let message = format!("waiting for process {} on {}, which runs this pipeline", holder.process, holder.host);
            observer.event(Event::Said { stage: None, message });
            told = true;
        }
        !wishes.interrupted()
    })?;
    if lock.is_some() {
        cache.sweep_run_files(&pipeline.folder)?;
    }
    Ok(lock)
}

/// Puts right what a killed run left in the folders of texts.
fn recover_texts(pipeline: &Pipeline, needed: &[usize], cache: &Cache, lock: &LockFile, observer: &dyn Observer) -> Result<()> {
    for stage in needed.iter().map(|&index| &pipeline.stages[index]) {
        for message in texts::recover(pipeline, cache, lock, stage)? {
            observer.event(Event::Said { stage: Some(stage.name.clone()), message });
        }
    }
    Ok(())
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        options: &'a RunOptions,
        scope: RunScope<'a>,
        intake: &'a Intake,
        lock: &'a LockFile,
        unknown: &'a HashSet<Digest>,
        needed: Vec<usize>,
    ) -> Self {
        let place = Place { phase: Phase::Waiting, given: Given::Nothing, inline: Inline::default() };
        Self {
            pipeline,
            cache: scope.cache,
            options,
            scope,
            intake,
            lock,
            unknown,
            needed,
            board: Mutex::new(vec![place; pipeline.stages.len()]),
            lock_now: Mutex::new(lock.clone()),
            showing: Mutex::default(),
            sheets: Mutex::default(),
            device: Mutex::default(),
            bringing: Mutex::default(),
            remade: Mutex::default(),
            pool: OnceLock::new(),
        }
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Vec<Place>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if nothing new should begin.
    fn is_ending(&self, reports: &BTreeMap<usize, StageReport>) -> bool {
        let failed = reports.values().any(|report| report.state == StageState::Failed);
        self.scope.wishes.interrupted() || (failed && !self.options.keep_going)
    }

    /// What is left to do when every stage has ended.
    fn conclude(&self, mut stages: Vec<StageReport>, started: Instant) -> Result<RunRecord> {
        self.settle_rows(&stages)?;
        self.count_remade(&mut stages);
        self.cache.save_stat_index()?;
        self.withdraw_earlier_shapes(&stages)?;
        let interrupted = self.scope.wishes.interrupted();
        let record = RunRecord { stages, seconds: started.elapsed().as_secs_f64(), interrupted };
        // Results with `--set` have no row in the lock.
        if record.is_ok() && self.pipeline.settings.is_empty() {
            self.let_go_of_unkept(&record.stages)?;
            self.cache.end_uses(self.pipeline.by_default().iter().all(|stage| self.needed.contains(stage)))?;
        }
        self.scope.observer.event(Event::RunFinished { ok: record.is_ok(), seconds: record.seconds });
        Ok(record)
    }

    fn schedule(&self) -> Vec<StageReport> {
        let mut reports: BTreeMap<usize, StageReport> = BTreeMap::new();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let mut running = 0usize;
            let mut device_is_taken = false;
            loop {
                if !self.is_ending(&reports) {
                    for &index in &self.needed {
                        let uses_device = self.pipeline.stages[index].stage.uses_device();
                        if !self.is_ready(index) || (uses_device && device_is_taken) {
                            continue;
                        }
                        self.board()[index].phase = Phase::Running;
                        device_is_taken |= uses_device;
                        running += 1;
                        let sender = sender.clone();
                        let faults = Faults::of_this_thread();
                        scope.spawn(move || {
                            faults.follow();
                            let report = self.run_stage(index);
                            // The receiver outlives every sender.
                            let _ = sender.send((index, uses_device, report));
                        });
                    }
                }
                if running == 0 {
                    break;
                }
                let (index, used_device, report) = receiver.recv().expect("a running stage reports");
                running -= 1;
                device_is_taken &= !used_device;
                reports.insert(index, report);
            }
        });
        if !self.scope.wishes.interrupted() {
            for &index in self.needed.iter().filter(|index| !reports.contains_key(index)).collect::<Vec<_>>() {
                reports.insert(index, self.left_over(index));
            }
        }
        reports.into_values().collect()
    }

    /// A stage that never had its turn because another failed.
    fn left_over(&self, index: usize) -> StageReport {
        let name = self.pipeline.stages[index].name.clone();
        let note = Some(NOT_STARTED.to_string());
        let counts = Counts::default();
        self.scope.observer.event(Event::StageFinished {
            stage: name.clone(),
            state: StageState::Blocked,
            counts,
            seconds: 0.0,
            note: note.clone(),
            came_out_the_same: false,
        });
        StageReport { name, state: StageState::Blocked, counts, seconds: 0.0, note, waits_for_user: false }
    }

    fn is_ready(&self, index: usize) -> bool {
        let board = self.board();
        board[index].phase == Phase::Waiting
            && self.pipeline.producers(index).all(|producer| board[producer].phase == Phase::Ended)
    }

    /// Stages that read `index`, are asked for and still wait, though all else that they read is there.
    pub(crate) fn waiting_consumers(&self, index: usize) -> Vec<usize> {
        let board = self.board();
        let is_there =
            |producer: usize| board[producer].phase == Phase::Ended && matches!(board[producer].given, Given::Whole(_));
        self.needed
            .iter()
            .copied()
            .filter(|&consumer| matches!(self.pipeline.stages[consumer].stage.form(), Form::Items(_)))
            .filter(|&consumer| board[consumer].phase == Phase::Waiting)
            // One that is forced runs once, in its own turn.
            .filter(|&consumer| matches!(self.options.selection.ask(consumer), Ask::Complete))
            .filter(|&consumer| self.pipeline.producers(consumer).any(|producer| producer == index))
            .filter(|&consumer| self.pipeline.producers(consumer).all(|producer| producer == index || is_there(producer)))
            .collect()
    }

    /// What a producer gives, as far as it is known.
    pub(crate) fn given(&self, producer: Producer) -> Given {
        match producer {
            Producer::Input(index) => self.intake.given.get(&index).cloned().unwrap_or(Given::Nothing),
            Producer::Stage(index) => self.board()[index].given.clone(),
        }
    }

    pub(crate) fn view<'g>(&'g self, files: &'g ArtifactFiles<'g>) -> View<'g> {
        let requested = &self.options.selection.targets;
        View { pipeline: self.pipeline, cache: self.cache, files, lock: self.lock, requested, unknown: self.unknown }
    }

    /// The threads of CPU stages, started when the first needs them.
    pub(crate) fn pool(&self) -> Result<&rayon::ThreadPool> {
        if self.pool.get().is_none() {
            let faults = Faults::of_this_thread();
            let threads = rayon::ThreadPoolBuilder::new().num_threads(self.options.jobs);
            let pool = threads.start_handler(move |_| faults.follow()).build().context("starting threads")?;
            // Of two stages one finds the pool of the other.
            let _ = self.pool.set(pool);
        }
        Ok(self.pool.get().expect("just set"))
    }

    fn run_stage(&self, index: usize) -> StageReport {
        let started = Instant::now();
        let stage = &self.pipeline.stages[index];
        let device = stage.stage.uses_device().then(|| self.device.lock().unwrap_or_else(PoisonError::into_inner));
        let ending = guarded(|| self.try_stage(index)).unwrap_or_else(|error| {
            let counts = Counts { total: 1, failed: 1, ..Counts::default() };
            Ending::new(StageState::Failed, Given::Nothing, counts).note(told(&error))
        });
        if stage.stage.uses_device() {
            self.scope.shared.stage_ended();
        }
        drop(device);
        let seconds = started.elapsed().as_secs_f64() + self.board()[index].inline.seconds;
        // One that met a damaged object has another turn.
        if ending.state != StageState::Failed || !self.cache.has_met_damage() {
            self.scope.observer.event(Event::StageFinished {
                stage: stage.name.clone(),
                state: ending.state,
                counts: ending.counts,
                seconds,
                note: ending.note.clone(),
                came_out_the_same: ending.came_out_the_same,
            });
        }
        // Only now may a stage that reads this one start: who watches hears of an end before he hears of what follows from it.
        {
            let mut board = self.board();
            board[index].phase = Phase::Ended;
            board[index].given = ending.given;
        }
        StageReport {
            name: stage.name.clone(),
            state: ending.state,
            counts: ending.counts,
            seconds,
            note: ending.note,
            waits_for_user: ending.waits_for_user,
        }
    }

    fn try_stage(&self, index: usize) -> Result<Ending> {
        let files = ArtifactFiles::new(self.cache, self.intake);
        let ask = self.options.selection.ask(index);
        let decide = || decision::decide(&self.view(&files), index, &|producer| self.given(producer), ask);
        let decision = match decide() {
            // A stage that reads its inputs to know its works may lack what was not kept.
            Err(_) if self.bring_back_all(index, &files)? => decide()?,
            decision => decision?,
        };
        let stage = &self.pipeline.stages[index];
        let read_by_lints = ArtifactFiles::new(self.cache, self.intake);
        let lints = lints::of_stage(&self.view(&read_by_lints), stage, &decision, &UnstoredTexts::default())?;
        if !lints.is_empty() {
            self.scope.observer.event(Event::Linted { stage: stage.name.clone(), lints });
        }
        match decision.verdict {
            Verdict::Waits(ref reasons) => self.wait(reasons),
            Verdict::Kept { tree, reasons } => {
                let counts = Counts { total: tree.count, cached: tree.count, ..Counts::default() };
                let note = format!("left as it was; {}", worded(&reasons));
                Ok(Ending::new(StageState::Cached, Given::Whole(tree), counts).note(note))
            }
            Verdict::Fresh { .. } => self.take_fresh(index, decision),
            Verdict::Items(_) => self.run_items(index, decision, &files),
            Verdict::Whole(_) => self.run_whole(index, decision, &files),
        }
    }

    fn wait(&self, reasons: &[Reason]) -> Result<Ending> {
        for reason in reasons {
            if let Reason::InputAbsent { input } = reason
                && let Some(absent) = self.intake.absent.values().find(|absent| absent.name == *input)
            {
                return Err(absent.error());
            }
        }
        let waits_for_user = reasons.iter().any(|reason| matches!(reason, Reason::NothingPicked { .. }));
        let ending = Ending::new(StageState::Blocked, Given::Nothing, Counts::default()).note(worded(reasons));
        Ok(Ending { waits_for_user, ..ending })
    }

    pub(crate) fn take_fresh(&self, index: usize, decision: Decision<'_>) -> Result<Ending> {
        let Verdict::Fresh { key, tree, recorded, ended } = decision.verdict else { unreachable!("asked for fresh stages only") };
        self.show_outputs(index, &tree)?;
        // Names of photos are in no key of a stage that runs as a whole, and in what the lock says of its input.
        if !recorded || !self.has_input_rows(index) {
            self.write_row(index, key, &tree)?;
        }
        let inline = self.board()[index].inline;
        let counts = Counts { total: tree.count, ran: inline.ran, cached: tree.count - inline.ran.min(tree.count), failed: 0 };
        let state = if inline.ran > 0 { StageState::Ran } else { StageState::Cached };
        let ending = Ending::new(state, Given::Whole(tree), counts);
        Ok(Ending { note: ended, ..ending })
    }

    /// The lock with the rows of the stages that have ended.
    pub(crate) fn lock_now(&self) -> MutexGuard<'_, LockFile> {
        self.lock_now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts outputs where others can read them, without ending the stage.
    pub(crate) fn show(&self, index: usize, given: Given) {
        self.board()[index].given = given;
    }

    pub(crate) fn batch(&self) -> Batch<'a> {
        self.cache.batch()
    }
}
