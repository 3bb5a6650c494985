//! Names of devices, such as `cpu`, to Burn devices. Beside `ops`, the only file that names backends.

use anyhow::{Result, bail};
use burn::tensor::Device;

/// Names that [`named`] knows in this build.
pub const NAMES: &[&str] = &["auto", "cpu"];

/// The device of that name, without gradients; `Device::autodiff` adds them.
///
/// `cpu` is the embedded backend, which needs nothing installed; `auto` is the best device of this build.
///
/// # Errors
/// If this build knows no device of that name.
pub fn named(name: &str) -> Result<Device> {
    match name {
        "auto" | "cpu" => Ok(Device::flex()),
        _ => bail!("unknown device `{name}`; this build knows {}", NAMES.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_a_device() {
        for name in NAMES {
            named(name).unwrap();
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert_eq!(named("cuda:0").unwrap_err().to_string(), "unknown device `cuda:0`; this build knows auto, cpu");
    }
}
