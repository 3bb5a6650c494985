//! Which stages are there, and who reads whom?
//!
//! ```text
//! Tree ─load─► stages with typed params ─variants─► one for each value of a matrix ─edges─► Pipeline
//! ```
//!
//! A `Pipeline` is sound: every name is known, every reference leads to a field that is there, no stage reads itself. `selection`
//! says what of it a command is asked for, `resolve` which items a stage takes of what it reads. The cache is never touched:
//! `check` works without one. Imports `kind`, `inputs`, `syntax`, and of `cache` the digest alone.

pub mod matrix;
pub mod variant;

pub mod pipeline;
pub mod stage_id;

pub mod stage_keys;
pub mod variants;

mod checkpoints;
mod companions;
pub mod edges;
pub mod sidecars;

pub mod load;
mod load_stages;
pub mod parsed_file;

pub mod examine;
pub mod resolve;
pub mod schema;
pub mod selection;
