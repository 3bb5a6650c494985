//! One tensor of a Stable Diffusion 1.x model by its names, LDM's and diffusers'. Unaware of which tensors there are.

/// LDM's prefix of the UNet in a single file.
pub const UNET_PREFIX: &str = "model.diffusion_model.";
/// LDM's prefix of the VAE in a single file.
pub const VAE_PREFIX: &str = "first_stage_model.";
/// LDM's prefix of the text encoder in a single file of SD 1.x.
pub const TEXT_PREFIX: &str = "cond_stage_model.transformer.";

/// One tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As in a single file, with the network's prefix.
    pub ldm: String,
    /// As in the network's own file in diffusers, without a prefix.
    pub diffusers: String,
    /// As the network of diffusers holds it.
    pub shape: Vec<usize>,
    /// As a single file holds it: the VAE's attention is made of 1×1 convolutions there.
    pub ldm_shape: Vec<usize>,
}
