//! What runs next, and what does it leave behind?
//!
//! ```text
//! schedule ──► stage ──► items ──► item_runner ──► the kind's work on one item
//!                 │  └─► whole ──► the kind's work; each output published at once
//!                 └ board: waiting ──► running ──► ended
//! ```
//!
//! `schedule` starts the stages whose producers have ended: those of the CPU side by side, those of the device one at a time. `stage` runs one
//! of them from the decision to its end. Only these two know the `board`; all others get a `run_context`. What a stage leaves is written by
//! `commit`: objects, record, `out/`, row of the lock. `evict` and `restore_evicted` are for stages with `keep: false`. `noop` ends a run early
//! where nothing changed since a run that had nothing to do. `events` is all that a watcher is told. Imports every room below it.

pub mod control;
pub mod events;
pub mod run_record;

pub mod guard;
pub mod retry;

pub mod context;
pub mod run_context;

mod ending;
mod from_out;
mod waiting;

mod caption_files;
mod commit;
mod finish;
mod show_so_far;

mod board;
mod item_runner;
mod items;
mod whole;

mod evict;
mod restore_evicted;

mod stage;

pub mod schedule;

pub mod noop;
mod watched;

pub mod caption_edits;
pub mod on_demand;
