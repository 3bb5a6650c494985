//! Folders that hold libtorch, PyTorch's C++ library: where they are, their version, and for which GPUs they are built. Loads none of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::computer::machine::gfx::Gfx;
use crate::computer::machine::host::Host;
use crate::computer::machine::rocm::{self, CompiledFor, LIBRARY_FOLDERS, has_library};

/// The version that burn-tch 0.22 is written for; torch-sys refuses others.
pub const WANTED: &str = "2.9";
/// The version that torch-sys 0.22 names.
const TORCH_SYS: &str = "2.9.0";
const BUILD_VERSION: &str = "build-version";

/// Below the user's data folder: what loramill fetched, as in `loramill/libtorch-2.9.1-rocm/torch`.
const FETCHED: (&str, &str) = ("loramill", "libtorch-");

/// Targets of PyTorch's wheels for ROCm 6.4, which loramill fetches: `PYTORCH_ROCM_ARCH` in `.ci/docker/manywheel/build.sh` of PyTorch.
pub const FETCHED_FOR: &[Gfx] = &[
    Gfx::new(9, 0, 0),
    Gfx::new(9, 0, 6),
    Gfx::new(9, 0, 8),
    Gfx::new(9, 0, 10),
    Gfx::new(9, 4, 2),
    Gfx::new(10, 3, 0),
    Gfx::new(11, 0, 0),
    Gfx::new(11, 0, 1),
    Gfx::new(11, 0, 2),
    Gfx::new(12, 0, 0),
    Gfx::new(12, 0, 1),
];

/// Beside the `torch` of what was fetched: its flavour and version.
const MANIFEST: &str = "loramill-libtorch.json";

/// A libtorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libtorch {
    /// Holds `libtorch_cpu.so`.
    pub libraries: PathBuf,
    pub found_by: FoundBy,
    /// `2.9.1+rocm6.4`
    pub version: Option<String>,
    pub flavour: Flavour,
    /// What its code is compiled for, of a libtorch for ROCm.
    pub compiled_for: CompiledFor,
    /// Whether it brings HIP's runtime itself, as wheels do.
    pub brings_runtime: bool,
}

impl Libtorch {
    /// What a build with it needs in its environment.
    pub fn build_variables(&self, host: &Host) -> String {
        let folder = self.libraries.parent().unwrap_or(&self.libraries);
        // torch-sys compares the file with its own version to the last digit, and does not look without it.
        let is_checked = host.text(folder.join(BUILD_VERSION)).is_some_and(|version| version != TORCH_SYS);
        let bypass = if is_checked { " LIBTORCH_BYPASS_VERSION_CHECK=1" } else { "" };
        format!("LIBTORCH={}{bypass}", folder.display())
    }
}

/// What led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// This program has it loaded.
    Loaded,
    /// A variable that names its folder, a Python environment, or folders of libraries.
    Variable(&'static str),
    /// Fetched by loramill.
    Fetched,
    /// Installed for the computer.
    System,
}

/// The hardware that a libtorch is built for, beside the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Cpu,
    /// ROCm, for AMD.
    Hip,
    /// CUDA, for NVIDIA.
    Cuda,
}

impl Flavour {
    /// For messages: "libtorch 2.9.0 for ROCm".
    pub const fn word(self) -> &'static str {
        match self {
            Flavour::Cpu => "processor only",
            Flavour::Hip => "ROCm",
            Flavour::Cuda => "CUDA",
        }
    }
}

impl Libtorch {
    /// Whether its version is the one this program is written for; `None` if it does not say.
    pub fn is_wanted_version(&self) -> Option<bool> {
        let version = self.version.as_ref()?;
        Some(version.strip_prefix(WANTED).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }
}

/// All that are found, the one that would be used first.
pub fn installs(host: &Host, systems: &[rocm::Rocm]) -> Vec<Libtorch> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (libraries, found_by) in places(host) {
        let is_new = fs::canonicalize(host.place(&libraries)).is_ok_and(|real| seen.insert(real));
        if is_new && has_library(host, &libraries, "libtorch_cpu.so") {
            found.push(read(host, libraries, found_by, systems));
        }
    }
    found
}

fn read(host: &Host, libraries: PathBuf, found_by: FoundBy, systems: &[rocm::Rocm]) -> Libtorch {
    let flavour = if has_library(host, &libraries, "libtorch_hip.so") {
        Flavour::Hip
    } else if has_library(host, &libraries, "libtorch_cuda.so") {
        Flavour::Cuda
    } else {
        Flavour::Cpu
    };
    let compiled_for = match flavour {
        Flavour::Hip => rocm::compiled_for(host, &folders_of_code(host, &libraries, systems)),
        Flavour::Cpu | Flavour::Cuda => CompiledFor::default(),
    };
    let brings_runtime = has_library(host, &libraries, "libamdhip64.so");
    Libtorch { version: version(host, &libraries), libraries, found_by, flavour, compiled_for, brings_runtime }
}

/// A wheel has the code of rocBLAS in its own `lib`, or in a wheel `_rocm_sdk_libraries…` beside it; others use the computer's.
fn folders_of_code(host: &Host, libraries: &Path, systems: &[rocm::Rocm]) -> Vec<PathBuf> {
    let mut folders = vec![libraries.to_path_buf()];
    if let Some(packages) = libraries.ancestors().nth(2) {
        let wheels = host.list(packages).into_iter().filter(|name| name.starts_with("_rocm_sdk_libraries"));
        folders.extend(wheels.map(|name| packages.join(name).join("lib")));
    }
    folders.extend(systems.iter().map(|system| system.libraries.clone()));
    folders
}

/// Folders that may hold the libraries, in the order in which they are used.
fn places(host: &Host) -> Vec<(PathBuf, FoundBy)> {
    let mut places = Vec::new();
    let loaded = host.loaded().into_iter().find(|path| path.ends_with("/libtorch_cpu.so"));
    places.extend(loaded.and_then(|path| Some((Path::new(&path).parent()?.to_path_buf(), FoundBy::Loaded))));
    places.extend(host.filled_variable("LIBTORCH").map(|folder| (Path::new(folder).join("lib"), FoundBy::Variable("LIBTORCH"))));
    if let Some(data) = data_folder(host) {
        let fetched = data.join(FETCHED.0);
        let is_whole = |name: &String| name.starts_with(FETCHED.1) && !name.ends_with(".partial");
        // `rocm`, `cuda`, `cpu`: who fetched one for a card means to use the card.
        let names = host.list(&fetched).into_iter().rev().filter(is_whole);
        places.extend(names.map(|name| (fetched.join(name).join("torch/lib"), FoundBy::Fetched)));
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(environment) = host.filled_variable(variable) else { continue };
        let libraries = Path::new(environment).join("lib");
        let pythons = host.list(&libraries).into_iter().filter(|name| name.starts_with("python3"));
        places.extend(pythons.map(|name| (libraries.join(name).join("site-packages/torch/lib"), FoundBy::Variable(variable))));
    }
    places.extend(host.folders_in("LD_LIBRARY_PATH").into_iter().map(|folder| (folder, FoundBy::Variable("LD_LIBRARY_PATH"))));
    places.push((PathBuf::from("/opt/libtorch/lib"), FoundBy::System));
    places.extend(LIBRARY_FOLDERS.iter().map(|folder| (PathBuf::from(folder), FoundBy::System)));
    places
}

fn data_folder(host: &Host) -> Option<PathBuf> {
    let given = host.filled_variable("XDG_DATA_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    given.or_else(|| host.filled_variable("HOME").map(|home| Path::new(home).join(".local/share")))
}

/// Beside `lib`, the zip of libtorch has `build-version`, a wheel `version.py`; what loramill fetched has neither.
fn version(host: &Host, libraries: &Path) -> Option<String> {
    let folder = libraries.parent()?;
    let of_wheel = || {
        let text = host.text(folder.join("version.py"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(line.trim_matches(['\'', '"']).to_string())
    };
    let of_fetched = || {
        let manifest: serde_json::Value = serde_json::from_str(&host.text(folder.parent()?.join(MANIFEST))?).ok()?;
        Some(manifest.get("torch")?.as_str()?.to_string())
    };
    host.text(folder.join(BUILD_VERSION)).or_else(of_wheel).or_else(of_fetched)
}

/// Whether this program has a library loaded.
pub fn is_loaded(host: &Host, library: &str) -> bool {
    host.loaded().iter().any(|path| path.ends_with(library))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_release_is_taken() {
        let of = |version: Option<&str>| Libtorch {
            libraries: PathBuf::new(),
            found_by: FoundBy::System,
            version: version.map(str::to_string),
            flavour: Flavour::Cpu,
            compiled_for: CompiledFor::default(),
            brings_runtime: false,
        };
        for (version, is_wanted) in [("2.9.1+rocm6.4", true), ("2.9.0", true), ("2.9", true), ("2.90.0", false), ("2.8.0", false)]
        {
            assert_eq!(of(Some(version)).is_wanted_version(), Some(is_wanted), "{version}");
        }
        assert_eq!(of(None).is_wanted_version(), None);
    }
}
