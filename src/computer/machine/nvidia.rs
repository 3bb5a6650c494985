//! NVIDIA GPUs as their driver lists them: `/proc/driver/nvidia`. Asks no library, so it knows neither their memory nor what uses it.

use std::path::Path;

use crate::computer::machine::host::Host;
use crate::computer::machine::pci::PciAddress;

const DRIVER: &str = "/proc/driver/nvidia";

/// A driver that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvidia {
    /// `570.133.07`; empty if its file does not say.
    pub version: String,
    pub gpus: Vec<NvidiaGpu>,
}

/// A GPU that the driver has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvidiaGpu {
    /// `NVIDIA GeForce RTX 3060`
    pub name: String,
    pub address: PciAddress,
    /// `/dev/nvidia0`
    pub device_file: Option<String>,
    pub uuid: Option<String>,
}

impl Nvidia {
    /// `None` where the driver is not loaded.
    pub fn read(host: &Host) -> Option<Self> {
        let version = version(&host.text(Path::new(DRIVER).join("version"))?);
        let folder = Path::new(DRIVER).join("gpus");
        let addresses = host.list(&folder).into_iter();
        let gpus = addresses.filter_map(|address| {
            let text = host.text(folder.join(&address).join("information"))?;
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
            };
            Some(NvidiaGpu {
                name: field("Model").unwrap_or_else(|| "NVIDIA GPU".into()),
                device_file: field("Device Minor").map(|minor| format!("/dev/nvidia{minor}")),
                uuid: field("GPU UUID"),
                address: PciAddress(address),
            })
        });
        Some(Self { version: version.unwrap_or_default(), gpus: gpus.collect() })
    }

    /// The number before the first point of the version.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// The first word of the line `NVRM version: …` that is a version.
fn version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let is_version = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    line.split_whitespace().find(is_version).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_both_forms_of_the_line() {
        let closed =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  12.2.0";
        assert_eq!(version(closed).as_deref(), Some("535.129.03"));
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build  (dvs-builder@x)  Tue";
        assert_eq!(version(open).as_deref(), Some("580.65"));
        assert_eq!(version("GCC version:  12.2.0"), None);
    }
}
