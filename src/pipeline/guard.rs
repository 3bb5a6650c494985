//! Turns the panic of a stage into an error that says where. Unaware of what the stage did.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use anyhow::{Result, anyhow};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic in it is an error with its message and place, and nothing is printed.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_hook();
    let before = GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    outcome.unwrap_or_else(|payload| {
        let place = PLACE.take().map(|place| format!(" at {place}")).unwrap_or_default();
        Err(anyhow!("the program has a bug{place}: {}", message(payload.as_ref())))
    })
}

/// Keeps the panics of guarded threads off the terminal; others are reported as before.
fn quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PLACE.set(info.location().map(|l| format!("{}:{}", l.file(), l.line())));
            } else {
                before(info);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "it panicked without a message"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let error = guarded::<()>(|| panic!("index {} is out of bounds", 7)).unwrap_err().to_string();
        assert!(error.contains("index 7 is out of bounds") && error.contains("guard.rs:"), "{error}");
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
