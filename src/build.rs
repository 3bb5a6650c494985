//! Tells the linker where libtorch lies, so that the program finds it again when it runs. Does nothing in a build without libtorch.

use std::env;
use std::path::Path;

/// Libraries of a device: nothing calls into them, so that a linker drops them unless it is told not to, and the device with them.
const DEVICES: [&str; 2] = ["torch_cuda", "torch_hip"];

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
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
