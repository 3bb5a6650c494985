//! What all checks come to for each device: cards first, the processor last.

use crate::computer::doctor::libtorch::LIBTORCH_CPU;
use crate::computer::doctor::{Check, Concerns, Patient, State, Verdict, numbered};
use crate::computer::machine::gfx::Support;
use crate::computer::machine::kfd;
use crate::computer::machine::pci::NVIDIA;

/// AMD's cards, NVIDIA's, the processor by libtorch if that is built in, the processor. A card that has no number, because its driver does
/// not list it, goes by its PCI address.
pub fn devices(patient: &Patient<'_>, checks: &[Check]) -> Vec<Verdict> {
    let machine = patient.machine;
    let mut devices = Vec::new();
    for (device, gpu) in numbered(machine) {
        let support = gpu.gfx.known().map_or(Support::Unknown, |known| known.support);
        let blank = Verdict {
            target: Some(gpu.gfx.to_string()),
            memory: Some(gpu.memory),
            support: Some(support),
            ..blank(device, gpu.name.clone())
        };
        devices.push(judged(blank, Concerns::Amd, checks));
    }
    for card in kfd::unlisted(&machine.controllers, &machine.amd) {
        let name = format!("AMD GPU {:04x}:{:04x}", card.vendor, card.device);
        devices.push(judged(Verdict { memory: card.memory, ..blank(card.address.to_string(), name) }, Concerns::Amd, checks));
    }
    match &machine.nvidia {
        Some(nvidia) => devices.extend(
            nvidia
                .gpus
                .iter()
                .enumerate()
                .map(|(number, gpu)| judged(blank(format!("libtorch:{number}"), gpu.name.clone()), Concerns::Nvidia, checks)),
        ),
        None => devices.extend(machine.controllers_of(NVIDIA).map(|card| {
            let name = format!("NVIDIA GPU {:04x}:{:04x}", card.vendor, card.device);
            judged(blank(card.address.to_string(), name), Concerns::Nvidia, checks)
        })),
    }
    if patient.build.libtorch {
        let blank = blank(LIBTORCH_CPU.to_string(), "the processor, by libtorch".to_string());
        devices.push(judged(blank, Concerns::Processor, checks));
    }
    devices.push(processor(patient, checks));
    devices
}

fn blank(device: String, name: String) -> Verdict {
    Verdict { device, name, target: None, memory: None, facts: Vec::new(), support: None, state: State::Ok, because: None }
}

fn processor(patient: &Patient<'_>, checks: &[Check]) -> Verdict {
    let processor = &patient.machine.processor;
    let name = if processor.name.is_empty() { "processor".to_string() } else { processor.name.clone() };
    let mut facts = vec![format!("{} threads", processor.threads)];
    facts.extend(processor.vectors().map(str::to_string));
    let memory = Some(patient.machine.memory.total);
    judged(Verdict { facts, memory, ..blank("cpu".into(), name) }, Concerns::Processor, checks)
}

/// A device is as well as the worst of its checks.
fn judged(blank: Verdict, concerns: Concerns, checks: &[Check]) -> Verdict {
    let its = checks.iter().filter(|check| {
        check.is_relevant && check.concerns == concerns && check.device.as_ref().is_none_or(|device| *device == blank.device)
    });
    let worst = its.rev().max_by_key(|check| check.state);
    let state = worst.map_or(State::Ok, |check| check.state);
    let because = worst.filter(|check| check.state != State::Ok).map(|check| check.summary.clone());
    Verdict { state, because, ..blank }
}

/// For a computer without a GPU: what is faster than the backend that needs nothing installed.
pub fn advice(patient: &Patient<'_>, devices: &[Verdict]) -> Option<String> {
    let is_alone = devices.len() == 1 && !patient.machine.system.is_wsl;
    let may_be_faster = is_alone && patient.build.networks && !patient.build.libtorch;
    may_be_faster.then(|| "without a GPU, libtorch computes faster than this build does: `loramill libtorch cpu`".to_string())
}
