//! The self-test of a card, in a process of its own: what a wrong driver does to a process is anyone's guess. Unaware of what is
//! compared, and of who wants to know.

use std::io::Read as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::device::start;
use crate::computer::doctor::SelfTest;
use crate::computer::machine::Machine;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::visibility::visible;

/// The first use of a card compiles its kernels; a driver that hangs does so for ever.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// The self-tests of all cards that this program may use.
pub fn of_cards(machine: &Machine) -> Vec<SelfTest> {
    cards(machine).iter().map(|card| of(card, machine)).collect()
}

/// The cards that libtorch may use, by their names.
pub fn cards(machine: &Machine) -> Vec<String> {
    let cards = match machine.torch_flavour() {
        Some(Flavour::Hip) => visible(&machine.amd, &machine.environment).gpus.len(),
        Some(Flavour::Cuda) => machine.nvidia.as_ref().map_or(0, |nvidia| nvidia.gpus.len()),
        Some(Flavour::Cpu) | None => 0,
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
    let mut command = start::command(device, machine, &|_| ())?;
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
