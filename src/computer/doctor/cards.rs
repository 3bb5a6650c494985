//! Whether a card is free and well connected. Knows only cards whose driver tells: AMD's.

use crate::computer::doctor::{Check, Concerns, Patient, State, memory_size, numbered};
use crate::computer::machine::kfd::AmdGpu;
use crate::computer::machine::pci::DisplayController;
use crate::engine::cache::bytes::size;

/// Share of graphics memory beyond which something else computes, or many windows are open.
const BUSY: f64 = 0.1;

/// The checks `in-use` for each of AMD's cards whose driver tells how much of its memory is in use, and `bus` for those that are not part
/// of the processor.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    for (device, gpu) in numbered(patient.machine) {
        let controller = patient.machine.controllers.iter().find(|controller| controller.address == gpu.address);
        checks.extend(in_use(&device, gpu, controller));
        checks.extend(controller.filter(|_| !gpu.is_integrated()).map(|controller| bus(patient, &device, gpu, controller)));
    }
    checks
}

fn in_use(device: &str, gpu: &AmdGpu, controller: Option<&DisplayController>) -> Option<Check> {
    let used = gpu.memory_used.filter(|_| gpu.memory > 0)?;
    let summary = format!("{} of {} are in use", size(used), memory_size(gpu.memory));
    let screens = controller.map(|controller| controller.screens.join(", ")).unwrap_or_default();
    let check = |state| {
        let check = Check::new("in-use", Concerns::Amd, state, summary.clone()).of(device);
        if screens.is_empty() { check } else { check.seen(format!("screens: {screens}")) }
    };
    if used as f64 / gpu.memory as f64 <= BUSY {
        return Some(check(State::Ok));
    }
    let fix = if screens.is_empty() {
        "end the programs that use the card"
    } else {
        "end programs that use the card, or plug the screen into the processor's GPU"
    };
    Some(check(State::Degraded).fix(fix, format!("cat /sys/bus/pci/devices/{}/mem_info_vram_used", gpu.address)))
}

fn bus(patient: &Patient<'_>, device: &str, gpu: &AmdGpu, controller: &DisplayController) -> Check {
    let check = |state, summary: String| Check::new("bus", Concerns::Amd, state, summary).of(device);
    let machine = patient.machine;
    let cards = machine.amd.iter().filter(|gpu| !gpu.is_integrated()).count();
    let has_iommu = !patient.host.list("/sys/class/iommu").is_empty();
    let check = match controller.lanes {
        Some((lanes, most)) if lanes * 4 <= most => check(State::Degraded, format!("the card has {lanes} of its {most} lanes"))
            .fix(
                "put it into a slot with more lanes, without a riser",
                format!("cat /sys/bus/pci/devices/{}/current_link_width", gpu.address),
            ),
        _ if cards > 1 && has_iommu && !machine.system.was_started_with("iommu=pt") => {
            check(State::Degraded, format!("{cards} cards behind an IOMMU without `iommu=pt`: hangs are reported")).fix(
                "add `iommu=pt` to the kernel's command line (GRUB: /etc/default/grub, then `sudo update-grub`) and start anew",
                "grep -o iommu=pt /proc/cmdline",
            )
        }
        Some((lanes, _)) => check(State::Ok, format!("{lanes} lanes")),
        None => check(State::Ok, "nothing speaks against it".into()),
    };
    match controller.window {
        Some(window) if window < gpu.memory => {
            check.seen(format!("resizable BAR is off: the processor reaches {} at a time; only loading is slower", size(window)))
        }
        Some(_) => check.seen("resizable BAR is on"),
        None => check,
    }
}
