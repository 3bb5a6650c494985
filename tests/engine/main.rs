//! The engine with small kinds on text files: what runs, what does not, and what the user is told.

mod bed;
mod kinds;

#[path = "../folders.rs"]
mod folders;
#[path = "../git.rs"]
mod git;

mod checkpoints;
mod collecting;
mod damage;
mod edits;
mod estimating;
mod explaining;
mod failures;
mod file_times;
mod freshness;
mod healing;
mod indices;
mod keeping;
mod matrix;
mod oracle;
mod processes;
mod restoring;
mod selection;
mod showing;
