//! Every integration test, in one binary: each further one would link Burn again.

mod cli;
mod diagnostics;
mod engine;
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
