//! Low-rank adapters: their factors, training's network of them, and what joins them with a model. Unaware of the pipeline.

pub mod network;
