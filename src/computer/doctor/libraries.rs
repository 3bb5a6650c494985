//! Whether what lies around libtorch is in order: ROCm itself, its BLAS, MIOpen's folders, the compiler of the `rocm` backend, Vulkan.

use std::path::{Path, PathBuf};

use crate::computer::doctor::{Check, Concerns, Patient, State, has_amd, libtorch, numbered};
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::worker_environment::{effective_target, has_hipblaslt};
use crate::engine::cache::bytes::size;

/// Bytes that compiled kernels may take.
const KERNELS: u64 = 2_000_000_000;

/// The check `vulkan` and those of `libtorch`; with a card of AMD's also `rocm`, `compiler` and, if libtorch is built for ROCm, `blas` and
/// `miopen`.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_amd = has_amd(patient.machine);
    let uses_hip = patient.machine.torch_flavour() == Some(Flavour::Hip);
    if is_amd {
        checks.push(rocm(patient));
    }
    checks.extend(libtorch::checks(patient));
    if is_amd && uses_hip {
        checks.extend(numbered(patient.machine).iter().filter_map(|(device, gpu)| blas(patient, device, gpu)));
        checks.extend(miopen(patient));
    }
    if is_amd {
        checks.push(compiler(patient));
    }
    checks.push(vulkan(patient));
    checks
}

fn rocm(patient: &Patient<'_>) -> Check {
    let machine = patient.machine;
    let check = |state, summary: String| Check::new("rocm", Concerns::Amd, state, summary);
    let evidence: Vec<String> = machine
        .rocm
        .iter()
        .map(|rocm| format!("{}: {}", rocm.folder.display(), rocm.version.as_deref().unwrap_or("no version")))
        .collect();
    let hip = machine.libtorch.first().filter(|libtorch| libtorch.flavour == Flavour::Hip);
    let brings = hip.is_some_and(|libtorch| libtorch.brings_runtime);
    let is_rocms =
        |folder: &PathBuf| machine.rocm.iter().any(|rocm| folder.starts_with(&rocm.folder) && rocm.folder.starts_with("/opt"));
    let in_the_way = patient.host.folders_in("LD_LIBRARY_PATH").into_iter().find(is_rocms);
    let check = match (in_the_way, hip, machine.rocm.as_slice()) {
        (Some(folder), Some(_), _) if brings => {
            check(State::Degraded, format!("LD_LIBRARY_PATH puts `{}` before the ROCm that libtorch brings", folder.display()))
                .fix("unset LD_LIBRARY_PATH", "env | grep LD_LIBRARY_PATH")
        }
        (_, Some(_), _) if brings => check(State::Ok, "libtorch brings its own".into()),
        (_, Some(_), []) => check(State::Blocked, "libtorch wants ROCm, which is not installed".into())
            .fix("use a libtorch that brings its own: loramill libtorch rocm --trust-index", "loramill doctor"),
        (_, None, []) => check(State::Ok, "none is installed; libtorch for ROCm brings its own".into()),
        (_, _, [rocm]) => check(State::Ok, format!("ROCm {}", rocm.version.as_deref().unwrap_or("of the distribution"))),
        (_, Some(_), _) => {
            check(State::Degraded, "several ROCm are installed, and the order of folders decides which one libtorch gets".into())
                .fix("keep one, or use a libtorch that brings its own: loramill libtorch rocm --trust-index", "ls -d /opt/rocm*")
        }
        (_, None, _) => check(State::Ok, "several are installed".into()),
    };
    Check { evidence, ..check }
}

/// Which library multiplies matrices. Only a user's setting can be wrong here.
fn blas(patient: &Patient<'_>, device: &str, gpu: &crate::computer::machine::kfd::AmdGpu) -> Option<Check> {
    const NAME: &str = "TORCH_BLAS_PREFER_HIPBLASLT";
    let setting = patient.machine.environment.get(NAME).map(String::as_str);
    let target = effective_target(gpu, patient.machine);
    let check = |state, summary: String| Check::new("blas", Concerns::Amd, state, summary).of(device);
    Some(match (has_hipblaslt(gpu, patient.machine)?, setting) {
        (false, Some("1")) => check(State::Degraded, format!("`{NAME}=1` wants hipBLASLt, which has no code for {target}"))
            .fix(format!("unset {NAME}"), format!("env | grep {NAME}")),
        (false, _) => check(State::Ok, format!("rocBLAS multiplies: hipBLASLt has no code for {target}")),
        (true, _) => check(State::Ok, format!("hipBLASLt has code for {target}")),
    })
}

/// MIOpen compiles a kernel for each size of picture and keeps it.
fn miopen(patient: &Patient<'_>) -> Option<Check> {
    let kept = match patient.machine.environment.get("MIOPEN_CUSTOM_CACHE_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => patient.machine.cache_home.as_ref()?.join("loramill/miopen"),
    };
    let space = patient.host.kernel().space(&kept)?;
    let check = |state, summary: String| Check::new("miopen", Concerns::Amd, state, summary);
    let check = if !space.is_writable {
        check(State::Degraded, format!("`{}` cannot be written: kernels are compiled anew in every run", kept.display()))
            .fix("export MIOPEN_CUSTOM_CACHE_DIR=DIR with a folder that you may write to", "loramill doctor")
    } else if space.is_network {
        check(State::Degraded, format!("`{}` is on another computer, where MIOpen's database locks up", kept.display()))
            .fix("export MIOPEN_CUSTOM_CACHE_DIR=DIR MIOPEN_USER_DB_PATH=DIR with a folder on a local disk", "loramill doctor")
    } else if space.free < KERNELS {
        check(State::Degraded, format!("{} are left for compiled kernels", size(space.free))).fix(
            "make room, or export MIOPEN_CUSTOM_CACHE_DIR=DIR with a folder on another disk",
            format!("df -h {}", kept.display()),
        )
    } else {
        check(State::Ok, format!("compiled kernels are kept in `{}`", kept.display()))
    };
    Some(check.seen("the first picture of each size takes longer, while kernels for it are compiled"))
}

/// The `rocm` backend writes its own kernels and has HIP compile them.
fn compiler(patient: &Patient<'_>) -> Check {
    let check = |state, summary: &str| Check::new("compiler", Concerns::Amd, state, summary).relevant(patient.build.rocm);
    let on_path = patient.host.folders_in("PATH").into_iter().map(|folder| folder.join("hipconfig"));
    let hipconfig = on_path
        .chain(patient.machine.rocm.iter().map(|rocm| rocm.folder.join("bin/hipconfig")))
        .find(|file| patient.host.exists(file));
    let has_compiler = patient.machine.rocm.iter().any(|rocm| rocm.has_runtime_compiler);
    let install =
        "install ROCm with its compiler: package `hip-dev` of Debian and Ubuntu, `rocm-hip-devel` of Fedora, or AMD's `rocm`";
    match (hipconfig, has_compiler) {
        (Some(file), true) => check(State::Ok, "HIP's compiler is installed").seen(file.display().to_string()),
        (Some(file), false) => check(State::Blocked, "there is no libhiprtc")
            .seen(file.display().to_string())
            .fix(install, "ldconfig -p | grep hiprtc"),
        (None, _) => check(State::Blocked, "there is no `hipconfig` on the PATH").fix(install, "hipconfig --version"),
    }
}

fn vulkan(patient: &Patient<'_>) -> Check {
    let vulkan = &patient.machine.vulkan;
    let check = |state, summary: &str| Check::new("vulkan", Concerns::Computer, state, summary).relevant(patient.build.vulkan);
    let install = "install Mesa's drivers: package `mesa-vulkan-drivers`";
    let verify = "vulkaninfo --summary";
    let check = match (vulkan.has_loader, vulkan.drivers.as_slice()) {
        (false, _) => check(State::Blocked, "there is no Vulkan loader")
            .fix("install package `libvulkan1` (Fedora: `vulkan-loader`)", verify),
        (true, []) => check(State::Blocked, "no Vulkan driver announces itself").fix(install, verify),
        (true, _) if vulkan.has_two_for_amd() => {
            check(State::Degraded, "two drivers speak for AMD's cards, and which one answers is left to chance")
                .fix("export AMD_VULKAN_ICD=RADV, or remove AMDVLK", verify)
        }
        (true, [driver]) if driver.name.starts_with("lavapipe") => {
            check(State::Degraded, "only lavapipe is installed, which computes on the processor").fix(install, verify)
        }
        (true, _) => {
            check(State::Unverified, "a loader and a driver are installed; the self-test tells whether they compute right")
        }
    };
    vulkan.drivers.iter().fold(check, |check, driver| check.seen(format!("{}: {}", shown(&driver.file), driver.name)))
}

fn shown(file: &str) -> std::path::Display<'_> {
    Path::new(file).display()
}
