//! Tells the linker where libtorch lies, so that the program finds it again when it runs, and the compiler whether one of CubeCL's runtimes is
//! built in: to Burn they are one backend. Does nothing in a build without either.

use std::env;
use std::path::Path;

/// Libraries of a device: nothing calls into them, so that a linker drops them unless it is told not to, and the device with them.
const DEVICES: [&str; 2] = ["torch_cuda", "torch_hip"];

/// Features that bring one of CubeCL's runtimes, as cargo spells them for build scripts.
const CUBE: [&str; 3] = ["CARGO_FEATURE_ROCM", "CARGO_FEATURE_VULKAN", "CARGO_FEATURE_CUDA"];

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rustc-check-cfg=cfg(cube)");
    if CUBE.iter().any(|feature| env::var_os(feature).is_some()) {
        println!("cargo::rustc-cfg=cube");
    }
    // From torch-sys, which asked `LIBTORCH` or the user's Python.
    let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let folder = Path::new(&folder).canonicalize().unwrap_or_else(|_| folder.into());
    println!("cargo::rustc-link-search=native={}", folder.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
    for device in DEVICES {
        if folder.join(format!("lib{device}.so")).exists() {
            println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed,-l{device},--pop-state");
        }
    }
}
