//! What a computation on the card, beside the same on the processor, showed. Runs none: a child process does, because a card may hang.

use crate::computer::doctor::{Check, Concerns, Patient, State, numbered};
use crate::computer::machine::gfx::{Gfx, Support};

/// `others` are all other checks.
pub fn checks(patient: &Patient<'_>, others: &[Check]) -> Vec<Check> {
    let blocked =
        |concerns| others.iter().any(|check| check.concerns == concerns && check.state == State::Blocked && check.is_relevant);
    let check = |device: String, concerns, gfx| check(patient, &device, concerns, gfx, blocked(concerns));
    let amd = numbered(patient.machine).into_iter().map(|(device, gpu)| check(device, Concerns::Amd, Some(gpu.gfx)));
    let gpus = patient.machine.nvidia.as_ref().map_or(0, |nvidia| nvidia.gpus.len());
    amd.chain((0..gpus).map(|number| check(format!("libtorch:{number}"), Concerns::Nvidia, None))).collect()
}

fn check(patient: &Patient<'_>, device: &str, concerns: Concerns, gfx: Option<Gfx>, is_blocked: bool) -> Check {
    let check = |state, summary: String| Check::new("self-test", concerns, state, summary).of(device);
    let Some(test) = patient.self_tests.iter().find(|test| test.device == device) else {
        let expected = gfx.map(|gfx| format!("{}, and ", expectation(gfx))).unwrap_or_default();
        let check = check(State::Unverified, format!("{expected}its numbers have not been compared with the processor's"));
        return match (patient.build.libtorch, is_blocked) {
            (false, _) => check.fix("build with `--features libtorch`", "loramill doctor"),
            (true, true) => check.fix("mend what is blocked first", "loramill doctor"),
            // The same seed gives the same picture on every device.
            (true, false) => check.fix(
                format!("draw a picture with `--device {device}` and one with `--device cpu`"),
                "with one seed they are the same picture",
            ),
        };
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
