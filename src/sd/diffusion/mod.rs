//! The mathematics of diffusion on plain numbers: noise schedule, prediction, guidance, samplers. Unaware of networks and of Burn.

pub mod noise_schedule;
pub mod prediction;
pub mod sampler;

pub mod infotext;
