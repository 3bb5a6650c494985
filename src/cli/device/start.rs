//! A process that opens networks, ready to be started: the worker, or this program again where there is none, with what the
//! library of a device reads from the environment only while it is loaded. Unaware of what the process is asked for.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cli::device::orders::{self, HAS_WORKER, NAME};
use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::worker_environment::environment_for;

/// The program that opens networks.
///
/// # Errors
/// If it is the worker, and there is none beside this program.
pub fn program() -> Result<PathBuf> {
    let this = env::current_exe().context("looking for this program's file")?;
    if !HAS_WORKER {
        return Ok(this);
    }
    let program = this.with_file_name(NAME);
    ensure!(
        program.is_file(),
        "there is no `{}`, which runs the networks: build both programs with `cargo build --release --features libtorch`, and keep \
         them in one folder",
        program.display()
    );
    Ok(program)
}

/// This computer, seen as by a process that has loaded what that program loads.
pub fn host() -> Host {
    let host = Host::this();
    if HAS_WORKER { host.with_loaded(libraries().unwrap_or_default()) } else { host }
}

/// What the loader says that the worker loads, as `ldd` asks it: in milliseconds, and nothing of theirs runs.
fn libraries() -> Result<Vec<String>> {
    let output = Command::new(program()?).env("LD_TRACE_LOADED_OBJECTS", "1").stdin(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // `	libc10.so => /opt/libtorch/lib/libc10.so (0x00007f9aa18df000)`
    Ok(told.lines().filter_map(|line| line.split_once("=> ")?.1.rsplit_once(" (")).map(|(path, _)| path.to_string()).collect())
}

/// A process for `device`, not yet started. `say` gets the lines about its environment that are for people.
///
/// # Errors
/// If there is no such program, or the machine has no such device.
pub fn command(device: &str, machine: &Machine, say: &dyn Fn(&str)) -> Result<Command> {
    let mut command = Command::new(program()?);
    if HAS_WORKER {
        orders::give(&mut command, device);
    }
    for variable in environment_for(device, machine)? {
        match &variable.value {
            Some(value) => command.env(&variable.name, value),
            None => command.env_remove(&variable.name),
        };
        if variable.is_for_a_card() {
            let value = variable.value.as_deref().map_or_else(|| "removed".into(), |value| format!("={value}"));
            say(&format!("{}{value}: {}", variable.name, variable.reason));
        }
    }
    Ok(command)
}
