//! Model files as the original programs write and read them.

mod bombs;
mod carried;
mod ckpt;
mod containers;
pub(crate) mod crafted;
mod extraction;
mod families;
mod hostile;
mod keys;
mod lora;
mod lora_files;
mod zips;

pub(crate) use containers::fixture;
#[cfg(feature = "nn")]
pub(crate) use families::odd_models;
pub(crate) use keys::tiny_sd;
pub(crate) use lora::drawn_lora;
