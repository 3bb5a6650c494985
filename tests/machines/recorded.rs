//! What the kernel answers on a recorded computer. Reads no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use loramill::computer::machine::host::{DeviceFile, Kernel, Opened, Space};

/// The answers, as `kernel` of a case writes them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recorded {
    pub user: u32,
    pub groups: Vec<u32>,
    pub devices: BTreeMap<PathBuf, RecordedDevice>,
    /// By the folder that a file system is mounted on.
    pub space: BTreeMap<PathBuf, RecordedSpace>,
    pub open_files: Option<u64>,
    pub locked_bytes: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedDevice {
    pub group: u32,
    /// In octal digits: `660`.
    pub mode: String,
    /// `yes`, `denied`, or what else the kernel said.
    pub opens: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedSpace {
    pub free: u64,
    pub total: u64,
    #[serde(default)]
    pub network: bool,
    #[serde(default)]
    pub read_only: bool,
}

impl Kernel for Recorded {
    fn user(&self) -> u32 {
        self.user
    }

    fn groups(&self) -> Vec<u32> {
        self.groups.clone()
    }

    fn device(&self, path: &Path) -> Option<DeviceFile> {
        let device = self.devices.get(path)?;
        let opened = match device.opens.as_str() {
            "yes" => Opened::Yes,
            "denied" => Opened::Denied,
            other => Opened::Failed(other.to_string()),
        };
        Some(DeviceFile { group: device.group, mode: u32::from_str_radix(&device.mode, 8).ok()?, opened })
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let space = path.ancestors().find_map(|above| self.space.get(above))?;
        Some(Space { free: space.free, total: space.total, is_network: space.network, is_writable: !space.read_only })
    }

    fn most_open_files(&self) -> Option<u64> {
        self.open_files
    }

    fn most_locked_bytes(&self) -> Option<u64> {
        self.locked_bytes
    }
}
