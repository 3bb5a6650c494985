//! Installations of ROCm, AMD's GPU libraries, and for which targets a folder of libraries holds compiled code. Loads none of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::computer::machine::gfx::Gfx;
use crate::computer::machine::host::Host;

/// Where distributions put libraries.
pub const LIBRARY_FOLDERS: &[&str] =
    &["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];

/// HIP, the runtime, in any version.
const HIP: &str = "libamdhip64.so";

/// An installation for the whole computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rocm {
    /// `/opt/rocm-6.4.1`; of a distribution's packages the folder of libraries.
    pub folder: PathBuf,
    /// `6.4.1`
    pub version: Option<String>,
    pub libraries: PathBuf,
    pub has_runtime_compiler: bool,
}

/// All that lie where they usually do, and the one that `ROCM_PATH` names.
pub fn installs(host: &Host) -> Vec<Rocm> {
    let mut folders: Vec<PathBuf> = host.filled_variable("ROCM_PATH").map(PathBuf::from).into_iter().collect();
    folders.extend(host.list("/opt").iter().filter(|name| name.starts_with("rocm")).map(|name| Path::new("/opt").join(name)));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for folder in folders {
        let libraries = folder.join("lib");
        // `/opt/rocm` is a link to one of the others.
        let is_new = fs::canonicalize(host.place(&folder)).is_ok_and(|real| seen.insert(real));
        if is_new && has_library(host, &libraries, HIP) {
            let version = host.text(folder.join(".info/version")).map(|text| text.split('-').next().unwrap_or(&text).to_string());
            found.push(Rocm { version, has_runtime_compiler: has_library(host, &libraries, "libhiprtc.so"), libraries, folder });
        }
    }
    for folder in LIBRARY_FOLDERS.iter().map(PathBuf::from) {
        if has_library(host, &folder, HIP) {
            let has_runtime_compiler = has_library(host, &folder, "libhiprtc.so");
            found.push(Rocm { folder: folder.clone(), version: None, libraries: folder, has_runtime_compiler });
        }
    }
    found
}

/// Whether a folder holds a library in any version: `libamdhip64.so`, `libamdhip64.so.6`, or the `libamdhip64-1a2b3c4d.so` of a wheel.
pub fn has_library(host: &Host, folder: &Path, library: &str) -> bool {
    let stem = library.trim_end_matches(".so");
    host.list(folder).iter().any(|name| {
        name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so")))
    })
}

/// Targets for which rocBLAS and hipBLASLt hold code. Each is `None` if no folder of its code was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompiledFor {
    pub rocblas: Option<BTreeSet<Gfx>>,
    pub hipblaslt: Option<BTreeSet<Gfx>>,
}

/// Reads the names of code files below folders of libraries; the first folder that has any counts.
///
/// The targets of `libtorch_hip.so` are packed inside it. PyTorch builds it for those of the rocBLAS that lies beside it.
pub fn compiled_for(host: &Host, folders: &[PathBuf]) -> CompiledFor {
    let of = |library: &str| {
        folders.iter().find_map(|folder| {
            // Debian has one more folder, named for the version.
            let versions =
                host.list(folder.join(library)).into_iter().map(|version| folder.join(library).join(version).join("library"));
            let places = std::iter::once(folder.join(library).join("library")).chain(versions);
            places.map(|place| targets_in(host, &place)).find(|targets| !targets.is_empty())
        })
    };
    CompiledFor { rocblas: of("rocblas"), hipblaslt: of("hipblaslt") }
}

/// `TensileLibrary_lazy_gfx1030.dat`, `Kernels.so-000-gfx90a-xnack+.hsaco`, and folders named `gfx1030`.
fn targets_in(host: &Host, folder: &Path) -> BTreeSet<Gfx> {
    let names = host.list(folder).into_iter();
    names.flat_map(|name| targets_named(&name).collect::<Vec<_>>()).collect()
}

fn targets_named(name: &str) -> impl Iterator<Item = Gfx> {
    name.match_indices("gfx").filter_map(|(at, _)| {
        let digits = name[at + 3..].bytes().take_while(u8::is_ascii_hexdigit).count();
        Gfx::named(&name[at..at + 3 + digits])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_code_name_their_targets() {
        let cases = [
            ("TensileLibrary_lazy_gfx1030.dat", vec!["gfx1030"]),
            ("Kernels.so-000-gfx90a-xnack+.hsaco", vec!["gfx90a"]),
            ("TensileLibrary_Type_HH_Contraction_gfx942.co", vec!["gfx942"]),
            ("TensileManifest.txt", vec![]),
            ("gfx1201", vec!["gfx1201"]),
        ];
        for (name, targets) in cases {
            assert_eq!(targets_named(name).map(|gfx| gfx.to_string()).collect::<Vec<_>>(), targets, "{name}");
        }
    }
}
