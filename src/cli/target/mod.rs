//! Which pipeline, stages and cache is a command about?

pub(crate) mod cache_folder;
pub(crate) mod selection;
