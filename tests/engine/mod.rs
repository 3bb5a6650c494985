//! The engine with small kinds on text files: what runs, what does not, and what the user is told.

mod bed;
mod kinds;

mod checkpoints;
mod edits;
mod failures;
mod freshness;
mod mirrors;
mod processes;
