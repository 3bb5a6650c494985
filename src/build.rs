//! Tells the linker where libtorch lies, so that the program finds it again when it runs, and which program needs none; and the compiler whether one
//! of CubeCL's runtimes is built in: to Burn they are one backend. Does nothing in a build without either.

use std::env;
use std::path::Path;

/// Libraries of a device: nothing calls into them, so that a linker drops them unless it is told not to, and the device with them.
const DEVICES: [&str; 2] = ["torch_cuda", "torch_hip"];

/// What computes: of Cargo's `rustc-link-arg-…`.
const COMPUTING: [&str; 3] = ["bin=loramill-worker=", "tests=", "benches="];

/// For the program that people start, which refers to no function of libtorch, so that the linker leaves libtorch out. Without these two it
/// does not see that:
///
/// - templates that are compiled into ours and into libtorch would be handed to it, and refer to it
/// - a table in burn-tch names this function to keep a card's library; nothing reads the table
const WITHOUT_LIBTORCH: [&str; 2] = ["-Wl,--exclude-libs,ALL", "-Wl,--defsym=dummy_cuda_dependency=0"];

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
    for device in DEVICES.iter().filter(|device| folder.join(format!("lib{device}.so")).exists()) {
        for program in COMPUTING {
            println!("cargo::rustc-link-arg-{program}-Wl,--push-state,--no-as-needed,-l{device},--pop-state");
        }
    }
    for argument in WITHOUT_LIBTORCH {
        println!("cargo::rustc-link-arg-bin=loramill={argument}");
    }
}
