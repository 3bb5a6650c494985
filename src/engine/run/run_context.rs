//! What all stages of one run have in common: the pipeline, the cache, what was read, and who watches. Unaware of how far the run
//! is.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::cache::batch::Batch;
use crate::cache::digest::Digest;
use crate::cache::faults::Faults;
use crate::decide::files::ArtifactFiles;
use crate::decide::intake::Intake;
use crate::decide::reason::Reason;
use crate::decide::view::View;
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::Selection;
use crate::graph::stage_id::StageId;
use crate::kind::item::ItemSet;
use crate::lock_file::LockFile;
use crate::run::context::RunScope;
use crate::run::events::{Counts, Event};
use crate::run::guard::with_remedy;
use crate::run::retry;

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
pub(crate) struct RunContext<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) cache: &'a Cache,
    pub(crate) options: &'a RunOptions,
    pub(crate) scope: RunScope<'a>,
    pub(crate) intake: &'a Intake,
    /// As it was when the run began.
    pub(crate) lock: &'a LockFile,
    pub(crate) unknown: &'a HashSet<Digest>,
    /// The stages that the targets need, each after those it reads.
    pub(crate) needed: Vec<StageId>,
    lock_now: Mutex<LockFile>,
    /// Held while outputs are put into `out/`.
    pub(crate) showing: Mutex<()>,
    /// Held while a stage of the device runs.
    pub(crate) device: Mutex<()>,
    /// By stage, what this run has made last of all its outputs together, though the stage may not have ended.
    pub(crate) sheets: Mutex<BTreeMap<StageId, ItemSet>>,
    pool: OnceLock<rayon::ThreadPool>,
}

impl<'a> RunContext<'a> {
    /// No row is written yet, and no thread of the pool started. `unknown`: as in `View`.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        options: &'a RunOptions,
        scope: RunScope<'a>,
        intake: &'a Intake,
        lock: &'a LockFile,
        unknown: &'a HashSet<Digest>,
        needed: Vec<StageId>,
    ) -> Self {
        let (showing, device, sheets, pool) = (Mutex::default(), Mutex::default(), Mutex::default(), OnceLock::new());
        let (cache, lock_now) = (scope.cache, Mutex::new(lock.clone()));
        Self { pipeline, cache, options, scope, intake, lock, unknown, needed, lock_now, showing, device, sheets, pool }
    }

    /// For decisions of this run. They see the lock as it was when the run began.
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

    /// The lock with the rows of the stages that have ended.
    pub(crate) fn lock_now(&self) -> MutexGuard<'_, LockFile> {
        self.lock_now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of its own on the cache of this run: the caller flushes it.
    pub(crate) fn batch(&self) -> Batch<'a> {
        self.cache.batch()
    }

    /// What may explain a result and does not decide it.
    pub(crate) fn facts(&self, id: StageId) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        if self.pipeline.stages[id].stage.uses_device() {
            facts.insert("device".to_string(), self.options.device.clone());
        }
        facts
    }

    /// Does `work` of a stage, again where its `retry:` says so and the failure may pass. `item` is what is tried, if it is one
    /// of several.
    pub(crate) fn attempts<T>(&self, id: StageId, item: Option<&str>, work: impl FnMut() -> Result<T>) -> Result<T> {
        let stage = &self.pipeline.stages[id];
        let tell = |attempt: u32, error: &anyhow::Error| {
            let what = item.map(|item| format!("{item}: ")).unwrap_or_default();
            let message = format!("{what}{error:#}; attempt {attempt} of {}", stage.retry + 1);
            self.say(id, &message);
        };
        let outcome = retry::attempts(stage.retry, &|| self.scope.requests.interrupted(), &tell, work);
        outcome.map_err(|error| with_remedy(error, &stage.stage.memory_savers()))
    }

    /// Tells watchers a line about the stage `id`.
    pub(crate) fn say(&self, id: StageId, message: &str) {
        let stage = Some(self.pipeline.stages[id].name.clone());
        self.scope.observer.event(Event::Said { stage, message: message.to_string() });
    }

    /// Tells that a stage has something to do.
    pub(crate) fn tell_start(&self, id: StageId, reasons: &[Reason], counts: Counts) {
        let stage = &self.pipeline.stages[id];
        let (kind, reasons) = (stage.kind.name.to_string(), reasons.to_vec());
        self.scope.observer.event(Event::StageStarted { stage: stage.name.clone(), kind, reasons, counts });
    }
}
