//! Who does a command that opens networks: this program, or the worker beside it, which links the library of a device. Loading one takes longer
//! than most commands, and a driver that breaks down takes its process with it. Unaware of how a worker is started and how it ends.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::device::admit::admit;
use crate::cli::device::check::check_device;
use crate::cli::device::names::{device_for, is_to_be_compared};
use crate::cli::device::orders::HAS_WORKER;
use crate::cli::device::request::Request;
use crate::cli::device::worker;
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::engine::cache::Cache;
use crate::engine::decide::plan::{PlannedState, plan};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;

/// Has the worker do it if this program opens no networks; `None` where this program does.
///
/// # Errors
/// If this build or the machine has no such device, or it computes wrong numbers, or the worker cannot be started, or did not end by itself.
pub fn done_elsewhere(device: &str, request: &Request<'_>, global: &Global) -> Result<Option<ExitCode>> {
    if leaves_networks(global) {
        return worker::perform(device, request, global).map(Some);
    }
    check_device(device, global)?;
    admit(&device_for(device), global).map_err(|error| WrongArguments(format!("{error:#}")))?;
    Ok(None)
}

/// Whether this program leaves networks to the worker.
const fn leaves_networks(global: &Global) -> bool {
    HAS_WORKER && global.networks().is_none()
}

/// Whether a run of these stages would open a network, and this program opens none, or none on that device before it was compared: then
/// [`done_elsewhere`] comes first.
pub fn asks_first(device: &str, pipeline: &Pipeline, cache: &Cache, selection: &Selection, global: &Global) -> bool {
    let uses_device = |index: usize| pipeline.stages[index].stage.uses_device();
    let is_asked = leaves_networks(global) || is_to_be_compared(&device_for(device));
    if !is_asked || !selection.needed(pipeline).into_iter().any(uses_device) {
        return false;
    }
    // What cannot be planned fails in the run, which says how.
    let Ok(plan) = plan(pipeline, cache, selection) else { return true };
    let runs = |name: &str| pipeline.stage(name).is_some_and(|stage| stage.stage.uses_device());
    plan.stages.iter().any(|stage| stage.state != PlannedState::Fresh && !stage.is_kept && runs(&stage.name))
}
