//! Whether there is a libtorch that can compute on the card: built in, of the right version, for the right vendor, with code for its target.

use crate::computer::doctor::{Check, Concerns, Patient, State, has_amd, has_nvidia, numbered};
use crate::computer::machine::kfd::AmdGpu;
use crate::computer::machine::libtorch::{FETCHED_FOR, Flavour, FoundBy, Libtorch, WANTED, is_loaded};
use crate::computer::machine::worker_environment::{Code, code_for};

/// For each vendor whose card is here, and for the processor.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if has_amd(patient.machine) {
        checks.push(for_vendor(patient, Concerns::Amd, Flavour::Hip));
        let usable = checks.iter().all(|check| check.state != State::Blocked);
        checks.extend(numbered(patient.machine).iter().filter(|_| usable).map(|(device, gpu)| code(patient, device, gpu)));
    }
    if has_nvidia(patient.machine) {
        checks.push(for_vendor(patient, Concerns::Nvidia, Flavour::Cuda));
    }
    checks.push(for_processor(patient));
    checks
}

/// How to come to a build with a libtorch of this flavour: with one that is here, or by fetching one.
fn rebuild(patient: &Patient<'_>, flavour: Flavour) -> String {
    // Every libtorch computes on the processor too.
    let is_for = |libtorch: &Libtorch| flavour == Flavour::Cpu || libtorch.flavour == flavour;
    let fits = |libtorch: &&Libtorch| is_for(libtorch) && libtorch.is_wanted_version() != Some(false);
    if let Some(libtorch) = patient.machine.libtorch.iter().find(fits) {
        return format!("{} cargo install --path . --features libtorch", libtorch.build_variables(patient.host));
    }
    let fetch = match flavour {
        Flavour::Cpu => "loramill libtorch cpu",
        Flavour::Hip => "loramill libtorch rocm --trust-index",
        Flavour::Cuda => "loramill libtorch cuda",
    };
    format!("{fetch}, and build with it as it says")
}

/// The processor, by libtorch rather than by the backend that needs nothing installed.
pub const LIBTORCH_CPU: &str = "libtorch:cpu";

const VERIFY: &str = "loramill doctor";

fn for_vendor(patient: &Patient<'_>, concerns: Concerns, flavour: Flavour) -> Check {
    let machine = patient.machine;
    let check = |state, summary: String| Check::new("libtorch", concerns, state, summary);
    let all =
        machine.libtorch.iter().fold(check(State::Ok, String::new()), |check, libtorch| check.seen(described(libtorch))).evidence;
    let with_all = |check: Check| Check { evidence: all.clone(), ..check };
    if !patient.build.libtorch {
        return with_all(
            check(State::Blocked, "this build of loramill computes on the processor only".into())
                .fix(rebuild(patient, flavour), VERIFY),
        );
    }
    let Some(libtorch) = machine.libtorch.first() else {
        return check(State::Blocked, "no libtorch is found".into())
            .seen("looked in LIBTORCH, in what loramill fetched, in the Python environment, in LD_LIBRARY_PATH and in the system's folders")
            .fix(rebuild(patient, flavour), VERIFY);
    };
    if libtorch.flavour != flavour {
        let summary = format!("the libtorch that is used is for {}", libtorch.flavour.word());
        return with_all(check(State::Blocked, summary).fix(rebuild(patient, flavour), VERIFY));
    }
    let library = match flavour {
        Flavour::Cpu => "libtorch_cpu.so",
        Flavour::Hip => "libtorch_hip.so",
        Flavour::Cuda => "libtorch_cuda.so",
    };
    if is_loaded(patient.host, "libtorch_cpu.so") && !is_loaded(patient.host, library) {
        let summary = format!("this program is linked without `{library}`: it would compute on the processor in silence");
        return with_all(
            check(State::Blocked, summary)
                .fix("cargo clean -p torch-sys, then cargo install --path . --features libtorch", VERIFY),
        );
    }
    match libtorch.is_wanted_version() {
        Some(false) => with_all(check(State::Blocked, wrong_version(libtorch)).fix(rebuild(patient, flavour), VERIFY)),
        Some(true) => with_all(check(
            State::Ok,
            format!("libtorch {} for {}", libtorch.version.as_deref().unwrap_or(WANTED), flavour.word()),
        )),
        None => {
            let summary = format!("libtorch for {} does not say its version; {WANTED} is wanted", flavour.word());
            with_all(check(State::Unverified, summary).fix(rebuild(patient, flavour), VERIFY))
        }
    }
}

fn for_processor(patient: &Patient<'_>) -> Check {
    let check = |state, summary: String| {
        Check::new("libtorch", Concerns::Processor, state, summary).of(LIBTORCH_CPU).relevant(patient.build.libtorch)
    };
    let Some(libtorch) = patient.machine.libtorch.first() else {
        let state = if patient.build.libtorch { State::Blocked } else { State::Ok };
        return check(state, "no libtorch is found".into()).fix(rebuild(patient, Flavour::Cpu), VERIFY);
    };
    let version = libtorch.version.as_deref().unwrap_or("of an unknown version");
    let check = match libtorch.is_wanted_version() {
        Some(true) => check(State::Ok, format!("libtorch {version}")),
        Some(false) => check(State::Blocked, wrong_version(libtorch)).fix(rebuild(patient, Flavour::Cpu), VERIFY),
        None => check(State::Unverified, format!("libtorch {version}; {WANTED} is wanted"))
            .fix(rebuild(patient, Flavour::Cpu), VERIFY),
    };
    check.seen(described(libtorch))
}

fn wrong_version(libtorch: &Libtorch) -> String {
    format!("libtorch is {}, and loramill is written for {WANTED}", libtorch.version.as_deref().unwrap_or("of another version"))
}

/// `/opt/libtorch/lib: 2.9.1, ROCm, by LIBTORCH`
fn described(libtorch: &Libtorch) -> String {
    let by = match libtorch.found_by {
        FoundBy::Loaded => "loaded by this program".to_string(),
        FoundBy::Variable(name) => format!("by {name}"),
        FoundBy::Fetched => "fetched by loramill".to_string(),
        FoundBy::System => "of the system".to_string(),
    };
    let version = libtorch.version.as_deref().unwrap_or("no version");
    format!("{}: {version}, {}, {by}", libtorch.libraries.display(), libtorch.flavour.word())
}

/// Whether the libraries have something that a card can run.
fn code(patient: &Patient<'_>, device: &str, gpu: &AmdGpu) -> Check {
    let targets = patient.machine.torch_targets();
    let check = |state, summary: String| Check::new("code", Concerns::Amd, state, summary).of(device);
    let check = match code_for(gpu.gfx, targets) {
        Code::Native => check(State::Ok, format!("the libraries have code for {}", gpu.gfx)),
        Code::StandIn(stand_in) => {
            check(State::Ok, format!("the libraries have code for {}, which {} can run", stand_in.gfx, gpu.gfx))
        }
        Code::Nothing => {
            check(State::Blocked, format!("the libraries have no code that {} can run", gpu.gfx)).fix(newer(gpu), VERIFY)
        }
        Code::Unknown => {
            let fix = match gpu.gfx.known().and_then(|known| known.stand_in) {
                Some(stand_in) => format!("if it fails, export HSA_OVERRIDE_GFX_VERSION={}", stand_in.gfx.as_override()),
                None => newer(gpu),
            };
            check(State::Unverified, "it cannot be seen which cards the libraries are compiled for".into()).fix(fix, VERIFY)
        }
    };
    let Some(targets) = targets else { return check };
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    check.seen(format!("rocBLAS has code for {}", names.join(", ")))
}

/// Which libraries to get for a card that those at hand have nothing for.
fn newer(gpu: &AmdGpu) -> String {
    const WITH_PYTHON: &str = "activate its Python environment, then \
                               LIBTORCH_USE_PYTORCH=1 LIBTORCH_BYPASS_VERSION_CHECK=1 cargo install --path . --features libtorch";
    let fetched = FETCHED_FOR.iter().copied().collect();
    match (code_for(gpu.gfx, Some(&fetched)), gpu.gfx.major, gpu.gfx.minor) {
        (Code::Native | Code::StandIn(_), _, _) => "loramill libtorch rocm --trust-index, and build with it as it says".into(),
        (_, 11, 5) => format!("use a PyTorch {WANTED} for ROCm 7: {WITH_PYTHON}"),
        _ => format!("use a PyTorch {WANTED} that is built for {}: {WITH_PYTHON}", gpu.gfx),
    }
}
