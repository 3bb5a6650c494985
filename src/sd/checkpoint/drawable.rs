//! Whether the networks of a model are such as this program computes, and belong together: told from shapes, before a weight is read. What
//! passes here cannot fail for its sizes later.

use anyhow::{Result, ensure};

use crate::sd::checkpoint::family::{Family, Predicts};
use crate::sd::checkpoint::layout::{TextLayout, UnetLayout, VaeLayout};
use crate::sd::checkpoint::model_file::ModelFile;

/// Groups of every group norm of UNet and VAE; no tensor's shape tells them.
pub const GROUPS: usize = 32;

/// Of CLIP's vocabulary: tokens up to this number may come up in any text.
const TOKENS: usize = 49408;

/// Tokens of one row of a text, with its begin and end.
const ROW: usize = 77;

/// Text encoder and UNet of `base`, as `train` needs them.
///
/// # Errors
/// Names what the model is, or what about it this program does not know.
pub fn check_denoiser(base: &ModelFile) -> Result<UnetLayout> {
    Family::of(base).check_use(base)?;
    Predicts::of(base)?;
    let (unet, text) = (UnetLayout::infer(base)?, TextLayout::infer(base)?);
    let path = base.path().display();
    ensure!(
        unet.in_channels == unet.out_channels && unet.in_channels > 0,
        "the UNet of `{path}` takes {} channels and gives {}: models that take and give the same are known",
        unet.in_channels,
        unet.out_channels
    );
    for width in &unet.channels {
        // Groups of the norms, and heads of the attention.
        let (unit, why) = if unet.linear_projections { (64, "64 channels a head") } else { (GROUPS, "32 groups a norm") };
        ensure!(
            *width > 0 && width.is_multiple_of(unit),
            "the UNet of `{path}` is {width} channels wide on one level: multiples of {unit} are known ({why})"
        );
    }
    ensure!(
        text.width == unet.context_width && text.width > 0 && text.mlp_width > 0,
        "the text encoder of `{path}` gives texts {} wide and its UNet reads {}: they are of different models",
        text.width,
        unet.context_width
    );
    ensure!(
        text.vocabulary >= TOKENS && text.positions >= ROW,
        "the text encoder of `{path}` has {} tokens and {} positions: CLIP's {TOKENS} and {ROW} are needed",
        text.vocabulary,
        text.positions
    );
    Ok(unet)
}

/// The VAE in `file`.
///
/// # Errors
/// As [`check_denoiser`].
pub fn check_vae(file: &ModelFile) -> Result<VaeLayout> {
    let vae = VaeLayout::infer(file)?;
    let path = file.path().display();
    ensure!(vae.image_channels == 3, "the VAE of `{path}` is for pictures of {} channels: 3 are needed", vae.image_channels);
    ensure!(vae.latent_channels > 0, "the VAE of `{path}` has latents without channels");
    for width in &vae.channels {
        ensure!(
            *width > 0 && width.is_multiple_of(GROUPS),
            "the VAE of `{path}` is {width} channels wide on one level: multiples of {GROUPS} are known (32 groups a norm)"
        );
    }
    Ok(vae)
}

/// All three networks: those of `base`, with the VAE of `vae`, if given.
///
/// # Errors
/// As [`check_denoiser`], or if the VAE is for other latents than the UNet.
pub fn check(base: &ModelFile, vae: Option<&ModelFile>) -> Result<()> {
    let unet = check_denoiser(base)?;
    let of = vae.unwrap_or(base);
    let latent = check_vae(of)?.latent_channels;
    ensure!(
        latent == unet.in_channels,
        "the VAE of `{}` has latents of {latent} channels and the UNet of `{}` takes {}: they are of different models",
        of.path().display(),
        base.path().display(),
        unet.in_channels
    );
    Ok(())
}
