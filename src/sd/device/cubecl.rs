//! The devices of CubeCL's runtimes, in builds that have one, and what to say where one is not there. Knows no other devices.

use anyhow::{Error, Result, anyhow, bail};
use burn::tensor::Device;

/// Its runtimes, named as cargo's features are.
const RUNTIMES: [Runtime; 3] = [
    Runtime {
        name: "rocm",
        title: "ROCm",
        remedy: "install ROCm's HIP runtime and its compiler, `hiprtc`, and see that you may open `/dev/kfd`",
        #[cfg(feature = "rocm")]
        devices: Some(|| enumerated(burn::tensor::DeviceType::Rocm)),
        #[cfg(not(feature = "rocm"))]
        devices: None,
    },
    Runtime {
        name: "vulkan",
        title: "Vulkan",
        remedy: "install `libvulkan1` and your card's driver, `mesa-vulkan-drivers` for AMD and Intel",
        #[cfg(feature = "vulkan")]
        devices: Some(|| enumerated(burn::tensor::DeviceType::Vulkan)),
        #[cfg(not(feature = "vulkan"))]
        devices: None,
    },
    Runtime {
        name: "cuda",
        title: "CUDA",
        remedy: "install NVIDIA's driver, and CUDA's compiler, `nvrtc`",
        #[cfg(feature = "cuda")]
        devices: Some(|| enumerated(burn::tensor::DeviceType::Cuda)),
        #[cfg(not(feature = "cuda"))]
        devices: None,
    },
];

struct Runtime {
    name: &'static str,
    title: &'static str,
    remedy: &'static str,
    /// What the runtime finds, cards before what only computes like one; `None` if it is not in this build.
    devices: Option<fn() -> Vec<Device>>,
}

/// The device of a name such as `vulkan:0`; `None` if that is no name of CubeCL's.
///
/// # Errors
/// If this build has no such runtime, or the runtime finds no such device, or cannot open it.
pub(super) fn named(name: &str) -> Option<Result<Device>> {
    let (runtime, number) = name.split_once(':')?;
    let runtime = RUNTIMES.iter().find(|known| known.name == runtime)?;
    let number = number.parse().ok()?;
    Some(runtime.device(number))
}

/// Whether this build has the runtime of such a name; `None` if that is no name of CubeCL's.
///
/// # Errors
/// If it has not.
pub(super) fn check_name(name: &str) -> Option<Result<()>> {
    let (runtime, number) = name.split_once(':')?;
    let runtime = RUNTIMES.iter().find(|known| known.name == runtime)?;
    let number: usize = number.parse().ok()?;
    Some(if runtime.devices.is_some() { Ok(()) } else { Err(runtime.is_missing(number)) })
}

/// Whether it is a device of CubeCL's.
pub(super) fn is_name(name: &str) -> bool {
    name.split_once(':').is_some_and(|(runtime, _)| RUNTIMES.iter().any(|known| known.name == runtime))
}

impl Runtime {
    fn device(&self, number: usize) -> Result<Device> {
        let Self { name, title, remedy, devices } = self;
        let Some(devices) = devices else { return Err(self.is_missing(number)) };
        let mut devices = devices();
        if number >= devices.len() {
            let found = match devices.len() {
                0 => format!("finds no device; {remedy}, or take `--device cpu`"),
                1 => format!("finds one device, `{name}:0`"),
                count => format!("finds {count} devices, `{name}:0` to `{name}:{}`", count - 1),
            };
            bail!("`{name}:{number}`: {title} {found}");
        }
        self.open(devices.swap_remove(number), number)
    }

    fn is_missing(&self, number: usize) -> Error {
        let Self { name, title, .. } = self;
        anyhow!("`{name}:{number}`: this build has no {title}; build it with `--features {name}`, or take `--device cpu`")
    }

    /// Starts what computes on it. CubeCL panics where that cannot be done, and has said why.
    #[cfg(cube)]
    fn open(&self, device: Device, number: usize) -> Result<Device> {
        let Self { name, title, remedy, .. } = self;
        if std::panic::catch_unwind(|| device.supports_dtype(burn::tensor::DType::F32)).is_err() {
            bail!("`{name}:{number}`: {title} finds this device and cannot open it; {remedy}, or take `--device cpu`");
        }
        Ok(device)
    }

    #[cfg(not(cube))]
    fn open(&self, device: Device, _: usize) -> Result<Device> {
        Ok(device)
    }
}

#[cfg(cube)]
fn enumerated(kind: burn::tensor::DeviceType) -> Vec<Device> {
    Device::enumerate(kind).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_built_in_says_how_to_build_it() {
        for Runtime { name, .. } in RUNTIMES {
            let error = named(&format!("{name}:4711")).unwrap().unwrap_err().to_string();
            let is_built_in = crate::sd::device::NAMES.contains(&format!("{name}:0").as_str());
            assert_eq!(error.contains(&format!("build it with `--features {name}`")), !is_built_in, "{error}");
            assert!(error.starts_with(&format!("`{name}:4711`: ")), "{error}");
            assert_eq!(check_name(&format!("{name}:4711")).unwrap().is_ok(), is_built_in);
        }
    }

    #[test]
    fn other_names_are_none_of_its_business() {
        for name in ["cpu", "libtorch:0", "vulkan", "vulkan:", "vulkan:x", "cude:0"] {
            assert!(named(name).is_none() && check_name(name).is_none(), "{name}");
        }
    }
}
