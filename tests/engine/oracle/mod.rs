//! Random pipelines, random things that happen to them, and an oracle that says what must run and what must come of it.
//!
//! After any sequence of edits, losses and runs of every kind: what ran is exactly what was never made or is lost, each key once; a text
//! that a person wrote is not run; the lock, `out/` and the texts hold what the model says; and an empty cache in another folder gives the
//! same, byte for byte. `LORAMILL_CASES=3000` makes it long, `LORAMILL_SEED=7` starts elsewhere.

mod case;
mod chance;
mod kinds;
mod model;
pub mod place;
mod spec;
mod steps;
mod texts;

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::oracle::case::Case;
use crate::oracle::chance::Chance;
use crate::oracle::model::Wanted;
use crate::oracle::steps::{Deed, Step, mend};

/// In a usual run of the tests.
const CASES: u64 = 150;

#[test]
fn after_anything_a_run_does_what_is_missing_and_gives_what_a_clean_one_gives() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, cases) = (number("LORAMILL_SEED").unwrap_or(1), number("LORAMILL_CASES").unwrap_or(CASES));
    let next = AtomicU64::new(first);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + cases {
                break;
            }
            let steps = steps(seed);
            if let Err(error) = attempt(seed, &steps) {
                let (steps, error) = shortened(seed, steps, error);
                let listed: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
                let text = Case::new(seed).world.spec.to_text("logs");
                panic!("LORAMILL_SEED={seed} LORAMILL_CASES=1: {error}\nafter these steps:\n{}\nof\n{text}", listed.join("\n"));
            }
        }
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        for thread in threads {
            if let Err(panic) = thread.join() {
                panic::resume_unwind(panic);
            }
        }
    });
}

fn steps(seed: u64) -> Vec<Step> {
    let mut chance = Chance::new(!seed);
    let count = 4 + chance.below(14);
    (0..count).map(|_| Step::random(&mut chance)).collect()
}

/// Does the steps, then a run, a further one that has nothing to do, and a clean one. A panic is a failure too.
fn attempt(seed: u64, steps: &[Step]) -> Result<(), String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut case = Case::new(seed);
        for (number, step) in steps.iter().enumerate() {
            step.apply(&mut case).map_err(|error| format!("step {number}, {:?}: {error}", step.deed))?;
        }
        mend(&mut case, &mut Chance::new(seed));
        for restores in [seed.is_multiple_of(2), false] {
            case.settle_lost_texts(restores).map_err(|error| format!("at the end: {error}"))?;
        }
        for _ in 0..2 {
            case.run(&Wanted::default(), &[], None).map_err(|error| format!("at the end: {error}"))?;
        }
        case.check_clean()
    }));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
    })
}

/// Leaves out what can be left out, first many steps at once, then single ones.
fn shortened(seed: u64, mut steps: Vec<Step>, mut error: String) -> (Vec<Step>, String) {
    let mut length = steps.len().div_ceil(2).max(1);
    loop {
        let mut start = 0;
        let mut any = false;
        while start < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(start..(start + length).min(steps.len()));
            match attempt(seed, &fewer) {
                Err(again) => {
                    (steps, error) = (fewer, again);
                    any = true;
                }
                Ok(()) => start += length,
            }
        }
        if length == 1 && !any {
            return (steps, error);
        }
        length = if any { length } else { length.div_ceil(2).min(length - 1).max(1) };
    }
}

#[test]
fn every_deed_has_its_place_among_the_steps() {
    let mut seen: Vec<Deed> = (0..100).flat_map(steps).map(|step| step.deed).collect();
    seen.sort_by_key(|deed| *deed as usize);
    seen.dedup();
    assert_eq!(seen.len(), Deed::RunInterrupted as usize + 1, "{seen:?}");
}
