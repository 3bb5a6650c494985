//! `loramill run`: builds what a pipeline lacks.
//!
//! `perform` is one run, for `watch` too. `early_end` spares it where nothing changed since a run that found nothing to do.

pub(crate) mod arguments;
mod early_end;
pub(crate) mod perform;
mod run_status;

use std::process::ExitCode;

use clap::Args;

use crate::cli::commands::plan;
use crate::cli::commands::run::arguments::RunArguments;
use crate::cli::commands::run::early_end::{EarlyEnd, look};
use crate::cli::commands::run::perform::{Performed, Turn, summarise};
use crate::cli::device::check::check_device;
use crate::cli::device::request::this_command_line;
use crate::cli::device::signals::listen_to_signals;
use crate::cli::exit::INTERRUPTED;
use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::refuse_unusable;
use crate::cli::terminal::console::{Console, Verb};
use crate::computer::machine::process::peak_memory;
use crate::engine::cache::bytes::size;
use crate::engine::run::control::StopRequests;
use crate::engine::run::run_record::RunRecord;

/// Build what changed since the last run
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub run: RunArguments,
    /// Show what would run, without running it
    #[arg(long)]
    dry_run: bool,
    /// Also print the peak memory
    #[arg(short, long)]
    verbose: bool,
}

/// Exit code 0 if no stage failed, also where one waits for the user; 1 if one did; 130 if the user interrupted the run. With
/// `--dry-run` it prints the plan and runs nothing; the exit code is 0 also when stages are stale.
///
/// # Errors
/// `WrongFile` or `WrongArguments` before anything runs. If the run cannot continue.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let requests = StopRequests::default();
    listen_to_signals(&requests)?;
    if arguments.dry_run {
        let (pipeline, plan) = plan::planned(&arguments.run.what, global)?;
        plan::print_plan(&pipeline, &plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let console = arguments.run.console(global.is_quiet());
    let target = arguments.run.what.read()?;
    let early_end = look(&target, &console, &requests, global)?;
    if let EarlyEnd::NothingToDo(pipeline, record) = early_end {
        console.close();
        summarise(&console, &pipeline, &record);
        return Ok(arguments.conclude(&console, &record));
    }

    let (pipeline, selection) = target.load()?;
    check_device(&arguments.run.device, global)?;
    let cache = open_cache(&pipeline, global)?;
    if !arguments.run.keep_going {
        refuse_unusable(&pipeline, &selection.needed(&pipeline))?;
    }
    let snapshot = early_end.snapshot();
    let turn =
        Turn { pipeline: &pipeline, cache: &cache, selection, how: &arguments.run, written: this_command_line(), snapshot };
    match turn.perform(&console, &requests, global)? {
        Performed::Here(record) => Ok(arguments.conclude(&console, &record)),
        Performed::ByWorker(code) => Ok(code),
    }
}

impl Arguments {
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
