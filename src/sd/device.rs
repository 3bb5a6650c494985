//! Names of devices, such as `cpu`, to Burn devices. Beside `ops`, the only file that names backends.

#![cfg_attr(feature = "libtorch", allow(deprecated, reason = "burn-tch is the way to AMD cards; see ARCHITECTURE.md"))]

use anyhow::{Result, bail};
use burn::tensor::{DType, Device};

mod cubecl;
#[cfg(feature = "libtorch")]
mod libtorch;

/// Names that [`named`] knows in this build; `libtorch:1` and so on are further devices of the kind of `libtorch:0`.
pub const NAMES: &[&str] = &[
    "auto",
    "cpu",
    #[cfg(feature = "libtorch")]
    "libtorch:cpu",
    #[cfg(feature = "libtorch")]
    "libtorch:0",
    #[cfg(feature = "rocm")]
    "rocm:0",
    #[cfg(feature = "vulkan")]
    "vulkan:0",
    #[cfg(feature = "cuda")]
    "cuda:0",
];

/// The device of that name, without gradients; `Device::autodiff` adds them.
///
/// `cpu` is the embedded backend, which needs nothing installed; `auto` is the best device of this build and this machine.
///
/// # Errors
/// If this build knows no device of that name, or this machine does not have it.
pub fn named(name: &str) -> Result<Device> {
    match name {
        #[cfg(feature = "libtorch")]
        "auto" | "libtorch:cpu" => Ok(Device::libtorch()),
        #[cfg(not(feature = "libtorch"))]
        "auto" => Ok(Device::flex()),
        "cpu" => Ok(Device::flex()),
        _ => cubecl::named(name).unwrap_or_else(|| numbered(name)),
    }
}

/// Whether this build knows a device of that name. Loads no library, and does not look whether the machine has it.
///
/// # Errors
/// If it does not.
pub fn check_name(name: &str) -> Result<()> {
    if let Some(known) = cubecl::check_name(name) {
        return known;
    }
    let is_number = |number: &str| cfg!(feature = "libtorch") && number.parse::<usize>().is_ok();
    if NAMES.contains(&name) || name.strip_prefix("libtorch:").is_some_and(is_number) {
        return Ok(());
    }
    unknown(name)
}

/// Whether it names a device on which nothing shall be computed before its numbers were compared: one of CubeCL's, whose kernels are compiled for
/// each card anew. Burn 0.21 gave wrong gradients on some of them, without an error (its issue 5162).
pub fn is_to_be_compared(name: &str) -> bool {
    cubecl::is_name(name)
}

#[cfg(feature = "libtorch")]
fn numbered(name: &str) -> Result<Device> {
    match name.strip_prefix("libtorch:").and_then(|number| number.parse().ok()) {
        Some(index) => libtorch::gpu(index),
        None => unknown(name),
    }
}

#[cfg(not(feature = "libtorch"))]
fn numbered(name: &str) -> Result<Device> {
    if name.starts_with("libtorch") {
        bail!("`{name}`: this build has no libtorch; build it with `--features libtorch`, or take one of {}", NAMES.join(", "));
    }
    unknown(name)
}

fn unknown<T>(name: &str) -> Result<T> {
    bail!("unknown device `{name}`; this build knows {}", NAMES.join(", "))
}

/// What networks compute in on a device that are asked for in the type `wanted`. A card has units for 16 bits, if not for each such type;
/// processors compute in f32, since few have them: fp16 on one without is about 100 times slower.
pub fn arithmetic(device: &Device, wanted: DType) -> DType {
    if is_card(device) && device.supports_dtype(wanted) { wanted } else { DType::F32 }
}

/// Whether it is a graphics card, with memory of its own.
pub fn is_card(device: &Device) -> bool {
    #[cfg(feature = "libtorch")]
    let is_processor = [Device::flex(), Device::libtorch()].contains(device);
    #[cfg(not(feature = "libtorch"))]
    let is_processor = *device == Device::flex();
    !is_processor
}

/// Whether it is the embedded backend, which brings no library.
pub fn is_embedded(device: &Device) -> bool {
    *device == Device::flex()
}

/// What computes on the device of that name, for people: a library with its place, or the embedded backend.
pub fn description(name: &str) -> String {
    match name {
        _ if cubecl::is_name(name) => format!("Burn's own kernels on `{name}`"),
        #[cfg(feature = "libtorch")]
        _ if name != "cpu" => libtorch::description(),
        _ => "the embedded CPU backend".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_that_needs_no_card_is_a_device() {
        for name in NAMES.iter().filter(|name| !name.ends_with(":0")) {
            named(name).unwrap();
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let expected = format!("unknown device `cude:0`; this build knows {}", NAMES.join(", "));
        assert_eq!(named("cude:0").unwrap_err().to_string(), expected);
    }

    #[cfg(not(feature = "libtorch"))]
    #[test]
    fn libtorch_without_libtorch_says_how_to_build_it() {
        assert!(named("libtorch:0").unwrap_err().to_string().contains("--features libtorch"));
    }
}
