//! `loramill stop`: asks a run in another terminal to end its training with what it has.

use std::process::ExitCode;

use clap::Args;

use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::{PipelineArguments, open};

/// Stop a running training at its next step, and keep the result
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub pipeline: PipelineArguments,
}

/// Returns at once: the training ends at its next step.
///
/// # Errors
/// If no process runs the pipeline.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    let cache = open_cache(&pipeline, global)?;
    let Some(runner) = cache.runner(&pipeline.folder)? else {
        anyhow::bail!("`{}` is not running", pipeline.file.display());
    };
    cache.request_stop(&pipeline.folder)?;
    global.say(&format!("asked process {} on {} to stop at its next step and keep the result", runner.process, runner.host));
    Ok(ExitCode::SUCCESS)
}
