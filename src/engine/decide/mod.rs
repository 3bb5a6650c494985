//! What is up to date, and why is the rest not?
//!
//! ```text
//! Fresh      the lock has a row under this key, and its outputs are here
//! Works      an item stage: of each piece of work whether its result is here, a person's, broken or missing
//! Whole      a whole stage that must run, with what an interrupted run has published
//! Waits      something it reads is not there, or a person must choose
//! Kept       stale, but left as it was: the command does not ask for it
//! ```
//!
//! `decision` gives one of these for one stage; `plan` asks it of every stage with stand-ins for what is not known, a run asks it
//! when the inputs of the stage are there. `keys` has the table of what each key covers, `reason` the reasons, worded in one
//! place. Reads the cache, the lock and the folders of texts; writes nothing. Imports every room below it.

pub mod results;

pub mod files;
pub mod intake;

pub mod keys;
pub mod outputs;
pub mod reason;

pub(crate) mod changes;
pub mod decision;
pub mod lints;
pub mod lost_texts;
pub mod recorded;
pub mod taken;
pub mod texts;
pub mod verdict;
pub mod view;
pub(crate) mod works;

pub(crate) mod restore_plan;

pub mod estimate;
pub mod plan;
