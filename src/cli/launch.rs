//! Starts the program again with what the libraries of a device read from the environment only while they are loaded. Knows nothing of why a
//! variable is wanted.

use crate::cli::Global;

/// Does nothing if the environment is right; otherwise it does not return: the program begins anew, as the same process.
///
/// # Errors
/// If this build or the machine has no such device, or the program cannot be started again.
#[cfg(feature = "libtorch")]
pub fn with_environment(device: &str, global: &Global) -> anyhow::Result<()> {
    use std::env;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use anyhow::Context as _;

    use crate::machine::Machine;
    use crate::machine::host::Host;
    use crate::machine::worker_environment::environment_for;

    /// In the environment of a program that was started again.
    const LAUNCHED: &str = "LORAMILL_LAUNCHED";

    if env::var_os(LAUNCHED).is_some() {
        return is_there(device, global);
    }
    let machine = Machine::read(&Host::this());
    let variables = match device {
        // Without a card, or with all of them hidden, it is the processor.
        "auto" => environment_for("libtorch:0", &machine)
            .ok()
            .filter(|variables| !variables.is_empty())
            .map_or_else(|| environment_for("libtorch:cpu", &machine), Ok)?,
        named => environment_for(named, &machine)?,
    };
    if variables.is_empty() {
        return is_there(device, global);
    }
    let mut again = Command::new(env::current_exe().context("looking for this program's file")?);
    again.args(env::args_os().skip(1)).env(LAUNCHED, "1");
    for variable in &variables {
        match &variable.value {
            Some(value) => again.env(&variable.name, value),
            None => again.env_remove(&variable.name),
        };
        if variable.is_for_a_card() {
            let value = variable.value.as_deref().map_or_else(|| "removed".into(), |value| format!("={value}"));
            global.say(&format!("{}{value}: {}", variable.name, variable.reason));
        }
    }
    Err(again.exec()).context("starting this program again with the environment for its device")
}

#[cfg(not(feature = "libtorch"))]
pub fn with_environment(device: &str, global: &Global) -> anyhow::Result<()> {
    is_there(device, global)
}

/// Tells a device that there is not, or that computes wrong numbers, before anything runs.
#[cfg(feature = "nn")]
fn is_there(device: &str, global: &Global) -> anyhow::Result<()> {
    let found = crate::device::named(device).and_then(|_| crate::cli::admission::admit(device, global));
    found.map_err(|error| crate::cli::WrongArguments(format!("{error:#}")).into())
}

#[cfg(not(feature = "nn"))]
fn is_there(_: &str, _: &Global) -> anyhow::Result<()> {
    Ok(())
}
