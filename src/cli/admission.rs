//! Whether a run may compute on a device: on one that is to be compared first, only after it gave the embedded backend's numbers, in a process of its
//! own, once for each card, driver and program. Unaware of what is compared.
//!
//! A comparison that was passed is noted in `loramill/self-tests` of the user's folder for caches, which may be deleted at any time. One that was
//! failed is not: what made it fail may have been mended.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, bail};

use crate::cache::digest::Digest;
use crate::cli::{Global, self_test};
use crate::device;
use crate::doctor::SelfTest;
use crate::machine::Machine;
use crate::machine::host::Host;

/// What decides a driver's code: `srcversion` is of the module's source, wherever it was built.
const DRIVERS: [&str; 4] =
    ["/sys/module/amdgpu/srcversion", "/sys/module/amdgpu/version", "/sys/module/i915/srcversion", "/proc/driver/nvidia/version"];
/// Beginnings of variables by which a user changes what drivers and kernels of a card do.
const VARIABLES: [&str; 11] = ["HSA_", "HIP_", "ROCR_", "ROCM_", "AMD_", "CUDA_", "VK_", "RADV_", "MESA_", "WGPU_", "CUBECL_"];

/// # Errors
/// If the device is to be compared and did not pass.
pub fn admit(device: &str, global: &Global) -> Result<()> {
    if !device::is_to_be_compared(device) {
        return Ok(());
    }
    let host = Host::this();
    let machine = Machine::read(&host);
    let program = env::current_exe().context("looking for this program's file")?;
    let notes = machine.cache_home.as_ref().map(|cache| cache.join("loramill/self-tests"));
    let identity = identity(device, &host, &machine, &program);
    admitted(device, notes.as_deref(), &identity, &|line| global.say(line), &mut || self_test::of(device, &machine))
}

fn admitted(
    device: &str,
    notes: Option<&Path>,
    identity: &str,
    say: &dyn Fn(&str),
    test: &mut dyn FnMut() -> SelfTest,
) -> Result<()> {
    let note = notes.map(|notes| notes.join(Digest::of(identity.as_bytes()).to_hex()));
    if note.as_ref().is_some_and(|note| note.is_file()) {
        return Ok(());
    }
    say(&format!("comparing `{device}` with the embedded backend, once for this card, its driver and this program"));
    let SelfTest { passed, report, .. } = test();
    if !passed {
        bail!("`{device}` does not compute what the embedded backend does: {report}; update its driver, or take `--device cpu`");
    }
    keep(note, &format!("{report}\n{identity}"));
    Ok(())
}

/// Without a note the comparison is made again.
fn keep(note: Option<PathBuf>, text: &str) {
    if let Some((note, folder)) = note.as_ref().and_then(|note| Some((note, note.parent()?))) {
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(note, text));
    }
}

/// All that the outcome rests on, line by line.
fn identity(device: &str, host: &Host, machine: &Machine, program: &Path) -> String {
    let Machine { system, amd, nvidia, rocm, vulkan, environment, .. } = machine;
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
    let drivers = vulkan.drivers.iter().map(|driver| host.place(&driver.file));
    for file in drivers.chain([program.to_path_buf()]) {
        let stat = fs::metadata(&file).ok();
        let changed = stat.as_ref().and_then(|stat| stat.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let _ = writeln!(text, "{} {:?} {changed:?}", file.display(), stat.map(|stat| stat.len()));
    }
    for (name, value) in environment.iter().filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start))) {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn answer(passed: bool) -> SelfTest {
        SelfTest { device: "vulkan:0".into(), passed, report: if passed { "alike" } else { "GEGLU is off" }.into() }
    }

    #[test]
    fn a_device_is_compared_once_and_again_when_something_changed() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("self-tests");
        let tests = RefCell::new(0);
        let admit = |identity: &str| {
            let test = &mut || {
                *tests.borrow_mut() += 1;
                answer(true)
            };
            admitted("vulkan:0", Some(&notes), identity, &|_| (), test).unwrap();
            *tests.borrow()
        };
        assert_eq!([admit("driver 1"), admit("driver 1"), admit("driver 2"), admit("driver 1")], [1, 1, 2, 2]);
        fs::remove_dir_all(&notes).unwrap();
        assert_eq!(admit("driver 1"), 3, "notes may be deleted");
    }

    #[test]
    fn a_device_that_is_wrong_is_refused_each_time_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let error = admitted("vulkan:0", Some(folder.path()), "", &|_| (), &mut || answer(false)).unwrap_err().to_string();
            assert!(error.starts_with("`vulkan:0` does not compute what the embedded backend does: GEGLU is off; "), "{error}");
        }
        let passed = admitted("vulkan:0", Some(folder.path()), "", &|_| (), &mut || answer(true));
        assert!(passed.is_ok(), "a failure is not remembered");
    }

    #[test]
    fn another_driver_program_or_setting_is_another_comparison() {
        let host = Host::this();
        let machine = Machine::read(&host);
        let of = |machine: &Machine, program: &str| identity("vulkan:0", &host, machine, Path::new(program));
        let usual = of(&machine, "/a");
        assert_eq!(usual, of(&machine, "/a"));
        assert_ne!(usual, of(&machine, "/b"));
        let mut newer = machine.clone();
        newer.system.kernel = "7.0".into();
        assert_ne!(usual, of(&newer, "/a"));
        let mut set = machine.clone();
        set.environment.insert("RADV_DEBUG".into(), "nocache".into());
        assert_ne!(usual, of(&set, "/a"));
        let mut unrelated = machine;
        unrelated.environment.insert("EDITOR".into(), "ed".into());
        assert_eq!(usual, of(&unrelated, "/a"));
    }
}
