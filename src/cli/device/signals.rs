//! Ctrl-C and `kill`, as requests to stop. Unaware of what is stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::device::orders;
use crate::cli::exit::INTERRUPTED;
use crate::engine::cache::file_lock::give_up_on;
use crate::engine::run::control::StopRequests;

/// The first Ctrl-C (or `kill`) asks stages to save and end; the second ends the program at once.
pub fn listen_to_signals(requests: &StopRequests) -> io::Result<()> {
    let asked: Arc<AtomicBool> = requests.interrupt_flag();
    give_up_on(Arc::clone(&asked));
    if orders::device().is_some() {
        return orders::listen_to_starter(&asked);
    }
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&asked))?;
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(())
}
