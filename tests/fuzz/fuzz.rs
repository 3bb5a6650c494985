//! Fuzzes one target with libFuzzer, `LORAMILL_FUZZ=lock`; `tests/fuzz/run` builds and starts it. An execution that allocates 100 MB more than
//! there was before ends like one that panics.

#![no_main]

#[path = "../diagnostics/kinds.rs"]
mod kinds;
mod targets;

use std::alloc::System;
use std::cell::OnceCell;

use cap::Cap;
use libfuzzer_sys::fuzz_target;

use targets::{Ground, Target};

const MOST: usize = 100_000_000;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

thread_local! {
    static CHOSEN: OnceCell<(Ground, Target)> = const { OnceCell::new() };
}

fn choose() -> (Ground, Target) {
    let name = std::env::var("LORAMILL_FUZZ").expect("`LORAMILL_FUZZ` names the target");
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    (Ground::new(kinds::KINDS), found.expect("`LORAMILL_FUZZ` names a known target").1)
}

fuzz_target!(|bytes: &[u8]| {
    CHOSEN.with(|chosen| {
        let (ground, target) = chosen.get_or_init(choose);
        MEMORY.set_limit(MEMORY.allocated() + MOST).expect("above what is allocated");
        target(ground, bytes);
    });
});
