//! Every integration test but those of the engine, in one binary: each further one would link Burn again.

/// What the tests of the engine run pipelines with.
#[allow(dead_code, reason = "they use all of it")]
#[path = "engine/bed.rs"]
mod bed;
#[allow(dead_code, reason = "they use all of it")]
#[path = "engine/kinds.rs"]
mod kinds;

mod folders;
mod git;

mod cli;
mod diagnostics;
#[cfg(feature = "nn")]
mod example;
mod formats;
mod fuzz;
mod hostile;
#[path = "hostile/light.rs"]
mod hostile_light;
mod libtorch;
mod machines;
mod measure;
mod parity;
mod pictures;
mod stages;
mod tidy;
