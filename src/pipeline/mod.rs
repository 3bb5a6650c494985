//! The engine: reads a pipeline file, decides what is fresh, runs what is not. Knows nothing of images or tensors.

pub mod diagnostic;
pub mod tree;

pub mod params;

pub mod item;
pub mod item_set;

pub mod lock_file;
pub mod stage;

pub mod inputs;

pub mod graph;

pub mod schema;
