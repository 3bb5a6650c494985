//! Teaches Stable Diffusion a new concept from one declarative file.
//!
//! Five wings: `cli` says what a command does and prints it; `stages` joins the engine to the domain, one kind of stage at a time; `engine` reads a
//! pipeline, decides and runs; `sd` is Stable Diffusion; `computer` is the machine below. ARCHITECTURE.md tells the story once.

/// A crate of its own: it compiles beside Burn, and its tests build without the rest.
pub use loramill_engine as engine;
pub use loramill_engine::{choice, params};

pub mod sd;

pub mod computer;

pub mod stages;

pub mod cli;
