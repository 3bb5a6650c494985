//! libtorch's devices, and whether the library that drives one is there. Knows nothing of the names of devices.

use std::fs;

use anyhow::{Result, ensure};
use burn::tensor::Device;

/// What libtorch's own library is called, and those that drive a card.
const LIBRARY: &str = "libtorch_cpu.so";
const DRIVERS: [&str; 2] = ["libtorch_cuda.so", "libtorch_hip.so"];

/// The card of that number. A card of AMD's presents itself as one of NVIDIA's.
///
/// # Errors
/// If this libtorch has no library for cards: it would compute on the CPU and say nothing. Or if it sees no such card.
pub(super) fn gpu(index: usize) -> Result<Device> {
    ensure!(
        DRIVERS.iter().any(|driver| mapped(driver).is_some()),
        "`libtorch:{index}`: {} computes on the CPU only: neither {} is loaded. Build against a libtorch for your card, \
         for instance the PyTorch of your Python (`LIBTORCH_USE_PYTORCH=1 cargo build --release --features libtorch`), or take \
         `--device libtorch:cpu`",
        description(),
        DRIVERS.join(" nor "),
    );
    let count = tch::Cuda::device_count();
    ensure!(
        (index as i64) < count,
        "`libtorch:{index}`: {} sees {}; is the driver loaded, and may you open its device files? `loramill doctor` looks",
        description(),
        match count {
            0 => "no card".to_owned(),
            1 => "one card, `libtorch:0`".to_owned(),
            _ => format!("{count} cards, `libtorch:0` to `libtorch:{}`", count - 1),
        }
    );
    Ok(Device::libtorch_cuda(index))
}

/// Which libtorch this process runs with.
pub(super) fn description() -> String {
    mapped(LIBRARY).map_or_else(|| "libtorch".into(), |path| format!("libtorch at `{path}`"))
}

/// The path of a library that is mapped into this process, as the kernel tells it.
fn mapped(library: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = |line: &str| line.find('/').map(|start| line[start..].to_owned());
    maps.lines().filter_map(path).find(|path| path.ends_with(&format!("/{library}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_found_where_it_is_mapped() {
        assert!(mapped(LIBRARY).unwrap().ends_with("/libtorch_cpu.so"));
        assert_eq!(mapped("libtorch_nowhere.so"), None);
    }

    #[test]
    fn a_card_without_its_library_is_refused() {
        if DRIVERS.iter().all(|driver| mapped(driver).is_none()) {
            let error = gpu(0).unwrap_err().to_string();
            assert!(error.contains("computes on the CPU only") && error.contains("libtorch:cpu"), "{error}");
        }
    }
}
