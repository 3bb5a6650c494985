//! Turns the panic of a stage into an error that says where. Unaware of what the stage did.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use anyhow::{Error, Result, anyhow};

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
        let message = message(payload.as_ref());
        Err(match out_of_memory(message) {
            Some(request) => OutOfMemory(request.to_string()).into(),
            None => anyhow!("the program has a bug{place}: {message}"),
        })
    })
}

/// A library had no memory left to give.
#[derive(Debug, thiserror::Error)]
#[error("memory ran out: {0}")]
pub struct OutOfMemory(String);

/// The line of a message that says so: a backend panics where a library reports it, in these words.
///
/// - `CUDA out of memory. Tried to allocate 2.00 GiB.`, `HIP out of memory`: c10/cuda/CUDACachingAllocator.cpp
/// - `DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.`, `can't allocate memory`:
///   c10/core/impl/alloc_cpu.cpp
fn out_of_memory(message: &str) -> Option<&str> {
    const WORDS: [&str; 3] = ["out of memory", "not enough memory", "can't allocate memory"];
    // An error that was unwrapped is written as in source: `Err` value: Torch("CUDA out of memory.\nException raised from …")`.
    let lines = message.lines().flat_map(|line| line.split("\\n"));
    let says_so = |line: &&str| WORDS.iter().any(|words| line.contains(words));
    lines.map(|line| line.rsplit_once("(\"").map_or(line, |(_, said)| said)).find(says_so).map(str::trim)
}

/// The error of a stage with what it should be set to, where its memory ran out.
pub fn with_remedy(error: Error, savers: &[String]) -> Error {
    if savers.is_empty() || !error.chain().any(|cause| cause.is::<OutOfMemory>()) {
        return error;
    }
    anyhow!("{error:#}; set {}, or close other programs", savers.join(", "))
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

    #[test]
    fn memory_that_ran_out_is_no_bug_and_has_a_remedy() {
        let torch = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 12 GiB\\n";
        let panics = [
            format!("{torch}Exception raised from malloc at CUDACachingAllocator.cpp:1"),
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes".into(),
            "DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.".into(),
        ];
        let savers = ["`checkpointing: true`".to_string(), "a smaller `size`".to_string()];
        for panic in panics {
            let error = with_remedy(guarded::<()>(|| panic!("{panic}")).unwrap_err().context("drawing"), &savers).to_string();
            let said = error.strip_prefix("drawing: memory ran out: ").expect(&error);
            assert!(["CUDA", "[enforce", "Default"].iter().any(|start| said.starts_with(start)), "{error}");
            assert!(
                !error.contains("Exception")
                    && error.ends_with("; set `checkpointing: true`, a smaller `size`, or close other programs"),
                "{error}"
            );
        }
        let other = with_remedy(guarded::<()>(|| panic!("index")).unwrap_err(), &savers).to_string();
        assert!(!other.contains("checkpointing"), "{other}");
    }
}
