//! `loramill self-test`: compares a device with the embedded backend. `doctor` calls it, in a process of its own: what a wrong driver does to a
//! process is anyone's guess.

use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use crate::cli::Global;
use crate::cli::device::launch::{Request, check_device, device_for, done_elsewhere};
use crate::cli::terminal::output::print;
use crate::computer::doctor::SelfTest;
use crate::computer::machine::Machine;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::visibility::visible;
use crate::sd::device;
use crate::sd::self_test::compare;

/// The first use of a card compiles its kernels; a driver that hangs does so for ever.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Compute every operation of the networks on a device and on the embedded backend, and compare
#[derive(Args)]
pub struct Arguments {
    /// As `libtorch:0` or `vulkan:0`
    #[arg(value_name = "DEVICE")]
    device: String,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Some(networks) = global.networks else {
        let request = Request { arguments: Request::this_command(), run: None };
        return done_elsewhere(&arguments.device, &request, global)?.context("this program opens no networks");
    };
    check_device(&arguments.device, global)?;
    (networks.self_test)(arguments)
}

pub fn compare_with_embedded(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let report = compare(&device::named(&device_for(&arguments.device))?, &device::named("cpu")?)?;
    print(&format!("{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The self-tests of all cards that this program may use.
pub fn of_cards(machine: &Machine) -> Vec<SelfTest> {
    cards(machine).iter().map(|card| of(card, machine)).collect()
}

/// The cards that libtorch may use, by their names.
pub fn cards(machine: &Machine) -> Vec<String> {
    let cards = match machine.torch_flavour() {
        Some(Flavour::Hip) => visible(&machine.amd, &machine.environment).gpus.len(),
        Some(Flavour::Cuda) => machine.nvidia.as_ref().map_or(0, |nvidia| nvidia.gpus.len()),
        _ => 0,
    };
    (0..cards).map(|card| format!("libtorch:{card}")).collect()
}

/// The self-test of a device, in a process with the environment for it.
pub fn of(device: &str, machine: &Machine) -> SelfTest {
    let (passed, report) = match try_of(device, machine) {
        Ok(report) => (true, report),
        Err(error) => (false, format!("{error:#}")),
    };
    SelfTest { device: device.to_string(), passed, report }
}

fn try_of(device: &str, machine: &Machine) -> anyhow::Result<String> {
    let mut command = command(device, machine)?;
    command.args(["self-test", device]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("it gave no answer within {} seconds", LIMIT.as_secs());
        }
        thread::sleep(PAUSE);
    };
    let (mut told, mut complaint) = (String::new(), String::new());
    child.stdout.take().expect("it was piped").read_to_string(&mut told)?;
    child.stderr.take().expect("it was piped").read_to_string(&mut complaint)?;
    if status.success() {
        return Ok(told.trim().to_string());
    }
    // After a panic the last line says how to see more of it.
    let said = complaint.lines().rfind(|line| !line.starts_with("note: "));
    let said = said.unwrap_or_default().trim_start_matches("error: ");
    anyhow::bail!("{status}{}{said}", if said.is_empty() { "" } else { ": " })
}

#[cfg(feature = "libtorch")]
fn command(device: &str, machine: &Machine) -> anyhow::Result<Command> {
    crate::cli::device::worker::command(device, machine, &|_| ())
}

#[cfg(not(feature = "libtorch"))]
fn command(device: &str, machine: &Machine) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for variable in crate::computer::machine::worker_environment::environment_for(device, machine)? {
        match variable.value {
            Some(value) => command.env(variable.name, value),
            None => command.env_remove(variable.name),
        };
    }
    Ok(command)
}
