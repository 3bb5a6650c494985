//! Whether AMD's cards can be reached: driver, permissions, what is shown of them. Does not know which libraries use them.

use std::path::Path;

use crate::computer::doctor::self_test::expectation;
use crate::computer::doctor::{Check, Concerns, Patient, State, has_amd, memory_size, numbered, overrides};
use crate::computer::machine::host::{DeviceFile, Opened};
use crate::computer::machine::kfd::{self, AmdGpu};
use crate::computer::machine::pci::DisplayController;
use crate::computer::machine::visibility::{self, Mask};

const KFD: &str = "/dev/kfd";

/// Flags with which a container gets AMD's GPUs.
const CONTAINER_FLAGS: &str = "start the container with `--device=/dev/kfd --device=/dev/dri --group-add video --group-add render --security-opt seccomp=unconfined`";

/// Bytes below which a training of SD 1.5 at 512 pixels in half precision has no room.
const ROOM: u64 = 6_000_000_000;

/// The checks `driver`, `access`, `visibility`, and for each card `gpu` and `override`. `driver` alone if no card is driven; it is not
/// relevant if there is no card of AMD's.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    if !has_amd(patient.machine) {
        return vec![Check::new("driver", Concerns::Amd, State::Ok, "no AMD card to compute on").relevant(false)];
    }
    let driver = driver(patient);
    let is_driven = driver.state != State::Blocked || !patient.machine.amd.is_empty();
    let mut checks = vec![driver];
    if is_driven {
        checks.push(access(patient));
        checks.extend(numbered(patient.machine).iter().map(|(device, gpu)| gpu_itself(device, gpu)));
        checks.push(visibility(patient));
        checks.extend(numbered(patient.machine).iter().map(|(device, gpu)| overrides::check(patient, device, gpu)));
    }
    checks
}

fn driver(patient: &Patient<'_>) -> Check {
    let machine = patient.machine;
    let unlisted = kfd::unlisted(&machine.controllers, &machine.amd);
    let check = |state, summary: String| Check::new("driver", Concerns::Amd, state, summary);
    let Some(card) = unlisted.iter().find(|card| card.driver.as_deref() != Some("amdgpu")).or_else(|| unlisted.first()) else {
        let count = machine.amd.len();
        let seen = format!("/sys/class/kfd lists {count} GPU{}", if count == 1 { "" } else { "s" });
        return check(State::Ok, "amdgpu drives the card".into()).seen(seen);
    };
    let seen = format!(
        "PCI {}: {:04x}:{:04x}, driver {}",
        card.address,
        card.vendor,
        card.device,
        card.driver.as_deref().unwrap_or("none")
    );
    let place = &card.address;
    let verify = format!("lspci -k -s {place}");
    match card.driver.as_deref() {
        Some("amdgpu") => without_compute(patient, card).seen(seen),
        Some("vfio-pci") => check(State::Blocked, "the card is set aside for virtual machines (vfio-pci)".into())
            .seen(seen)
            .fix("give the card back to amdgpu: take its id out of `vfio-pci.ids` and start anew", verify),
        Some("radeon") => check(State::Blocked, "the card is too old to compute on: the radeon driver has it".into())
            .seen(seen)
            .fix("use `--device cpu`", "loramill doctor"),
        Some(other) => check(State::Blocked, format!("`{other}` drives the card, not amdgpu"))
            .seen(seen)
            .fix("sudo modprobe amdgpu, or start anew", verify),
        None => undriven(patient, seen, verify),
    }
}

/// A card with amdgpu, but not among the compute nodes.
fn without_compute(patient: &Patient<'_>, card: &DisplayController) -> Check {
    let check = |summary| Check::new("driver", Concerns::Amd, State::Blocked, summary);
    if patient.host.is_folder("/sys/class/kfd") {
        return check("amdgpu drives the card, and its compute part does not know it").fix(
            "see why in the kernel's messages: `sudo dmesg | grep -i kfd`",
            format!("grep -l {} /sys/class/kfd/kfd/topology/nodes/*/properties", card.device),
        );
    }
    check("the kernel has amdgpu without its compute part")
        .fix("start a kernel with CONFIG_HSA_AMD, as distributions build it", "ls /sys/class/kfd")
}

fn undriven(patient: &Patient<'_>, seen: String, verify: String) -> Check {
    let check = |summary| Check::new("driver", Concerns::Amd, State::Blocked, summary).seen(seen);
    let system = &patient.machine.system;
    if let Some(word) = system.command_line.split_whitespace().find(|word| *word == "nomodeset" || blacklists_on_start(word)) {
        return check("the kernel was told at its start not to drive the card").seen(format!("/proc/cmdline: {word}")).fix(
            format!(
                "take `{word}` out of the kernel's command line (GRUB: /etc/default/grub, then `sudo update-grub`) and start anew"
            ),
            verify,
        );
    }
    if let Some(file) = blacklist(patient) {
        let fix = format!("take the line `blacklist amdgpu` out of `{file}`, then `sudo modprobe amdgpu`");
        return check("amdgpu is blacklisted").seen(format!("{file}: blacklist amdgpu")).fix(fix, verify);
    }
    if patient.host.is_folder("/sys/module/amdgpu") {
        let fix =
            "see why in the kernel's messages, `sudo dmesg | grep amdgpu`; a new card may want a newer kernel or linux-firmware";
        return check("amdgpu is loaded and does not take the card").fix(fix, verify);
    }
    check("amdgpu is not loaded").fix("sudo modprobe amdgpu", verify)
}

fn blacklists_on_start(word: &str) -> bool {
    let names = word.strip_prefix("modprobe.blacklist=").or_else(|| word.strip_prefix("module_blacklist="));
    names.is_some_and(|names| names.split(',').any(|name| name == "amdgpu"))
}

fn blacklist(patient: &Patient<'_>) -> Option<String> {
    const FOLDERS: &[&str] = &["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"];
    let files =
        FOLDERS.iter().flat_map(|folder| patient.host.list(folder).into_iter().map(move |name| format!("{folder}/{name}")));
    files.into_iter().find(|file| {
        let text = patient.host.text(file).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["blacklist", "amdgpu"])
    })
}

/// Whether this process may open the files through which programs compute, and if not, whether the next login mends it.
fn access(patient: &Patient<'_>) -> Check {
    let system = &patient.machine.system;
    let check = |state, summary: String| Check::new("access", Concerns::Amd, state, summary);
    let renders = numbered(patient.machine).into_iter().filter_map(|(_, gpu)| gpu.render_file.clone());
    let mut evidence = Vec::new();
    for path in std::iter::once(KFD.to_string()).chain(renders) {
        let Some(file) = patient.host.kernel().device(Path::new(&path)) else {
            let check = check(State::Blocked, format!("there is no `{path}`"));
            return match system.container {
                Some(sign) => check.seen(format!("this is a container: {sign}")).fix(CONTAINER_FLAGS, format!("ls -l {path}")),
                None => check.fix("sudo modprobe -r amdgpu && sudo modprobe amdgpu, or start anew", format!("ls -l {path}")),
            };
        };
        let group = system.group_name(file.group);
        evidence.push(format!("{path}: group {group}, mode {:o}", file.mode));
        match &file.opened {
            Opened::Yes => {}
            Opened::Denied => return denied(patient, &path, &file, evidence),
            Opened::Failed(why) => {
                let failed = check(State::Blocked, format!("`{path}` does not open: {why}"));
                return Check { evidence, ..failed }.fix("see the kernel's messages: `sudo dmesg | tail`", "loramill doctor");
            }
        }
    }
    let groups: Vec<String> = system.user.groups.iter().map(|&group| system.group_name(group)).collect();
    evidence.push(format!("this process is in {}", groups.join(", ")));
    Check { evidence, ..check(State::Ok, "the files of the card open".into()) }
}

fn denied(patient: &Patient<'_>, path: &str, file: &DeviceFile, mut evidence: Vec<String>) -> Check {
    let system = &patient.machine.system;
    let group = system.group_name(file.group);
    let by_number = group.bytes().all(|byte| byte.is_ascii_digit());
    let verify = format!("id {} | grep -w {group}", if by_number { "-G" } else { "-nG" });
    let check = |summary: String| Check::new("access", Concerns::Amd, State::Blocked, summary);
    let groups: Vec<String> = system.user.groups.iter().map(|&group| system.group_name(group)).collect();
    evidence.push(format!("this process is in {}", groups.join(", ")));
    let check = if file.mode & 0o060 != 0o060 {
        let fix = format!(
            "sudo chmod g+rw {path}; for good a udev rule: `KERNEL==\"{}\", GROUP=\"render\", MODE=\"0660\"`",
            name_of(path)
        );
        check(format!("`{path}` is closed to its own group")).fix(fix, format!("ls -l {path}"))
    } else if system.is_root() || system.is_in_group(file.group) {
        let fix = if system.container.is_some() { CONTAINER_FLAGS } else { "look for SELinux or AppArmor in `sudo dmesg`" };
        check(format!("`{path}` is denied although its mode lets you in")).fix(fix, "loramill doctor")
    } else if system.will_be_in_group(file.group) {
        evidence.push(format!("/etc/group has you in {group}"));
        check(format!("you were put into `{group}` after you logged in")).fix("log out and in again, or start anew", verify)
    } else if system.container.is_some() {
        let fix = format!("start the container with `--group-add {}`", file.group);
        check(format!("`{path}` is denied: you are not in group `{group}`")).fix(fix, verify)
    } else {
        let fix = format!("sudo usermod -aG {} \"$USER\", then log out and in again", groups_to_join(&group));
        check(format!("`{path}` is denied: you are not in group `{group}`")).fix(fix, verify)
    };
    Check { evidence, ..check }
}

fn name_of(path: &str) -> &str {
    path.strip_prefix("/dev/").unwrap_or(path)
}

/// Distributions give the files to `render`, old ones to `video`; screens need the latter.
fn groups_to_join(group: &str) -> String {
    if group == "video" { "video".into() } else { format!("{group},video") }
}

/// What the card is, and what may be expected of it.
fn gpu_itself(device: &str, gpu: &AmdGpu) -> Check {
    let size = memory_size(gpu.memory);
    let is_small = gpu.memory < ROOM;
    let summary = match is_small {
        true if gpu.is_integrated() => format!("{size} of memory are set aside for it: little for 512 pixels"),
        true => format!("{size} of memory are little for 512 pixels"),
        false => format!("{}, {size}, {} compute units", gpu.gfx, gpu.compute_units),
    };
    let state = if is_small { State::Degraded } else { State::Ok };
    let place = format!("KFD node {}, PCI {}, {} compute units", gpu.node, gpu.address, gpu.compute_units);
    let mut check = Check::new("gpu", Concerns::Amd, state, summary).of(device).seen(place).seen(expectation(gpu.gfx));
    if !gpu.gfx.computes_bf16() {
        check = check.seen("it computes in fp32 and fp16, not in bf16");
    }
    if let Some(remark) = gpu.gfx.known().and_then(|known| known.remark) {
        check = check.seen(remark);
    }
    match state {
        State::Degraded if gpu.is_integrated() => {
            check.fix("give it more memory in the firmware's setup (UMA frame buffer)", "loramill doctor")
        }
        State::Degraded => check.fix("train and draw at 256 to 384 pixels", "loramill doctor"),
        _ => check,
    }
}

fn visibility(patient: &Patient<'_>) -> Check {
    let machine = patient.machine;
    let shown = visibility::visible(&machine.amd, &machine.environment);
    let check = |state, summary: String| Check::new("visibility", Concerns::Amd, state, summary);
    let value = |name: &str| machine.environment.get(name).cloned().unwrap_or_default();
    if let Some(name) = visibility::empty_masks(&machine.environment).first() {
        return check(State::Degraded, format!("`{name}` is set and empty, which hides every card from some programs"))
            .fix(format!("unset {name}"), format!("env | grep {name}"));
    }
    let check = match &shown.mask {
        Mask::None => return check(State::Ok, "all cards are shown to programs".into()),
        Mask::Ours(mask) => {
            let set = format!("{}={}", mask.name, mask.value.as_deref().unwrap_or(""));
            return check(State::Ok, format!("workers are started with `{set}`")).seen(mask.reason.clone());
        }
        Mask::Users(names) if shown.gpus.iter().all(|gpu| gpu.is_for_display_only()) => {
            check(State::Blocked, format!("{} hides every card that computes", list(names, &value)))
                .fix(format!("unset {}", names.join(" ")), "loramill doctor")
        }
        Mask::Users(names)
            if shown.gpus.iter().any(|gpu| gpu.is_integrated()) && machine.amd.iter().any(|gpu| !gpu.is_integrated()) =>
        {
            check(
                State::Degraded,
                format!("{} shows the processor's own GPU too, beside which programs crash", list(names, &value)),
            )
            .fix(format!("unset {}", names.join(" ")), "loramill doctor")
        }
        Mask::Users(names) => check(State::Ok, format!("{} chooses the cards", list(names, &value))),
    };
    machine.amd.iter().fold(check, |check, gpu| {
        check.seen(format!(
            "KFD node {}: {}{}",
            gpu.node,
            gpu.gfx,
            if gpu.is_integrated() { ", part of the processor" } else { "" }
        ))
    })
}

fn list(names: &[&str], value: &dyn Fn(&str) -> String) -> String {
    names.iter().map(|name| format!("`{name}={}`", value(name))).collect::<Vec<_>>().join(" with ")
}
