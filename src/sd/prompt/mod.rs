//! From the text of a prompt to the tokens that CLIP's text encoder reads. Unaware of networks.

pub mod tokenizer;

pub mod emphasis;

pub mod chunks;
