//! The engine: reads a pipeline file, decides what is up to date, runs what is not. Knows nothing of images, tensors or models.
//!
//! Each room answers one question. A room imports those below it in this list, never one above it; `tests/tidy.rs` holds the
//! table.
//!
//! ```text
//! explain     why is this stale, and what made it?
//! run         what runs next, and what does it leave behind?
//! gc          what of the cache does nothing need any more?
//! decide      what is up to date, and why is the rest not?
//! out         what lies in `out/` under friendly names?
//! graph       which stages are there, and who reads whom?
//! edits       whose text is this, and which one counts?
//! lock_file   what did the last run read and produce?
//! kind        what does the engine ask of a stage kind?
//! inputs      what does the pipeline read from disk?
//! syntax      what did the user write, and where?
//! cache       where do contents and results lie?
//! ```

pub mod syntax;

pub mod cache;

pub mod inputs;

pub mod kind;

pub mod lock_file;

pub mod edits;

pub mod graph;

pub mod out;

pub mod decide;

pub mod gc;

pub mod run;

pub mod explain;
