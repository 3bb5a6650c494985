//! What a computation on the card, beside the same on the processor, showed. Runs none: a child process does, because a card may hang.

use crate::doctor::{Check, Concerns, Patient, State, numbered};
use crate::machine::gfx::{Gfx, Support};

pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    let amd = numbered(patient.machine).into_iter().map(|(device, gpu)| check(patient, &device, Concerns::Amd, Some(gpu.gfx)));
    let gpus = patient.machine.nvidia.as_ref().map_or(0, |nvidia| nvidia.gpus.len());
    amd.chain((0..gpus).map(|number| check(patient, &format!("libtorch:{number}"), Concerns::Nvidia, None))).collect()
}

fn check(patient: &Patient<'_>, device: &str, concerns: Concerns, gfx: Option<Gfx>) -> Check {
    let check = |state, summary: String| Check::new("self-test", concerns, state, summary).of(device);
    let Some(test) = patient.self_tests.iter().find(|test| test.device == device) else {
        let expected = gfx.map(|gfx| format!("{}, and ", expectation(gfx))).unwrap_or_default();
        let check = check(State::Unverified, format!("{expected}its numbers have not been compared with the processor's"));
        let fix = if patient.build.libtorch {
            "mend what is blocked, then `loramill doctor` compares them"
        } else {
            "build with `--features libtorch`, then `loramill doctor` compares them"
        };
        return check.fix(fix, "loramill doctor");
    };
    if test.passed {
        return check(State::Ok, "it computes what the processor computes".into()).seen(test.report.clone());
    }
    check(State::Blocked, "it does not compute what the processor computes".into())
        .seen(test.report.clone())
        .fix("try another version of the driver and of libtorch; until then `--device cpu`", "loramill doctor")
}

/// What may be said of a target that was not tested.
pub fn expectation(gfx: Gfx) -> String {
    match gfx.known().map_or(Support::Unknown, |known| known.support) {
        Support::Expected => format!("{gfx} should work, though nobody has tried loramill on it"),
        Support::Doubtful => format!("{gfx} works for some people and not for others"),
        Support::Unknown => format!("nothing is known of {gfx}"),
    }
}
