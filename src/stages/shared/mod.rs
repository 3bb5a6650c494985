//! What several kinds use; no kind of its own.
//!
//! ```text
//! photo_use     how a picture is read, and what a key says of a photo
//! size          the size of a picture as a param
//! lora_use      a LoRA with its strength, and what peft writes beside it
//! headers       what the first bytes of model files say before a run
//! model_output  how model files are written
//! linked        the calls that open networks, for a program that links them
//! ```

pub mod photo_use;
pub mod size;

pub mod headers;
pub mod lora_use;
pub mod model_output;

#[cfg(feature = "nn")]
pub mod linked;
