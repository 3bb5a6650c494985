//! Model files as the original programs write and read them.

mod ckpt;
mod containers;
mod hostile;
mod keys;
mod lora;

pub(crate) use keys::tiny_sd;
pub(crate) use lora::drawn_lora;
