//! Whether a run may compute on a device: on one that is to be compared first, only after it gave the embedded backend's numbers,
//! in a process of its own. Unaware of what is compared, and of how that is remembered.

use std::env;

use anyhow::{Context as _, Result, bail};

use crate::cli::device::compared::Compared;
use crate::cli::device::names::is_to_be_compared;
use crate::cli::device::probe;
use crate::cli::global::Global;
use crate::computer::doctor::SelfTest;
use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;

/// # Errors
/// If the device is to be compared and did not pass.
pub fn admit(device: &str, global: &Global) -> Result<()> {
    if !is_to_be_compared(device) {
        return Ok(());
    }
    let host = Host::this();
    let machine = Machine::read(&host);
    let program = env::current_exe().context("looking for this program's file")?;
    let compared = Compared::of(device, &host, &machine, &program);
    admitted(device, &compared, &|line| global.say(line), &mut || probe::of(device, &machine))
}

fn admitted(device: &str, compared: &Compared, say: &dyn Fn(&str), test: &mut dyn FnMut() -> SelfTest) -> Result<()> {
    if compared.is_passed() {
        return Ok(());
    }
    say(&format!("comparing `{device}` with the embedded backend, once for this card, its driver and this program"));
    let SelfTest { passed, report, .. } = test();
    if !passed {
        bail!("`{device}` does not compute what the embedded backend does: {report}; update its driver, or take `--device cpu`");
    }
    compared.pass(&report);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

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
            admitted("vulkan:0", &Compared::new(Some(&notes), identity.into()), &|_| (), test).unwrap();
            *tests.borrow()
        };
        assert_eq!([admit("driver 1"), admit("driver 1"), admit("driver 2"), admit("driver 1")], [1, 1, 2, 2]);
        fs::remove_dir_all(&notes).unwrap();
        assert_eq!(admit("driver 1"), 3, "notes may be deleted");
    }

    #[test]
    fn a_device_that_is_wrong_is_refused_each_time_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let compared = Compared::new(Some(folder.path()), String::new());
        for _ in 0..2 {
            let error = admitted("vulkan:0", &compared, &|_| (), &mut || answer(false)).unwrap_err().to_string();
            assert!(error.starts_with("`vulkan:0` does not compute what the embedded backend does: GEGLU is off; "), "{error}");
        }
        let passed = admitted("vulkan:0", &compared, &|_| (), &mut || answer(true));
        assert!(passed.is_ok(), "a failure is not remembered");
    }
}
