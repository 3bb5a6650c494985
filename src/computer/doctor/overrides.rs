//! Whether a card runs the code that it should: what `HSA_OVERRIDE_GFX_VERSION` does to it, and whether it is needed.

use crate::computer::doctor::{Check, Concerns, Patient, State};
use crate::computer::machine::gfx::{Gfx, Likeness};
use crate::computer::machine::kfd::AmdGpu;
use crate::computer::machine::worker_environment::{Code, OVERRIDE, code_for, hsa_override, override_of_user};

/// The check `override` for one card. `device`: what the user calls it, `libtorch:0`.
pub fn check(patient: &Patient<'_>, device: &str, gpu: &AmdGpu) -> Check {
    let check = match override_of_user(gpu, patient.machine) {
        None => without_one(patient, device, gpu),
        Some((name, "")) => Check::new(
            "override",
            Concerns::Amd,
            State::Degraded,
            format!("`{name}` is set and empty, which old runtimes take for a version 0"),
        )
        .fix(format!("unset {name}"), format!("env | grep {OVERRIDE}")),
        Some((name, value)) => with_one(patient, gpu, &name, value).seen(format!("{name}={value}")),
    };
    check.of(device)
}

fn without_one(patient: &Patient<'_>, device: &str, gpu: &AmdGpu) -> Check {
    let check = |state, summary: String| Check::new("override", Concerns::Amd, state, summary);
    let Some(variable) = hsa_override(gpu, patient.machine) else {
        return check(State::Ok, "none is set, and none is needed as far as can be seen".into());
    };
    let set = format!("{}={}", variable.name, variable.value.as_deref().unwrap_or(""));
    let code = code_for(gpu.gfx, patient.machine.torch_targets());
    let is_alike = matches!(code, Code::StandIn(stand_in) if stand_in.likeness == Likeness::Same);
    if is_alike {
        return check(State::Ok, format!("workers are started with `{set}`")).seen(variable.reason);
    }
    let is_proven = patient.self_tests.iter().any(|test| test.device == device && test.passed);
    let state = if is_proven { State::Ok } else { State::Unverified };
    check(state, format!("{} runs another card's code, which crashes or gives wrong numbers for some people", gpu.gfx))
        .seen(format!("workers are started with `{set}`"))
        .seen(variable.reason)
        .fix("the self-test tells whether it does here", "loramill doctor")
}

fn with_one(patient: &Patient<'_>, gpu: &AmdGpu, name: &str, value: &str) -> Check {
    let check = |state, summary: String| Check::new("override", Concerns::Amd, state, summary);
    let unset = |check: Check| check.fix(format!("unset {name}"), format!("env | grep {OVERRIDE}"));
    let Some(target) = Gfx::from_override(value) else {
        return unset(check(
            State::Blocked,
            format!("`{value}` is no version: the runtime wants three numbers such as `10.3.0`"),
        ));
    };
    let has_no_code = matches!(code_for(target, patient.machine.torch_targets()), Code::StandIn(_) | Code::Nothing);
    if has_no_code {
        return unset(check(State::Blocked, format!("the libraries have no code for {target}, which it asks for")));
    }
    if target == gpu.gfx {
        return check(State::Ok, format!("it says what the card is, {target}"));
    }
    let advised = gpu.gfx.known().and_then(|known| known.stand_in);
    if target.major != gpu.gfx.major {
        // Across generations the driver may crash.
        let check = check(State::Blocked, format!("{} is told to run code for {target}, of another generation", gpu.gfx));
        return match (name, advised) {
            (OVERRIDE, _) if patient.machine.amd.len() > 1 => check.fix(
                format!("unset {OVERRIDE}, which is for all cards; for one there is `{OVERRIDE}_<node>`"),
                format!("env | grep {OVERRIDE}"),
            ),
            _ => unset(check),
        };
    }
    match code_for(gpu.gfx, patient.machine.torch_targets()) {
        Code::Native => unset(check(State::Degraded, format!("it is not needed: the libraries have code for {}", gpu.gfx))),
        _ if advised.is_some_and(|advised| advised.gfx == target && advised.likeness == Likeness::Same) => {
            check(State::Ok, format!("{} runs code for {target}, whose instructions it shares", gpu.gfx))
        }
        _ if advised.is_some_and(|advised| advised.gfx == target) => {
            check(State::Unverified, format!("{} runs code for {target}, whose instructions differ in part", gpu.gfx))
        }
        _ => {
            let known = advised.map_or_else(
                || "none is known to help".to_string(),
                |advised| format!("known to help is `{}`", advised.gfx.as_override()),
            );
            unset(check(State::Degraded, format!("{} runs code for {target}; {known}", gpu.gfx)))
        }
    }
}
