//! Who does a command that opens networks: this program, or the worker beside it, which links the library of a device. Loading one takes longer
//! than most commands, and a driver that breaks down takes its process with it. Unaware of how a worker is started and how it ends.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Global;
use crate::cli::terminal::console::Console;
use crate::engine::cache::Cache;
use crate::engine::decide::plan::{PlannedState, plan};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::run::control::Wishes;

/// What the worker is asked for.
#[cfg_attr(not(feature = "libtorch"), allow(dead_code, reason = "there is no worker to tell it"))]
pub struct Request<'a> {
    /// Its command line, without the program.
    pub arguments: Vec<OsString>,
    /// The run that it is about.
    pub run: Option<Passing<'a>>,
}

/// What this program knows of a run that the worker does.
#[cfg_attr(not(feature = "libtorch"), allow(dead_code, reason = "there is no worker to tell it"))]
pub struct Passing<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub console: &'a Console,
    pub wishes: &'a Wishes,
}

impl Request<'_> {
    /// The command that this program was given.
    pub fn this_command() -> Vec<OsString> {
        env::args_os().skip(1).collect()
    }
}

/// Has the worker do it if this program opens no networks; `None` where this program does.
///
/// # Errors
/// If this build or the machine has no such device, or the worker cannot be started, or did not end by itself.
#[cfg(feature = "libtorch")]
pub fn done_elsewhere(device: &str, request: &Request<'_>, global: &Global) -> Result<Option<ExitCode>> {
    use crate::cli::device::worker;

    if global.networks.is_some() {
        admit(device, global)?;
        return Ok(None);
    }
    worker::perform(device, request, global).map(Some)
}

#[cfg(not(feature = "libtorch"))]
pub fn done_elsewhere(device: &str, _: &Request<'_>, global: &Global) -> Result<Option<ExitCode>> {
    admit(device, global)?;
    Ok(None)
}

/// Tells a device that there is not, or that computes wrong numbers, before anything runs.
#[cfg(feature = "nn")]
fn admit(device: &str, global: &Global) -> Result<()> {
    check_device(device, global)?;
    let admitted = crate::cli::device::admit::admit(&device_for(device), global);
    admitted.map_err(|error| crate::cli::WrongArguments(format!("{error:#}")).into())
}

#[cfg(not(feature = "nn"))]
fn admit(_: &str, _: &Global) -> Result<()> {
    Ok(())
}

/// Tells a device that there is not before anything runs.
///
/// # Errors
/// `WrongArguments`, as far as this program can know without loading a library.
#[cfg(feature = "nn")]
pub fn check_device(device: &str, global: &Global) -> Result<()> {
    let device = &device_for(device);
    let found = match global.networks {
        Some(networks) => (networks.find_device)(device),
        #[cfg(feature = "libtorch")]
        None => crate::cli::device::worker::check_device(device),
        #[cfg(not(feature = "libtorch"))]
        None => Ok(()),
    };
    found.map_err(|error| crate::cli::WrongArguments(format!("{error:#}")).into())
}

#[cfg(not(feature = "nn"))]
pub fn check_device(_: &str, _: &Global) -> Result<()> {
    Ok(())
}

/// The device that a name stands for in this process: what `auto` is, was decided by who started it.
pub fn device_for(name: &str) -> String {
    #[cfg(feature = "libtorch")]
    if let Some(device) = crate::cli::device::worker::device_of_orders() {
        return device.to_string();
    }
    match name {
        #[cfg(all(feature = "nn", not(feature = "libtorch")))]
        "auto" => "cpu".to_string(),
        _ => name.to_string(),
    }
}

/// Whether a command with this device may compute on a card.
pub fn needs_card(device: &str) -> bool {
    match device_for(device).as_str() {
        "cpu" | "libtorch:cpu" => false,
        // Of this program alone, or not decided yet.
        "auto" => cfg!(feature = "libtorch") && ["/dev/kfd", "/dev/nvidiactl"].iter().any(|card| Path::new(card).exists()),
        _ => true,
    }
}

/// Whether this program leaves networks to the worker.
#[cfg(feature = "libtorch")]
const fn leaves_networks(global: &Global) -> bool {
    global.networks.is_none()
}

#[cfg(not(feature = "libtorch"))]
const fn leaves_networks(_: &Global) -> bool {
    false
}

#[cfg(feature = "nn")]
fn is_to_be_compared(device: &str) -> bool {
    crate::sd::device::is_to_be_compared(&device_for(device))
}

#[cfg(not(feature = "nn"))]
fn is_to_be_compared(_: &str) -> bool {
    false
}

/// Whether a run of these stages would open a network, and this program opens none, or none on that device before it was compared: then
/// [`done_elsewhere`] comes first.
pub fn asks_first(device: &str, pipeline: &Pipeline, cache: &Cache, selection: &Selection, global: &Global) -> bool {
    let uses_device = |index: usize| pipeline.stages[index].stage.uses_device();
    let is_asked = leaves_networks(global) || is_to_be_compared(device);
    if !is_asked || !selection.needed(pipeline).into_iter().any(uses_device) {
        return false;
    }
    // What cannot be planned fails in the run, which says how.
    let Ok(plan) = plan(pipeline, cache, selection) else { return true };
    let runs = |name: &str| pipeline.stage(name).is_some_and(|stage| stage.stage.uses_device());
    plan.stages.iter().any(|stage| stage.state != PlannedState::Fresh && !stage.is_kept && runs(&stage.name))
}
