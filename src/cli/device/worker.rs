//! The worker: the program that links the library of a device, started with what that library reads from the environment only while it is
//! loaded. Both sides of it: who starts it and waits for it, and who is started. Unaware of what it does.
//!
//! It has the terminal of who started it. Ctrl-C reaches both: it leaves that to the other, who passes a wish to end on once, as SIGTERM. The end of
//! the other reaches it as SIGUSR1.

use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::cli::commands::run::INTERRUPTED;
use crate::cli::device::choose;
use crate::cli::device::launch::Request;
use crate::cli::device::worker_end::{self, Manner};
use crate::cli::terminal::keys::TerminalBefore;
use crate::cli::{Global, WrongArguments};
use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::process::peak_memory_of;
use crate::computer::machine::worker_environment::environment_for;
use crate::sd::device;

const NAME: &str = "loramill-worker";

/// In the worker's environment: the process that started it, its version, and the device. `1234 0.1.0 libtorch:0`
const ORDERS: &str = "LORAMILL_WORKER";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Between two looks at the worker.
const PAUSE: Duration = Duration::from_millis(20);

/// The exit code of a program whose libraries the loader does not find; it has said which.
const NOT_LOADED: i32 = 127;

/// The exit code of a program whose first thread panicked.
const PANICKED: i32 = 101;

static DEVICE: OnceLock<String> = OnceLock::new();

/// The device of the worker that this process is.
pub fn device_of_orders() -> Option<&'static str> {
    DEVICE.get().map(String::as_str)
}

/// In the worker, before anything else: takes the orders, and ends when who gave them ends.
///
/// # Errors
/// `WrongArguments` if nobody gave any, or a `loramill` of another version.
pub fn take_orders() -> Result<()> {
    let orders = env::var(ORDERS).ok();
    let parts: Vec<&str> = orders.as_deref().unwrap_or_default().split(' ').collect();
    let [process, version, device] = parts[..] else {
        return Err(WrongArguments(format!("`{NAME}` is started by `loramill`: start that")).into());
    };
    if version != VERSION {
        let problem = format!("`{NAME}` is of version {VERSION}, and the `loramill` beside it of version {version}");
        return Err(WrongArguments(format!("{problem}: build both by one `cargo build --release --features libtorch`")).into());
    }
    set_parent_process_death_signal(Some(Signal::USR1)).context("asking to be told when `loramill` ends")?;
    let parent = getppid().map(|process| process.as_raw_nonzero().get().to_string());
    ensure!(parent.as_deref() == Some(process), "the `loramill` that started this is gone");
    signal_hook::flag::register(SIGINT, Arc::default()).context("leaving Ctrl-C to `loramill`")?;
    DEVICE.get_or_init(|| device.to_string());
    Ok(())
}

/// Hears who started it: SIGTERM is a wish to end, and any more of them the same wish, since a group of processes may get it too. SIGUSR1 says that
/// the other is gone, once for each of its threads: without a wish before, it is one; after one, nobody waits any longer.
pub fn listen_to_starter(asked: &Arc<AtomicBool>) -> io::Result<()> {
    let wished = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&wished))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(asked))?;
    signal_hook::flag::register_conditional_shutdown(SIGUSR1, i32::from(INTERRUPTED), wished)?;
    signal_hook::flag::register(SIGUSR1, Arc::clone(asked))?;
    Ok(())
}

/// This computer, seen as by a process that has loaded what the worker loads.
pub fn host() -> Host {
    Host::this().with_loaded(libraries().unwrap_or_default())
}

/// What the loader says that the worker loads, as `ldd` asks it: in milliseconds, and nothing of theirs runs.
fn libraries() -> Result<Vec<String>> {
    let output = Command::new(program()?).env("LD_TRACE_LOADED_OBJECTS", "1").stdin(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // `	libc10.so => /opt/libtorch/lib/libc10.so (0x00007f9aa18df000)`
    Ok(told.lines().filter_map(|line| line.split_once("=> ")?.1.rsplit_once(" (")).map(|(path, _)| path.to_string()).collect())
}

/// # Errors
/// If there is no worker beside this program.
pub fn program() -> Result<PathBuf> {
    let this = env::current_exe().context("looking for this program's file")?;
    let program = this.with_file_name(NAME);
    ensure!(
        program.is_file(),
        "there is no `{}`, which runs the networks: build both programs with `cargo build --release --features libtorch`, and keep \
         them in one folder",
        program.display()
    );
    Ok(program)
}

/// A worker for `device`, not yet started. `say` is told what a person wants to know of its environment.
///
/// # Errors
/// If there is no worker, or the machine has no such device.
pub fn command(device: &str, machine: &Machine, say: &dyn Fn(&str)) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.env(ORDERS, format!("{} {VERSION} {device}", std::process::id()));
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

/// Whether a device may be there, as far as it can be known without loading a library.
///
/// # Errors
/// If it is not.
pub fn check_device(name: &str) -> Result<()> {
    device::check_name(name)?;
    let is_card = name.strip_prefix("libtorch:").is_some_and(|number| number != "cpu");
    if is_card {
        let machine = Machine::read(&host());
        environment_for(name, &machine)?;
        if let (Some(Flavour::Cpu), Some(libtorch)) = (machine.torch_flavour(), machine.libtorch.first()) {
            let folder = libtorch.libraries.display();
            bail!("`{name}`: the libtorch in `{folder}` computes on the processor only; `loramill doctor` says which would do");
        }
    }
    Ok(())
}

/// Has a worker do the request.
///
/// # Errors
/// If it cannot be started, or did not end by itself.
pub fn perform(device: &str, request: &Request<'_>, global: &Global) -> Result<ExitCode> {
    let wrong = |error: anyhow::Error| WrongArguments(format!("{error:#}"));
    device::check_name(device).map_err(wrong)?;
    let program = program()?;
    let host = host();
    let machine = Machine::read(&host);
    let device = match device {
        "auto" => best_device::choose(&host, &machine, &program, &|line| global.say(line)),
        named => named.to_string(),
    };
    environment_for(&device, &machine).map_err(wrong)?;
    let mut command = command(&device, &machine, &|line| global.say(line))?;
    command.args(&request.arguments);
    if let Some(run) = &request.run {
        worker_end::forget_others(run)?;
    }
    let terminal = TerminalBefore::note();
    let mut child = command.spawn().with_context(|| format!("starting `{NAME}`"))?;
    let (status, peak) = wait(&mut child, || request.run.as_ref().is_some_and(|run| run.wishes.interrupted()))?;
    let manner = match (status.code(), status.signal()) {
        (Some(PANICKED), _) => Manner::Panicked,
        (Some(NOT_LOADED), _) => {
            bail!("`{NAME}` does not start: put its libtorch back where it was, or build again with the one you have")
        }
        (Some(code), _) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Manner::Signal(signal.unwrap_or_default()),
    };
    terminal.restore();
    Err(worker_end::told(&manner, peak, &device, &machine, request.run.as_ref()))
}

/// Waits for its end, and passes the wish to end on. Returns the most memory it had, in bytes, as far as it was seen.
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
