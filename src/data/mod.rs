//! Pictures and the texts beside them: reading, selecting, scaling, writing. Knows nothing of stages and networks.

pub mod decode;
mod jpeg;

pub mod encode;
pub mod png_text;

pub mod buckets;
pub mod crop;
pub mod crop_boxes;
pub mod resize;

pub mod captions;

pub mod grid;
