//! What did the user write, and where does it stand?
//!
//! ```text
//! bytes ─yaml─► Tree ─vars─► Tree without `${…}` ─settings─► Tree with `--set`
//! ```
//!
//! Every key and value keeps its place in the file, so that a message can point at it. Problems are collected in `diagnostic`,
//! because all of them are to come at once. Nothing here knows what a key means. Imports no other room.

pub mod diagnostic;
pub mod tree;

pub mod scalar;
mod tree_builder;

pub mod yaml;
pub mod yaml_errors;

pub mod settings;
pub mod vars;
