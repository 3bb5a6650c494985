//! The content-addressed store. Knows nothing of stages.

pub mod digest;
