//! AMD GPUs as the compute driver lists them: `/sys/class/kfd/kfd/topology`. Does not know which of them a program gets to see.
//!
//! The target is taken from here alone: the version that IP discovery names is another number (`gfx943` for a gfx942).

use std::collections::BTreeMap;
use std::path::Path;

use crate::computer::machine::gfx::Gfx;
use crate::computer::machine::host::Host;
use crate::computer::machine::pci::{self, DisplayController, PciAddress};

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";

/// Marketing names by device and revision, from libdrm, where it is installed.
const NAMES: &[&str] = &["/usr/share/libdrm/amdgpu.ids", "/opt/amdgpu/share/libdrm/amdgpu.ids"];

/// Memory of a GPU in a KFD memory bank's `heap_type`: 1 is reached by the processor, 2 is not; `kfd_crat.h` of Linux.
const FRAME_BUFFER: [u64; 2] = [1, 2];

/// A GPU that compute programs may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmdGpu {
    /// Its number among the KFD nodes, which count processors too: what `HSA_OVERRIDE_GFX_VERSION_<node>` means.
    pub node: u32,
    pub gfx: Gfx,
    /// `AMD Radeon RX 6700 XT`, or the cards that have this target.
    pub name: String,
    /// Bytes of graphics memory; of an integrated GPU what the firmware sets aside.
    pub memory: u64,
    pub memory_used: Option<u64>,
    pub compute_units: u64,
    pub address: PciAddress,
    /// `/dev/dri/renderD128`.
    pub render_file: Option<String>,
    /// A number of this very card, as the runtime writes it: `GPU-5a0b4d3c8f1e2a67`. Integrated ones and old drivers have none.
    pub uuid: Option<String>,
}

impl AmdGpu {
    /// Part of a processor, told by the target: false for one that is not listed.
    pub fn is_integrated(&self) -> bool {
        self.gfx.is_integrated()
    }

    /// Too small to compute on: the two compute units that desktop processors have for a screen.
    pub fn is_for_display_only(&self) -> bool {
        self.is_integrated() && self.compute_units <= 2
    }
}

/// All of them, by node: the order in which the runtime numbers them.
pub fn gpus(host: &Host, controllers: &[DisplayController]) -> Vec<AmdGpu> {
    let mut nodes: Vec<u32> = host.list(NODES).iter().filter_map(|name| name.parse().ok()).collect();
    nodes.sort_unstable();
    nodes.into_iter().filter_map(|node| gpu(host, node, controllers)).collect()
}

fn gpu(host: &Host, node: u32, controllers: &[DisplayController]) -> Option<AmdGpu> {
    let folder = Path::new(NODES).join(node.to_string());
    let text = host.text(folder.join("properties"))?;
    let of_node = properties(&text);
    let property = |name: &str| of_node.get(name).copied().unwrap_or(0);
    let gfx = Gfx::from_target_version(property("gfx_target_version")).filter(|_| property("simd_count") > 0)?;
    let address = PciAddress::from_location(property("domain"), property("location_id"));
    let controller = controllers.iter().find(|controller| controller.address == address);
    let banks = host.list(folder.join("mem_banks")).into_iter().filter_map(|bank| {
        let text = host.text(folder.join("mem_banks").join(bank).join("properties"))?;
        let bank = properties(&text);
        let is_own = bank.get("heap_type").is_some_and(|heap| FRAME_BUFFER.contains(heap));
        is_own.then(|| bank.get("size_in_bytes").copied().unwrap_or(0))
    });
    let minor = property("drm_render_minor");
    let unique = property("unique_id");
    Some(AmdGpu {
        node,
        gfx,
        name: name(host, property("device_id"), controller.map(|controller| controller.revision), gfx),
        memory: controller.and_then(|controller| controller.memory).unwrap_or_else(|| banks.sum()),
        memory_used: controller.and_then(|controller| controller.memory_used),
        compute_units: property("simd_count").checked_div(property("simd_per_cu")).unwrap_or(0),
        address,
        render_file: (minor > 0).then(|| format!("/dev/dri/renderD{minor}")),
        uuid: (unique > 0).then(|| format!("GPU-{unique:016x}")),
    })
}

/// Lines `key value`.
fn properties(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key, value.trim().parse().ok()?)))
        .collect()
}

fn name(host: &Host, device: u64, revision: Option<u64>, gfx: Gfx) -> String {
    let listed = revision.and_then(|revision| {
        NAMES.iter().find_map(|file| listed_name(&host.text(file)?, device, revision)).map(|name| name.trim().to_string())
    });
    match (listed, gfx.known()) {
        (Some(name), _) => name,
        (None, Some(known)) => format!("AMD GPU ({})", known.examples),
        (None, None) => "AMD GPU".to_string(),
    }
}

/// A name in a line of device, revision and name between commas and tabs: 73DF, C1, AMD Radeon RX 6700 XT.
fn listed_name(text: &str, device: u64, revision: u64) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ',').map(str::trim);
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        let is_it = number()? == device && number()? == revision;
        fields.next().filter(|_| is_it).map(str::to_string)
    })
}

/// AMD's display controllers that the compute driver does not list: no driver, or not this one.
pub fn unlisted<'c>(controllers: &'c [DisplayController], gpus: &[AmdGpu]) -> Vec<&'c DisplayController> {
    let is_unlisted = |controller: &&DisplayController| {
        controller.vendor == pci::AMD && gpus.iter().all(|gpu| gpu.address != controller.address)
    };
    controllers.iter().filter(is_unlisted).collect()
}

#[cfg(test)]
impl AmdGpu {
    /// A card of that target, as the node after the one numbered `at`.
    pub fn of_target(at: usize, target: &str) -> Self {
        Self {
            node: at as u32 + 1,
            gfx: Gfx::named(target).unwrap(),
            name: String::new(),
            memory: 12 << 30,
            memory_used: None,
            compute_units: 40,
            address: PciAddress(format!("0000:0{at}:00.0")),
            render_file: None,
            uuid: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libdrms_list_names_a_card_by_device_and_revision() {
        let text = "# List of AMDGPU IDs\n1.0.0\n73DF,\tC0,\tAMD Radeon RX 6800M\n73DF,\tC1,\tAMD Radeon RX 6700 XT\n";
        assert_eq!(listed_name(text, 0x73df, 0xc1).as_deref(), Some("AMD Radeon RX 6700 XT"));
        assert_eq!(listed_name(text, 0x73df, 0xff), None);
        assert_eq!(listed_name(text, 0x73bf, 0xc1), None);
    }
}
