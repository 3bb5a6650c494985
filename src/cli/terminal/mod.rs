//! How is it printed?
//!
//! ```text
//! wording        how paths and counts are written
//! output         the only file that writes to the terminal; escapes what it writes
//! render         a problem in a file, with the line that it is about
//! progress_line  how far a stage is, in one line
//! console        a run as it goes on: bars, plain lines or JSON lines
//! device_line    the line that says what runs the networks
//! keys           which keys are pressed meanwhile
//! ```
//!
//! Imports the engine, whose events it shows, and nothing of the commands.

pub(crate) mod wording;

pub mod output;

pub mod render;

pub(crate) mod progress_line;

pub mod console;

pub(crate) mod device_line;
pub(crate) mod keys;
