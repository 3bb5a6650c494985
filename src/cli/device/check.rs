//! Whether a device may be there, before anything runs.

use anyhow::{Result, bail};

use crate::cli::device::names::{check_name, device_for};
use crate::cli::device::orders::HAS_WORKER;
use crate::cli::device::start;
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::computer::machine::Machine;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::worker_environment::environment_for;

/// Tells a device that there is not.
///
/// # Errors
/// `WrongArguments`, as far as this program can know without loading a library.
pub fn check_device(name: &str, global: &Global) -> Result<()> {
    let name = &device_for(name);
    let found = match global.networks() {
        Some(networks) => (networks.find_device)(name),
        None if HAS_WORKER => may_be_there(name),
        None => Ok(()),
    };
    found.map_err(|error| WrongArguments(format!("{error:#}")).into())
}

/// What can be known without loading a library.
fn may_be_there(name: &str) -> Result<()> {
    check_name(name)?;
    let is_card = name.strip_prefix("libtorch:").is_some_and(|number| number != "cpu");
    if is_card {
        let machine = Machine::read(&start::host());
        environment_for(name, &machine)?;
        if let (Some(Flavour::Cpu), Some(libtorch)) = (machine.torch_flavour(), machine.libtorch.first()) {
            let folder = libtorch.libraries.display();
            bail!("`{name}`: the libtorch in `{folder}` computes on the processor only; `loramill doctor` says which would do");
        }
    }
    Ok(())
}
