//! What a computation on the card, beside the same on the processor, showed. Runs none: a child process does, because a card may hang.

use crate::doctor::{Check, Concerns, Patient, State, numbered};

pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    let amd = numbered(patient.machine).into_iter().filter(|(_, gpu)| !gpu.is_for_display_only());
    let amd = amd.map(|(device, _)| (device, Concerns::Amd));
    let gpus = patient.machine.nvidia.as_ref().map_or(0, |nvidia| nvidia.gpus.len());
    let nvidia = (0..gpus).map(|number| (format!("libtorch:{number}"), Concerns::Nvidia));
    amd.chain(nvidia).map(|(device, concerns)| check(patient, &device, concerns)).collect()
}

fn check(patient: &Patient<'_>, device: &str, concerns: Concerns) -> Check {
    let check = |state, summary: String| Check::new("self-test", concerns, state, summary).of(device);
    let Some(test) = patient.self_tests.iter().find(|test| test.device == device) else {
        // Where the card cannot be used at all, that is what is to be mended.
        return check(State::Unverified, "its numbers have not been compared with the processor's".into())
            .fix("a build with libtorch compares them: cargo install --path . --features libtorch", "loramill doctor")
            .relevant(patient.build.libtorch);
    };
    if test.passed {
        return check(State::Ok, "it computes what the processor computes".into()).seen(test.report.clone());
    }
    check(State::Blocked, "it does not compute what the processor computes".into())
        .seen(test.report.clone())
        .fix("try another version of the driver and of libtorch; until then `--device cpu`", "loramill doctor")
}
