//! That a device gave the embedded backend's numbers: what a comparison depends on, and the note that it was passed. Unaware of
//! what is compared.
//!
//! Notes lie in `loramill/self-tests` of the user's folder for caches, which may be deleted at any time. A comparison that failed
//! leaves none: what made it fail may have been mended.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::worker_environment::environment_for;
use crate::engine::cache::digest::Digest;

/// What decides a driver's code: `srcversion` is of the module's source, wherever it was built.
const DRIVERS: [&str; 4] =
    ["/sys/module/amdgpu/srcversion", "/sys/module/amdgpu/version", "/sys/module/i915/srcversion", "/proc/driver/nvidia/version"];
/// Of libtorch, its own code and that for a card.
const LIBRARIES: [&str; 3] = ["libtorch_cpu.so", "libtorch_cuda.so", "libtorch_hip.so"];
/// Beginnings of variables by which a user changes what drivers and libraries of a card do.
const VARIABLES: [&str; 14] = [
    "HSA_", "HIP_", "ROCR_", "ROCM_", "AMD_", "CUDA_", "TORCH_", "PYTORCH_", "MIOPEN_", "VK_", "RADV_", "MESA_", "WGPU_",
    "CUBECL_",
];

/// The comparison of a device with the embedded backend.
pub struct Compared {
    /// `None` where there is no place for it: the comparison is then made each time.
    note: Option<PathBuf>,
    identity: String,
}

impl Compared {
    /// That of a device of this computer, for `program`.
    pub fn of(device: &str, host: &Host, machine: &Machine, program: &Path) -> Self {
        let notes = machine.cache_home.as_ref().map(|cache| cache.join("loramill/self-tests"));
        Self::new(notes.as_deref(), identity(device, host, machine, program))
    }

    /// - `notes`: the folder of notes
    /// - `identity`: all that the outcome depends on
    pub fn new(notes: Option<&Path>, identity: String) -> Self {
        Self { note: notes.map(|notes| notes.join(Digest::of(identity.as_bytes()).to_hex())), identity }
    }

    /// Whether it was made, and passed.
    pub fn is_passed(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.is_file())
    }

    /// Notes that it was passed. Without a note it is made again.
    pub fn pass(&self, report: &str) {
        if let Some((note, folder)) = self.note.as_ref().and_then(|note| Some((note, note.parent()?))) {
            let text = format!("{report}\n{}", self.identity);
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(note, text));
        }
    }
}

/// All that the outcome depends on, line by line.
fn identity(device: &str, host: &Host, machine: &Machine, program: &Path) -> String {
    let Machine { system, amd, nvidia, rocm, vulkan, libtorch, environment, .. } = machine;
    let mut text = format!("{device}\nkernel {}\n", system.kernel);
    for gpu in amd {
        let _ = writeln!(text, "{} {} {:?} {:?}", gpu.name, gpu.gfx, gpu.address, gpu.uuid);
    }
    for gpu in nvidia.iter().flat_map(|nvidia| &nvidia.gpus) {
        let _ = writeln!(text, "{} {:?} {:?}", gpu.name, gpu.address, gpu.uuid);
    }
    let _ = writeln!(text, "{rocm:?}");
    for driver in DRIVERS {
        let _ = writeln!(text, "{driver} {:?}", host.text(driver));
    }
    let libraries = libtorch.first().map(|libtorch| &libtorch.libraries);
    let libraries = libraries.into_iter().flat_map(|folder| LIBRARIES.map(|name| host.place(folder.join(name))));
    let drivers = vulkan.drivers.iter().map(|driver| host.place(&driver.file));
    for file in libraries.chain(drivers).chain([program.to_path_buf()]) {
        let stat = fs::metadata(&file).ok();
        let changed = stat.as_ref().and_then(|stat| stat.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let _ = writeln!(text, "{} {:?} {changed:?}", file.display(), stat.map(|stat| stat.len()));
    }
    for variable in environment_for(device, machine).unwrap_or_default() {
        let _ = writeln!(text, "{}={:?}", variable.name, variable.value);
    }
    for (name, value) in environment.iter().filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start))) {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::computer::machine::host::RunningKernel;

    #[test]
    fn another_driver_library_program_or_setting_is_another_comparison() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines");
        let text = fs::read(folder.join("cases/gfx1031-ready.json")).unwrap();
        let case: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let environment = serde_json::from_value(case["environment"].clone()).unwrap();
        let host = Host::recorded(folder.join(case["tree"].as_str().unwrap()), environment, Box::new(RunningKernel));
        let machine = Machine::read(&host);
        let of = |machine: &Machine, program: &str| identity("libtorch:0", &host, machine, Path::new(program));
        let usual = of(&machine, "/a");
        assert!(usual.contains("gfx1031") && usual.contains("HSA_OVERRIDE_GFX_VERSION=Some(\"10.3.0\")"), "{usual}");
        assert_eq!(usual, of(&machine, "/a"));
        assert_ne!(usual, of(&machine, "/b"));
        assert_ne!(usual, identity("vulkan:0", &host, &machine, Path::new("/a")));
        let mut newer = machine.clone();
        newer.system.kernel = "7.0".into();
        assert_ne!(usual, of(&newer, "/a"));
        for (name, counts) in [("HSA_ENABLE_SDMA", true), ("RADV_DEBUG", true), ("EDITOR", false)] {
            let mut set = machine.clone();
            set.environment.insert(name.into(), "0".into());
            assert_eq!(usual != of(&set, "/a"), counts, "{name}");
        }
        let mut other = machine;
        other.libtorch[0].libraries = "/elsewhere".into();
        assert_ne!(usual, of(&other, "/a"));
    }
}
