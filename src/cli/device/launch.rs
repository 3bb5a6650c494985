//! Who does a command that opens networks: this program, or the worker beside it, which links the library of a device. Loading
//! one takes longer than most commands, and a driver that breaks down takes its process with it. Unaware of how a worker is
//! started and how it ends.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::device::admit::admit;
use crate::cli::device::check::check_device;
use crate::cli::device::names::{device_for, is_to_be_compared};
use crate::cli::device::orders::HAS_WORKER;
use crate::cli::device::request::{Passing, Request, Work};
use crate::cli::device::worker;
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::engine::decide::plan::{PlannedState, plan};
use crate::engine::graph::stage_id::StageId;

/// Where a command goes on.
pub enum Ready {
    /// In this process, on the device of this name.
    Here(String),
    /// Nowhere: the worker has done it all, with this exit code.
    Done(ExitCode),
}

/// Makes the device that is asked for ready: has the worker do the command if this program leaves networks to it, and has a
/// device compared that must be. Does neither for a run that opens no network.
///
/// # Errors
/// `WrongArguments` if this build or the machine has no such device, or it computes wrong numbers. If the worker cannot be
/// started, or did not end by itself.
pub fn prepare(asked: &str, request: &Request<'_>, global: &Global) -> Result<Ready> {
    let device = device_for(asked);
    let leaves_networks = HAS_WORKER && global.networks().is_none();
    if let Some(run) = request.run() {
        let is_told_first = leaves_networks || is_to_be_compared(&device);
        if !is_told_first || !opens_networks(run) {
            return Ok(Ready::Here(device));
        }
    }
    if leaves_networks {
        return worker::perform(asked, request, global).map(Ready::Done);
    }
    check_device(asked, global)?;
    if !matches!(request.work, Work::SelfTest) {
        admit(&device, global).map_err(|error| WrongArguments(format!("{error:#}")))?;
    }
    Ok(Ready::Here(device))
}

/// Whether stages of the run that use a device would run.
fn opens_networks(run: &Passing<'_>) -> bool {
    let uses_device = |id: StageId| run.pipeline.stages[id].stage.uses_device();
    if !run.selection.needed(run.pipeline).into_iter().any(uses_device) {
        return false;
    }
    // What cannot be planned fails in the run, which says how.
    let Ok(plan) = plan(run.pipeline, run.cache, run.selection) else { return true };
    let runs = |name: &str| run.pipeline.stage(name).is_some_and(|stage| stage.stage.uses_device());
    plan.stages.iter().any(|stage| stage.state != PlannedState::Fresh && !stage.is_kept && runs(&stage.name))
}
