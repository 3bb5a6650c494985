//! `loramill run`: builds what a pipeline lacks.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::commands::plan::refuse_unusable;
use crate::cli::commands::run_status::{RunStatus, hearing_stop};
use crate::cli::device::launch::{Passing, Request, asks_first, check_device, device_for, done_elsewhere};
use crate::cli::target::cache_folder;
use crate::cli::target::selection::{SelectionArguments, stages_named};
use crate::cli::terminal::console::{Console, Format, Verb};
use crate::cli::terminal::device_line::DeviceLine;
use crate::cli::terminal::keys::hearing_keys;
use crate::cli::terminal::progress_line::duration;
use crate::cli::walls::Reach;
use crate::cli::{Global, PipelineArguments, WrongFile, counted, glance, open, pipeline_file, shown};
use crate::computer::machine::process::peak_memory;
use crate::engine::cache::Cache;
use crate::engine::cache::bytes::size;
use crate::engine::cache::file_lock::give_up_on;
use crate::engine::graph::pipeline::{Pipeline, Producer};
use crate::engine::inputs::input::Found;
use crate::engine::inputs::picture_files::READ;
use crate::engine::out::folder::out_folder;
use crate::engine::run::control::Wishes;
use crate::engine::run::events::StageState;
use crate::engine::run::noop::{self, Footing, Hearing, Repeated};
use crate::engine::run::run_record::RunRecord;
use crate::engine::run::schedule::{self, RunOptions};
use crate::engine::syntax::diagnostic::Diagnostics;

/// What a shell reports of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

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

/// A pipeline and stages of it.
#[derive(Args, Clone, Debug)]
pub struct TargetArguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then stages to build with all they need [default: all that
    /// are not `default: false`]
    #[arg(value_name = "PIPELINE|STAGE")]
    names: Vec<String>,
    /// Another value for this time: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl TargetArguments {
    /// The pipeline, if one is named.
    pub fn pipeline(&self) -> Option<PathBuf> {
        split_names(&self.names).0
    }

    /// The pipeline, and the stages that are named.
    ///
    /// # Errors
    /// `WrongFile`, or `WrongArguments` for a name that is no stage.
    pub fn open(&self) -> anyhow::Result<(Pipeline, Vec<usize>)> {
        let (pipeline, targets) = split_names(&self.names);
        self.open_with(pipeline, targets)
    }

    /// The file of the pipeline, and the names of stages: told apart once, for who opens the pipeline again and again.
    ///
    /// # Errors
    /// `WrongArguments` if there is no such file.
    pub fn split(&self) -> anyhow::Result<(PathBuf, &[String])> {
        let (pipeline, targets) = split_names(&self.names);
        Ok((pipeline_file(pipeline.as_deref())?, targets))
    }

    /// As `open`, with what `split` gave.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_again(&self, file: &Path, targets: &[String]) -> anyhow::Result<(Pipeline, Vec<usize>)> {
        self.open_with(Some(file.to_path_buf()), targets)
    }

    /// As on a command line; names come last, since one may begin with a dash.
    pub fn written(&self) -> Vec<String> {
        let settings = self.settings.iter().map(|setting| format!("--set={setting}"));
        settings.chain(["--".to_string()]).chain(self.names.iter().cloned()).collect()
    }

    fn open_with(&self, pipeline: Option<PathBuf>, targets: &[String]) -> anyhow::Result<(Pipeline, Vec<usize>)> {
        let pipeline = open(&PipelineArguments::new(pipeline, self.settings.clone()))?;
        refuse_empty_folders(&pipeline)?;
        let targets = stages_named(&pipeline, targets)?;
        Ok((pipeline, targets))
    }
}

/// The pipeline among names that may begin with one, and the rest.
pub fn split_names(names: &[String]) -> (Option<PathBuf>, &[String]) {
    match names.split_first() {
        Some((first, rest)) if is_pipeline(first) => (Some(PathBuf::from(first)), rest),
        // Neither a pipeline here nor one named: what is named is more likely a folder than a stage.
        Some((first, rest)) if !PathBuf::from("pipeline.yaml").exists() => (Some(PathBuf::from(first)), rest),
        _ => (None, names),
    }
}

/// Whether `name` is a pipeline file or a folder that has one.
pub fn is_pipeline(name: &str) -> bool {
    let path = Path::new(name);
    path.is_file() || path.join("pipeline.yaml").is_file()
}

/// A file may be sound before its photos are there; there is nothing to run then.
fn refuse_empty_folders(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut diagnostics = Diagnostics::default();
    for (index, input) in pipeline.inputs.iter().enumerate() {
        let is_read = pipeline.stages.iter().flat_map(|stage| &stage.edges).any(|edge| edge.from == Producer::Input(index));
        if let (true, Found::Photos { folder, files, skipped, .. }) = (is_read, &input.found)
            && files.is_empty()
            && skipped.is_empty()
        {
            let hint = format!("{READ} are read; looked in `{}`", folder.display());
            diagnostics.report(&input.span, format!("`{}` holds no photos", input.written)).hint(hint);
        }
    }
    if diagnostics.is_empty() { Ok(()) } else { Err(WrongFile(diagnostics.into_sorted()).into()) }
}

/// The cache that belongs to a pipeline.
pub fn open_cache(pipeline: &Pipeline, global: &Global) -> anyhow::Result<Cache> {
    cache_folder::open_for(&pipeline.folder, global)
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
    if asks_first(&arguments.device, &pipeline, &cache, &selection, global) {
        let passing = Passing { pipeline: &pipeline, cache: &cache, console: &console, wishes: &wishes };
        let request = Request { arguments: Request::this_command(), run: Some(passing) };
        if let Some(code) = done_elsewhere(&arguments.device, &request, global)? {
            return Ok(code);
        }
    }

    let device = device_for(&arguments.device);
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
            let (pipeline, names) = split_names(&self.what.names);
            let pipeline = glance(&PipelineArguments::new(pipeline, self.what.settings.clone()))?;
            let selection = self.which.of(&pipeline, stages_named(&pipeline, names).ok()?).ok()?;
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
        let device = DeviceLine::new(pipeline, &options.device, global, &status);
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

/// The first Ctrl-C (or `kill`) asks stages to save and end; the second ends the program at once.
pub fn listen_to_signals(wishes: &Wishes) -> io::Result<()> {
    let asked: Arc<AtomicBool> = wishes.interrupt_flag();
    give_up_on(Arc::clone(&asked));
    #[cfg(feature = "libtorch")]
    if crate::cli::device::worker::device_of_orders().is_some() {
        return crate::cli::device::worker::listen_to_starter(&asked);
    }
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&asked))?;
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(())
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
