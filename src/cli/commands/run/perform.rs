//! One run of a pipeline, in this process or in the worker, with all that goes on beside it: what is shown, `loramill stop`, the
//! keys. For `run` and, again and again, for `watch`.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::commands::run::arguments::RunArguments;
use crate::cli::commands::run::run_status::{RunStatus, hearing_stop};
use crate::cli::device::launch::{Ready, prepare};
use crate::cli::device::request::{Passing, Request, Work};
use crate::cli::global::Global;
use crate::cli::terminal::console::{Console, Verb};
use crate::cli::terminal::device_line::DeviceLine;
use crate::cli::terminal::keys::hearing_keys;
use crate::cli::terminal::progress_line::duration;
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::Cache;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::out::folder::out_folder;
use crate::engine::run::control::StopRequests;
use crate::engine::run::events::StageState;
use crate::engine::run::noop::{Hearing, InputSnapshot};
use crate::engine::run::run_record::RunRecord;
use crate::engine::run::schedule;

/// What is run.
pub struct Turn<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub selection: Selection,
    pub how: &'a RunArguments,
    /// The command line with which the worker does the same.
    pub written: Vec<OsString>,
    /// A snapshot of what the run reads: recorded if it finds nothing to do.
    pub snapshot: Option<InputSnapshot>,
}

/// What came of it.
pub enum Performed {
    /// This process ran the stages.
    Here(RunRecord),
    /// The worker did, and ended with this code.
    ByWorker(ExitCode),
}

impl Turn<'_> {
    /// Runs once, and says how it went.
    ///
    /// # Errors
    /// As `prepare`, and where the run could not go on; a failed stage is none.
    pub fn perform(self, console: &Console, requests: &StopRequests, global: &Global) -> anyhow::Result<Performed> {
        let Self { pipeline, cache, selection, how, written, snapshot } = self;
        let passing = Passing { pipeline, cache, selection: &selection, console, requests };
        let request = Request { arguments: written, work: Work::Run(passing) };
        let device = match prepare(&how.device, &request, global)? {
            Ready::Here(device) => device,
            Ready::Done(code) => return Ok(Performed::ByWorker(code)),
        };
        let options = how.options(selection, device);
        let record = {
            let status = RunStatus::new(cache, &pipeline.folder, console);
            let by = global.describe_device(&options.device);
            let device = DeviceLine::new(pipeline, &options.device, by.as_deref(), &status);
            let hearing = Hearing::new(&device, pipeline);
            let record = hearing_stop(cache, &pipeline.folder, console, requests, || {
                hearing_keys(console, requests, || schedule::run(pipeline, cache, &options, &hearing, requests))
            });
            if let (Ok(Ok(record)), Some(snapshot), false) = (&record, snapshot, hearing.heard_something()) {
                snapshot.keep(pipeline, cache, record)?;
            }
            record
        };
        console.close();
        let record = record??;
        summarise(console, pipeline, &record);
        Ok(Performed::Here(record))
    }
}

/// The lines that end a run.
pub fn summarise(console: &Console, pipeline: &Pipeline, record: &RunRecord) {
    let seconds = duration(record.seconds);
    if record.interrupted {
        console.line(Verb::Stopped, &format!("after {seconds}; the same command resumes from here"));
        return;
    }
    let in_state = |state: StageState| record.stages.iter().filter(|stage| stage.state == state).count();
    let failed = in_state(StageState::Failed);
    if failed > 0 {
        console.line(Verb::Failed, &format!("{} of {} in {seconds}", failed, counted(record.stages.len(), "stage")));
        return;
    }
    for stage in record.stages.iter().filter(|stage| stage.waits_for_user) {
        let note = stage.note.as_deref().unwrap_or_default();
        console.line(Verb::Waiting, &format!("{}: {note}", stage.name));
    }
    if record.did_nothing() {
        console.line(Verb::Done, &format!("nothing to do: {} fresh ({seconds})", counted(record.stages.len(), "stage")));
        return;
    }
    let made: Vec<&str> = record
        .stages
        .iter()
        .filter(|stage| stage.state == StageState::Ran && pipeline.stage(&stage.name).is_some_and(|known| known.owner.is_none()))
        .map(|stage| stage.name.as_str())
        .collect();
    console.line(Verb::Done, &format!("{} in {seconds}: {}", counted(made.len(), "stage"), made.join(", ")));
    if !made.is_empty() {
        console.line(Verb::Done, &format!("results are in `{}`", shown(&out_folder(pipeline))));
    }
}
