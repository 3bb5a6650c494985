//! Model files as the original programs write and read them.

mod bombs;
mod carried;
mod ckpt;
mod containers;
mod crafted;
mod hostile;
mod keys;
mod lora;
mod zips;

pub(crate) use containers::fixture;
pub(crate) use keys::tiny_sd;
pub(crate) use lora::drawn_lora;
