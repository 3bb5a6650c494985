//! The worker, from the side of the `loramill` that starts it: the program that links the library of a device is started with the
//! command in its place, and waited for. Unaware of what it does. `orders` is the worker's own side.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitCode, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::device::choose::choose;
use crate::cli::device::names::check_name;
use crate::cli::device::orders::NAME;
use crate::cli::device::request::Request;
use crate::cli::device::start;
use crate::cli::device::worker_end::{self, Manner};
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::keys::TerminalBefore;
use crate::computer::machine::Machine;
use crate::computer::machine::process::peak_memory_of;
use crate::computer::machine::worker_environment::environment_for;

/// Between two looks at the worker.
const PAUSE: Duration = Duration::from_millis(20);

/// The exit code of a program whose libraries the loader does not find; it has said which.
const NOT_LOADED: i32 = 127;

/// The exit code of a program whose first thread panicked.
const PANICKED: i32 = 101;

/// Has a worker do the request.
///
/// # Errors
/// If it cannot be started, or did not end by itself.
pub fn perform(device: &str, request: &Request<'_>, global: &Global) -> Result<ExitCode> {
    let wrong = |error: anyhow::Error| WrongArguments(format!("{error:#}"));
    check_name(device).map_err(wrong)?;
    let program = start::program()?;
    let host = start::host();
    let machine = Machine::read(&host);
    let device = match device {
        "auto" => choose(&host, &machine, &program, &|line| global.say(line)),
        named => named.to_string(),
    };
    environment_for(&device, &machine).map_err(wrong)?;
    let mut command = start::command(&device, &machine, &|line| global.say(line))?;
    command.args(&request.arguments);
    if let Some(run) = request.run() {
        worker_end::forget_others(run)?;
    }
    let terminal = TerminalBefore::note();
    let mut child = command.spawn().with_context(|| format!("starting `{NAME}`"))?;
    let (status, peak) = wait(&mut child, || request.run().is_some_and(|run| run.requests.interrupted()))?;
    let manner = match (status.code(), status.signal()) {
        (Some(PANICKED), _) => Manner::Panicked,
        (Some(NOT_LOADED), _) => {
            bail!("`{NAME}` does not start: put its libtorch back where it was, or build again with the one you have")
        }
        (Some(code), _) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Manner::Signal(signal.unwrap_or_default()),
    };
    terminal.restore();
    Err(worker_end::error_of(&manner, peak, &device, &machine, request.run()))
}

/// Waits for its end, and passes a request to stop on. Returns the most memory it had, in bytes, as far as it was seen.
fn wait(child: &mut Child, is_to_end: impl Fn() -> bool) -> io::Result<(ExitStatus, Option<u64>)> {
    let mut peak = None;
    let mut is_told = false;
    loop {
        // Until it is waited for, no other process has its number.
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        peak = peak.max(peak_memory_of(child.id()));
        if !is_told && is_to_end() {
            is_told = true;
            kill_process(Pid::from_child(child), Signal::TERM)?;
        }
        thread::sleep(PAUSE);
    }
}
