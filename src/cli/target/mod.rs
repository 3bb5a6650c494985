//! Which pipeline, stages and cache is a command about?
//!
//! ```text
//! pipeline      finds, reads and checks the pipeline file
//! targets       the pipeline, and what of it is built
//! selection     `--only`, `--from`, `--to` and `--force`
//! cache_folder  the cache that belongs to a pipeline or a folder
//! ```
//!
//! Imports `global`, `exit` and `terminal`. Writes nothing but the cache's own folder.

pub(crate) mod pipeline;

pub(crate) mod selection;

pub(crate) mod targets;

pub(crate) mod cache_folder;
