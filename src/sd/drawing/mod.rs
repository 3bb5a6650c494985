//! From a prompt to a picture with a loaded model. Unaware of stages.

pub mod picture;

pub mod adapt;
pub mod studio;
