//! What runs next, and what does it leave behind?
//!
//! ```text
//!  waiting ──► running ──► ended: cached, ran, failed, blocked, interrupted
//!                 │
//!     items: claimed ──► made ──► recorded      whole: published one by one
//! ```
//!
//! `schedule` starts the stages whose producers have ended: those of the CPU side by side, those of the device one at a time.
//! `items` and `whole` run one stage, `item_runner` one piece of work. What a stage leaves is written in the order of `commit`:
//! objects, record, `out/`, row of the lock. `noop` ends a run early where nothing changed since a run that had nothing to do.
//! `events` is all that observers get. Imports every room below it.

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

pub mod caption_edits;
pub mod on_demand;
