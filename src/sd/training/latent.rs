//! From a picture to the latent that stands for it in training. Unaware of captions and noise.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};
use image::RgbImage;

use crate::sd::stable_diffusion::Vae;

/// Shape and values of the scaled mean of the latents of `picture`: `[4, height / 8, width / 8]`.
///
/// The mean and not a draw: the noise of training outweighs what the VAE is unsure of, and the latent of a picture is the same always.
pub fn encode(vae: &Vae, picture: &RgbImage, device: &Device) -> Result<([usize; 3], Vec<f32>)> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let factor = vae.factor();
    ensure!(
        width.is_multiple_of(factor) && height.is_multiple_of(factor),
        "the picture is {width}×{height}: both sides must be multiples of {factor}; put a `resize` before `train`"
    );
    let pixels: Vec<f32> = picture.as_raw().iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
    let pixels: Tensor<4> = Tensor::from_data(TensorData::new(pixels, [1, height, width, 3]), (device, DType::F32));
    let latent = vae.encode(pixels.permute([0, 3, 1, 2]));
    let [_, channels, height, width] = latent.dims();
    let values = latent.into_data().try_into_vec().map_err(|error| anyhow::anyhow!("reading a latent: {error:?}"))?;
    Ok(([channels, height, width], values))
}
