//! The computer: what it has, what of it works, and how libtorch gets onto it. Knows nothing of pipelines and of diffusion.

pub mod machine;

pub mod doctor;

pub mod libtorch;
