//! What does a pipeline read from disk?
//!
//! ```text
//! images/                a folder of photos: one item for each, with the texts beside it
//! lora.safetensors       a file: one item
//! model://, hf://        a model that lies elsewhere, or is absent
//! ```
//!
//! `listing` lists a folder, `picture_files` says which files are pictures, `sources` finds what an input names. Names, sizes and
//! first bytes are looked at; nothing is decoded and nothing is hashed. `project_bounds` refuses links that lead out of the
//! project. Imports `syntax` and `cache`.

pub mod input;
pub mod listing;
pub mod picture_files;
pub mod project_bounds;
pub mod sources;
