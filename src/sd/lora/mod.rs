//! Low-rank adapters: two thin matrices beside a layer whose product is added to its weight. Their files, training's network of them, and
//! what joins them with a model. Unaware of the pipeline.

pub mod account;
pub mod adapter_config;
pub mod convert;
pub mod difference;
pub mod file;
pub mod fit;
pub mod matrix;
pub mod module;
pub mod names;
pub mod placing;

pub mod network;
#[cfg(feature = "nn")]
pub mod targets;

pub mod merge;

pub mod svd;

pub mod extract;
