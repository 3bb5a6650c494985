//! What the name of a device means in this build: whether it is known, what `auto` stands for, whether it may be a card. Loads no
//! library.

use std::path::Path;

use crate::cli::device::orders;
#[cfg(feature = "nn")]
pub use crate::sd::device::{check_name, is_to_be_compared};

/// A build without networks uses no device, whatever its name.
///
/// # Errors
/// None.
#[cfg(not(feature = "nn"))]
pub const fn check_name(_: &str) -> anyhow::Result<()> {
    Ok(())
}

/// A build without networks compares nothing.
#[cfg(not(feature = "nn"))]
pub const fn is_to_be_compared(_: &str) -> bool {
    false
}

/// Whether `auto` is the embedded backend: in a build with networks and without a worker to choose for.
const AUTO_IS_EMBEDDED: bool = cfg!(all(feature = "nn", not(feature = "libtorch")));

/// The device that a name stands for in this process: what `auto` is, was decided by who started it.
pub fn device_for(name: &str) -> String {
    match (orders::device(), name) {
        (Some(device), _) => device.to_string(),
        (None, "auto") if AUTO_IS_EMBEDDED => "cpu".to_string(),
        (None, name) => name.to_string(),
    }
}

/// Whether a command with this device may compute on a card.
pub fn needs_card(device: &str) -> bool {
    match device_for(device).as_str() {
        "cpu" | "libtorch:cpu" => false,
        // Of this program alone, or not decided yet.
        "auto" => orders::HAS_WORKER && ["/dev/kfd", "/dev/nvidiactl"].iter().any(|card| Path::new(card).exists()),
        _ => true,
    }
}
