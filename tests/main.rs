//! Every integration test, in one binary: each further one would link Burn again.

mod formats;
mod parity;
