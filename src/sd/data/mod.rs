//! Pictures and the texts beside them: reading, selecting, scaling, writing. Knows nothing of stages and networks.

mod colour;
mod colour_curves;
mod colour_grid;
mod colour_tables;
pub mod decode;
mod decode_limits;
mod exif;
mod jpeg;
pub mod named_colours;
mod png_in;

pub mod encode;
pub mod png_text;

pub mod buckets;
pub mod crop;
pub mod resize;

pub mod captions;

pub mod grid;
