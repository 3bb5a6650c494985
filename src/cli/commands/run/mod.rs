//! `loramill run`: builds what a pipeline lacks.

mod run_status;

use std::process::ExitCode;

use clap::Args;

use crate::cli::commands::run::run_status::{RunStatus, hearing_stop};
use crate::cli::device::check::check_device;
use crate::cli::device::launch::{Ready, prepare};
use crate::cli::device::request::{Passing, Request, Work};
use crate::cli::device::signals::listen_to_signals;
use crate::cli::exit::INTERRUPTED;
use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::refuse_unusable;
use crate::cli::target::selection::SelectionArguments;
use crate::cli::target::targets::TargetArguments;
use crate::cli::terminal::console::{Console, Format, Verb};
use crate::cli::terminal::device_line::DeviceLine;
use crate::cli::terminal::keys::hearing_keys;
use crate::cli::terminal::progress_line::duration;
use crate::cli::terminal::wording::{counted, shown};
use crate::cli::walls::Reach;
use crate::computer::machine::process::peak_memory;
use crate::engine::cache::Cache;
use crate::engine::cache::bytes::size;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::out::folder::out_folder;
use crate::engine::run::control::Wishes;
use crate::engine::run::events::StageState;
use crate::engine::run::noop::{self, Footing, Hearing, Repeated};
use crate::engine::run::run_record::RunRecord;
use crate::engine::run::schedule::{self, RunOptions};

/// Build what changed since the last run
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub what: TargetArguments,
    #[command(flatten)]
    which: SelectionArguments,
    /// Go on with what does not need a failed item or stage
    #[arg(short, long)]
    keep_going: bool,
    /// Threads for pictures and texts [default: one for each core]
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,
    /// Where networks run: `auto`, `cpu`, `libtorch:0`
    #[arg(long, default_value = "auto")]
    device: String,
    /// Say what would run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// How progress is written [default: bars on a terminal, else plain lines]
    #[arg(long, value_name = "FORMAT")]
    progress: Option<Format>,
    /// Say how much memory was needed
    #[arg(short, long)]
    verbose: bool,
}

impl Arguments {
    /// What the command may write.
    pub fn reach(&self, global: &Global) -> Reach {
        Reach::project(self.what.pipeline().as_deref(), global).unless_on_card(&self.device)
    }
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let wishes = Wishes::default();
    listen_to_signals(&wishes)?;
    let console = Console::new(arguments.progress, global.is_quiet());
    let footing = match arguments.glance(global, &console, &wishes)? {
        Glance::AtRest(pipeline, record) => {
            console.close();
            summarise(&console, &pipeline, &record);
            return Ok(arguments.conclude(&console, &record));
        }
        Glance::Footing(footing) => footing,
    };

    let (pipeline, targets) = arguments.what.open()?;
    let selection = arguments.which.of(&pipeline, targets)?;
    if !arguments.dry_run {
        check_device(&arguments.device, global)?;
    }
    let cache = open_cache(&pipeline, global)?;
    if arguments.dry_run {
        return crate::cli::commands::plan::show(&pipeline, &cache, &selection, false, false);
    }
    if !arguments.keep_going {
        refuse_unusable(&pipeline, &selection.needed(&pipeline))?;
    }
    let passing = Passing { pipeline: &pipeline, cache: &cache, selection: &selection, console: &console, wishes: &wishes };
    let device = match prepare(&arguments.device, &Request::of_this_process(Work::Run(passing)), global)? {
        Ready::Here(device) => device,
        Ready::Done(code) => return Ok(code),
    };
    let options = RunOptions { selection, keep_going: arguments.keep_going, jobs: arguments.jobs, device };
    let record = perform(&pipeline, &cache, &options, footing, &console, &wishes, global)?;
    Ok(arguments.conclude(&console, &record))
}

/// What can be told of a run before its photos are listed.
enum Glance {
    /// That nothing changed since one that found nothing to do.
    AtRest(Box<Pipeline>, RunRecord),
    /// What it rests on, if it can be told later whether that changed.
    Footing(Option<Footing>),
}

impl Arguments {
    fn glance(&self, global: &Global, console: &Console, wishes: &Wishes) -> anyhow::Result<Glance> {
        // Whatever is wrong here is found again, and said, where everything is looked at.
        let known = || {
            let (pipeline, targets) = self.what.glance()?;
            let selection = self.which.of(&pipeline, targets).ok()?;
            let cache = open_cache(&pipeline, global).ok()?;
            Some((pipeline, selection, cache))
        };
        let Some((pipeline, selection, cache)) = (if self.dry_run { None } else { known() }) else {
            return Ok(Glance::Footing(None));
        };
        match noop::repeat(&pipeline, &cache, &selection, console, wishes)? {
            Repeated::AtRest(record) => Ok(Glance::AtRest(Box::new(pipeline), record)),
            Repeated::Changed => Ok(Glance::Footing(None)),
            Repeated::Unknown => Ok(Glance::Footing(Footing::take(&pipeline, &cache, &selection)?)),
        }
    }

    /// The last words of a run, and its exit code.
    fn conclude(&self, console: &Console, record: &RunRecord) -> ExitCode {
        if self.verbose {
            console.line(Verb::Note, &format!("peak memory {}", peak_memory().map_or_else(|| "unknown".to_string(), size)));
        }
        match (record.interrupted, record.is_ok()) {
            (true, _) => ExitCode::from(INTERRUPTED),
            (false, true) => ExitCode::SUCCESS,
            (false, false) => ExitCode::FAILURE,
        }
    }
}

/// Runs once, and says how it went. With a `footing`, a run that finds nothing to do leaves word of what it rested on.
pub fn perform(
    pipeline: &Pipeline,
    cache: &Cache,
    options: &RunOptions,
    footing: Option<Footing>,
    console: &Console,
    wishes: &Wishes,
    global: &Global,
) -> anyhow::Result<RunRecord> {
    let record = {
        let status = RunStatus::new(cache, &pipeline.folder, console);
        let by = global.describe_device(&options.device);
        let device = DeviceLine::new(pipeline, &options.device, by.as_deref(), &status);
        let hearing = Hearing::new(&device, pipeline);
        let record = hearing_stop(cache, &pipeline.folder, console, wishes, || {
            hearing_keys(console, wishes, || schedule::run(pipeline, cache, options, &hearing, wishes))
        });
        if let (Ok(Ok(record)), Some(footing), false) = (&record, footing, hearing.heard_something()) {
            footing.keep(pipeline, cache, record)?;
        }
        record
    };
    console.close();
    let record = record??;
    summarise(console, pipeline, &record);
    Ok(record)
}

fn summarise(console: &Console, pipeline: &Pipeline, record: &RunRecord) {
    let seconds = duration(record.seconds);
    if record.interrupted {
        console.line(Verb::Stopped, &format!("after {seconds}; the same command goes on from here"));
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
