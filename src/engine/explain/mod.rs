//! Why is this stale, who changed it, and what made it?
//!
//! ```text
//! stage or item ─stage_account─► what its key covers, how that differs from the last run ─causes─► who changed it, and in which file
//! file ──────────file_account──► the record that gave it ─origin─► what made its inputs, up to the photos
//! ```
//!
//! `ledger` reads the whole record log once and answers who made which contents. Reads only. Imports every room below it but
//! `run`.

pub mod ledger;
pub mod origin;

pub mod cause;
mod causes;

pub mod stage_account;

pub mod file_account;
pub mod text_status;
