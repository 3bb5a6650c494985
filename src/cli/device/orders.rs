//! What the `loramill` that starts the worker hands to it, and how a stop request reaches it afterwards. The worker's side of
//! `worker`.
//!
//! It has the terminal of who started it. Ctrl-C reaches both: the worker leaves that to the other, which passes a request to
//! stop on once, as SIGTERM. The end of the other reaches it as SIGUSR1.

use std::env;
use std::io;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::cli::exit::{INTERRUPTED, WrongArguments};

/// Whether this build has a worker: a second program, which alone links the library of a device.
pub const HAS_WORKER: bool = cfg!(feature = "libtorch");

/// The worker's file, beside that of `loramill`.
pub const NAME: &str = "loramill-worker";

/// In the worker's environment: the process that started it, its version, and the device. `1234 0.1.0 libtorch:0`
const ORDERS: &str = "LORAMILL_WORKER";

const VERSION: &str = env!("CARGO_PKG_VERSION");

static DEVICE: OnceLock<String> = OnceLock::new();

/// The device of the worker that this process is; `None` in any other.
pub fn device() -> Option<&'static str> {
    DEVICE.get().map(String::as_str)
}

/// Orders a worker that is not yet started to compute on `device`.
pub fn give(command: &mut Command, device: &str) {
    command.env(ORDERS, format!("{} {VERSION} {device}", std::process::id()));
}

/// In the worker, before anything else: takes the orders, and ends when who gave them ends.
///
/// # Errors
/// `WrongArguments` if nobody gave any, or a `loramill` of another version.
pub fn take() -> Result<()> {
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

/// Hears who started it: SIGTERM is a request to stop, and any more of them the same request, since a group of processes may get
/// it too. SIGUSR1 says that the other is gone, once for each of its threads: without a request before, it is one; after one,
/// nobody waits any longer.
pub fn listen_to_starter(asked: &Arc<AtomicBool>) -> io::Result<()> {
    let was_asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&was_asked))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(asked))?;
    signal_hook::flag::register_conditional_shutdown(SIGUSR1, i32::from(INTERRUPTED), was_asked)?;
    signal_hook::flag::register(SIGUSR1, Arc::clone(asked))?;
    Ok(())
}
