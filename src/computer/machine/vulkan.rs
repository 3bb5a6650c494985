//! Vulkan as it is installed: its loader and the drivers that announce themselves. Loads neither, so it knows no device.

use std::path::Path;

use crate::computer::machine::host::Host;
use crate::computer::machine::rocm::{LIBRARY_FOLDERS, has_library};

/// Where drivers announce themselves.
const ANNOUNCED: &[&str] = &["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/// What of Vulkan is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vulkan {
    pub has_loader: bool,
    pub drivers: Vec<VulkanDriver>,
}

/// A driver by the file with which it announces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VulkanDriver {
    /// `/usr/share/vulkan/icd.d/radeon_icd.x86_64.json`
    pub file: String,
    /// `RADV`, where the file's name tells.
    pub name: &'static str,
}

impl Vulkan {
    /// Looks at names of files alone: whether a driver works is not tried.
    pub fn read(host: &Host) -> Self {
        let files = ANNOUNCED.iter().flat_map(|folder| {
            let names = host.list(folder).into_iter().filter(|name| name.ends_with(".json"));
            names
                .map(|name| VulkanDriver { name: driver_name(&name), file: Path::new(folder).join(name).display().to_string() })
                .collect::<Vec<_>>()
        });
        Self {
            has_loader: LIBRARY_FOLDERS.iter().any(|folder| has_library(host, Path::new(folder), "libvulkan.so")),
            drivers: files.collect(),
        }
    }

    /// Whether two drivers speak for the same AMD card: which one answers depends on the loader.
    pub fn has_two_for_amd(&self) -> bool {
        let has = |name: &str| self.drivers.iter().any(|driver| driver.name == name);
        has("RADV") && (has("AMDVLK") || has("AMD's proprietary driver"))
    }
}

fn driver_name(file: &str) -> &'static str {
    const KNOWN: &[(&str, &str)] = &[
        ("radeon_icd", "RADV"),
        ("amd_icd", "AMDVLK"),
        ("amd_pro_icd", "AMD's proprietary driver"),
        ("nvidia_icd", "NVIDIA"),
        ("nouveau_icd", "NVK"),
        ("intel_icd", "ANV"),
        ("intel_hasvk", "HASVK"),
        ("lvp_icd", "lavapipe, on the processor"),
        ("dzn_icd", "Dozen, on Windows"),
    ];
    KNOWN.iter().find(|(start, _)| file.starts_with(start)).map_or("another driver", |(_, name)| name)
}
