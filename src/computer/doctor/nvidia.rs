//! Whether NVIDIA's cards can be reached. Their memory and what uses it is not known here: only NVIDIA's own libraries tell.

use std::path::Path;

use crate::computer::doctor::{Check, Concerns, Patient, State, has_nvidia};
use crate::computer::machine::host::Opened;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::nvidia::Nvidia;
use crate::computer::machine::pci;

/// The oldest drivers that run a CUDA: NVIDIA's "CUDA Compatibility", table of minor version compatibility.
const OLDEST_DRIVERS: &[(u32, u32)] = &[(11, 450), (12, 525), (13, 580)];

/// The CUDA of the wheels of PyTorch 2.9 on PyPI, whose version does not name it.
const CUDA_OF_PYPI: (u32, u32) = (12, 8);

/// The checks `nvidia-driver` and, if the driver is loaded, `nvidia-access`. Not relevant if there is no card of NVIDIA's.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    if !has_nvidia(patient.machine) {
        return vec![Check::new("nvidia-driver", Concerns::Nvidia, State::Ok, "no card of NVIDIA's").relevant(false)];
    }
    match &patient.machine.nvidia {
        Some(nvidia) => vec![driver(patient, nvidia), access(patient, nvidia)],
        None => vec![without_driver(patient)],
    }
}

fn without_driver(patient: &Patient<'_>) -> Check {
    let check = |summary: &str| Check::new("nvidia-driver", Concerns::Nvidia, State::Blocked, summary);
    let install = "install NVIDIA's driver: `sudo ubuntu-drivers install` on Ubuntu, package `nvidia-driver` on Debian, `akmod-nvidia` on Fedora; then start anew";
    let verify = "nvidia-smi";
    let card = patient.machine.controllers_of(pci::NVIDIA).next();
    let driver = card.and_then(|card| card.driver.as_deref());
    let seen = card
        .map(|card| format!("PCI {}: {:04x}:{:04x}, driver {}", card.address, card.vendor, card.device, driver.unwrap_or("none")))
        .unwrap_or_default();
    match (driver, patient.machine.system.container) {
        (Some("nouveau"), _) => check("nouveau drives the card, with which nothing of CUDA runs").seen(seen).fix(install, verify),
        (Some("nvidia"), Some(sign)) => check("the container does not show the driver")
            .seen(seen)
            .seen(format!("this is a container: {sign}"))
            .fix("start the container with `--gpus all`, with NVIDIA's container toolkit installed outside", verify),
        (Some("vfio-pci"), _) => check("the card is set aside for virtual machines (vfio-pci)")
            .seen(seen)
            .fix("give the card back to NVIDIA's driver: take its id out of `vfio-pci.ids` and start anew", verify),
        _ => check("NVIDIA's driver is not loaded").seen(seen).fix(install, verify),
    }
}

fn driver(patient: &Patient<'_>, nvidia: &Nvidia) -> Check {
    let check = |state, summary: String| Check::new("nvidia-driver", Concerns::Nvidia, state, summary);
    let cuda = patient.machine.libtorch.first().filter(|libtorch| libtorch.flavour == Flavour::Cuda);
    let cuda = cuda.map(|libtorch| libtorch.version.as_deref().and_then(cuda_of).unwrap_or(CUDA_OF_PYPI));
    let oldest = cuda.and_then(|(major, _)| OLDEST_DRIVERS.iter().find(|(of, _)| *of == major));
    match (cuda, oldest, nvidia.major()) {
        (Some((major, minor)), Some((_, oldest)), Some(found)) if found < *oldest => check(
            State::Blocked,
            format!("the driver is {}, and CUDA {major}.{minor} of libtorch wants {oldest} or later", nvidia.version),
        )
        .fix(format!("install a driver from {oldest} on, or a libtorch for an older CUDA"), "nvidia-smi"),
        (_, _, None) => check(State::Unverified, "the driver does not say its version".into()),
        _ => check(State::Ok, format!("NVIDIA's driver {}", nvidia.version)),
    }
}

/// `2.9.1+cu128` is for CUDA 12.8.
fn cuda_of(version: &str) -> Option<(u32, u32)> {
    let digits = version.split_once("+cu")?.1;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn access(patient: &Patient<'_>, nvidia: &Nvidia) -> Check {
    let check = |state, summary: String| Check::new("nvidia-access", Concerns::Nvidia, state, summary);
    let cards = nvidia.gpus.iter().filter_map(|gpu| gpu.device_file.clone());
    let in_container = patient.machine.system.container;
    for path in std::iter::once("/dev/nvidiactl".to_string()).chain(cards) {
        let missing = match patient.host.kernel().device(Path::new(&path)).map(|file| file.opened) {
            Some(Opened::Yes) => continue,
            Some(Opened::Denied) => {
                return check(State::Blocked, format!("`{path}` is denied")).fix(
                    format!("sudo chmod 666 {path}; for good the option NVreg_DeviceFileMode=0666 of the module"),
                    format!("ls -l {path}"),
                );
            }
            Some(Opened::Failed(why)) => check(State::Blocked, format!("`{path}` does not open: {why}")),
            None => check(State::Blocked, format!("there is no `{path}`")),
        };
        return match in_container {
            Some(sign) => {
                missing.seen(format!("this is a container: {sign}")).fix("start the container with `--gpus all`", "nvidia-smi")
            }
            None => missing.fix("sudo nvidia-modprobe", "nvidia-smi"),
        };
    }
    const MEMORY: &str = "/dev/nvidia-uvm";
    if patient.host.kernel().device(Path::new(MEMORY)).is_none() {
        return check(State::Degraded, format!("there is no `{MEMORY}`, which CUDA makes at its first start where it may"))
            .fix("sudo nvidia-modprobe -u -c=0", format!("ls -l {MEMORY}"));
    }
    check(State::Ok, "the files of the card open".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_wheel_names_its_cuda() {
        assert_eq!(cuda_of("2.9.1+cu128"), Some((12, 8)));
        assert_eq!(cuda_of("2.9.0+cu130"), Some((13, 0)));
        for other in ["2.9.1", "2.9.1+rocm6.4", "2.9.1+cu", "2.9.1+cpu"] {
            assert_eq!(cuda_of(other), None, "{other}");
        }
    }
}
