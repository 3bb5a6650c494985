//! Display controllers on the PCI bus, with or without a driver. Does not know what a driver offers.

use std::fmt;
use std::path::PathBuf;

use crate::computer::machine::host::Host;

const DEVICES: &str = "/sys/bus/pci/devices";

/// PCI base class 3: display controllers, 3D controllers without a screen among them.
const DISPLAY: u64 = 0x03;
/// PCI base class 0x12: processing accelerators, which Instinct cards call themselves.
const ACCELERATOR: u64 = 0x12;

/// AMD's vendor number, as the PCI-SIG assigned it.
pub const AMD: u64 = 0x1002;
/// NVIDIA's vendor number, as the PCI-SIG assigned it.
pub const NVIDIA: u64 = 0x10de;

/// `0000:0b:00.0`: domain, bus, device, function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress(pub String);

impl PciAddress {
    /// From the numbers of a KFD node: `location_id` holds bus, device and function.
    pub fn from_location(domain: u64, location: u64) -> Self {
        Self(format!("{domain:04x}:{:02x}:{:02x}.{:x}", location >> 8 & 0xff, location >> 3 & 0x1f, location & 7))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A display controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayController {
    pub address: PciAddress,
    pub vendor: u64,
    pub device: u64,
    pub revision: u64,
    /// The kernel module that drives it, `amdgpu`.
    pub driver: Option<String>,
    /// Bytes of graphics memory, and how many of them are in use; amdgpu tells.
    pub memory: Option<u64>,
    pub memory_used: Option<u64>,
    /// Bytes of the largest window through which the processor reaches that memory: all of it with resizable BAR, else 256 MiB.
    pub window: Option<u64>,
    /// Lanes of the narrowest link between card and processor, and as many as the card has.
    pub lanes: Option<(u64, u64)>,
    /// Screens that are plugged in.
    pub screens: Vec<String>,
}

/// All of them, by address.
pub fn display_controllers(host: &Host) -> Vec<DisplayController> {
    let addresses = host.list(DEVICES).into_iter();
    addresses.filter_map(|address| controller(host, address)).collect()
}

fn controller(host: &Host, address: String) -> Option<DisplayController> {
    let folder = PathBuf::from(DEVICES).join(&address);
    let class = host.number(folder.join("class"))? >> 16;
    if class != DISPLAY && class != ACCELERATOR {
        return None;
    }
    let driver = host.text(folder.join("uevent")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("DRIVER=").map(str::to_string));
        line.filter(|driver| !driver.is_empty())
    });
    Some(DisplayController {
        vendor: host.number(folder.join("vendor"))?,
        device: host.number(folder.join("device"))?,
        revision: host.number(folder.join("revision")).unwrap_or(0),
        driver,
        memory: host.number(folder.join("mem_info_vram_total")),
        memory_used: host.number(folder.join("mem_info_vram_used")),
        window: largest_window(&host.text(folder.join("resource")).unwrap_or_default()),
        lanes: lanes(host, &folder),
        screens: screens(host, &folder),
        address: PciAddress(address),
    })
}

/// `resource` has a line `start end flags` for each region; unused ones are zero.
fn largest_window(resource: &str) -> Option<u64> {
    let sizes = resource.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let (start, end) = (numbers.next()??, numbers.next()??);
        (end > start).then(|| end - start + 1)
    });
    sizes.max()
}

/// Cards since Navi 10 have a switch of their own, whose inner link is always full: the one that counts lies in a folder further up.
fn lanes(host: &Host, folder: &std::path::Path) -> Option<(u64, u64)> {
    let most = host.number(folder.join("max_link_width"))?;
    let real = std::fs::canonicalize(host.place(folder)).ok()?;
    let narrowest = real
        .ancestors()
        .map_while(|above| std::fs::read_to_string(above.join("current_link_width")).ok()?.trim().parse::<u64>().ok())
        .filter(|&width| width > 0)
        .min()?;
    Some((narrowest, most))
}

/// `drm/card1/card1-DP-1/status` says `connected`.
fn screens(host: &Host, folder: &std::path::Path) -> Vec<String> {
    let drm = folder.join("drm");
    let cards = host.list(&drm).into_iter().filter(|name| name.starts_with("card"));
    let mut screens = Vec::new();
    for card in cards {
        for connector in host.list(drm.join(&card)).into_iter().filter(|name| name.starts_with(&format!("{card}-"))) {
            if host.text(drm.join(&card).join(&connector).join("status")).is_some_and(|status| status == "connected") {
                screens.push(connector[card.len() + 1..].to_string());
            }
        }
    }
    screens
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::computer::machine::host::RunningKernel;

    #[test]
    fn a_kfd_location_is_a_pci_address() {
        assert_eq!(PciAddress::from_location(0, 2816).to_string(), "0000:0b:00.0");
        assert_eq!(PciAddress::from_location(1, 0x6301).to_string(), "0001:63:00.1");
    }

    #[test]
    fn the_window_is_the_largest_region() {
        let resource = "0x0000007c00000000 0x0000007c0fffffff 0x000000000014220c\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000007c10000000 0x0000007c101fffff 0x000000000014220c\n";
        assert_eq!(largest_window(resource), Some(256 << 20));
        assert_eq!(largest_window(""), None);
    }

    #[test]
    fn the_narrowest_link_on_the_way_to_the_processor_counts() {
        let temp = tempfile::tempdir().unwrap();
        let port = temp.path().join("sys/devices/pci0000:00/0000:00:03.1");
        let card = port.join("0000:09:00.0/0000:0a:00.0/0000:0b:00.0");
        fs::create_dir_all(&card).unwrap();
        for (folder, width) in
            [(port.clone(), "1"), (port.join("0000:09:00.0"), "1"), (card.parent().unwrap().into(), "16"), (card.clone(), "16")]
        {
            fs::write(folder.join("current_link_width"), width).unwrap();
        }
        for (name, text) in [("class", "0x030000"), ("vendor", "0x1002"), ("device", "0x73df"), ("max_link_width", "16")] {
            fs::write(card.join(name), text).unwrap();
        }
        let bus = temp.path().join("sys/bus/pci/devices");
        fs::create_dir_all(&bus).unwrap();
        std::os::unix::fs::symlink(&card, bus.join("0000:0b:00.0")).unwrap();
        let host = Host::recorded(temp.path().to_path_buf(), BTreeMap::new(), Box::new(RunningKernel));
        let [found] = display_controllers(&host).try_into().unwrap();
        assert_eq!(found.lanes, Some((1, 16)));
        assert_eq!(found.driver, None);
    }
}
