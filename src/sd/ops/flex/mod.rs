//! The arithmetic of the operations on the embedded CPU backend, over slices of f32.
//!
//! Attention and convolution by tiles are those of `ops/host`. Other matrix products go through the backend; everything around them is plain
//! loops, compiled for the vector units that the machine turns out to have. Work is split by shape alone and partial sums are added in a fixed order, so that a result
//! does not depend on the number of threads.

mod activation;
mod attention;
mod buffer;
mod conv2d;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear;
mod simd;
mod upsample;
