//! Finds a LoRA between two models: the best low-rank approximation of the difference of their weights, by kohya's conventions
//! (sd-scripts, `networks/extract_lora_from_models.py`).
//!
//! The singular values go into `up` as a whole; both factors are clamped at a quantile of their *signed* values; alpha is the rank. One
//! default differs: `min_diff` is 1e-6, because kohya's 0.01 drops the text encoder of many LoRAs in silence.

use anyhow::{Result, ensure};

use crate::checkpoint::layout::{TextLayout, UnetLayout};
use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::modules::{Layer, text_targets, unet_targets};
use crate::lora::file::{Lora, LoraModule};
use crate::lora::matrix::Matrix;
use crate::lora::svd;

/// How to extract.
#[derive(Clone, Copy, Debug)]
pub struct Extraction {
    /// At least 1; a layer with a shorter side gets that.
    pub rank: usize,
    /// The quantile at which factors are clamped, 0 to 1; 1 clamps nothing.
    pub clamp_quantile: f64,
    /// The text encoder is left out if no weight of it differs by more.
    pub min_diff: f32,
}

/// Extracts a LoRA. `progress` is told the number of modules done and of all, and says whether to go on.
///
/// # Errors
/// If the models differ in structure, are equal, or hold values that are not finite.
pub fn extract(
    tuned: &ModelFile,
    base: &ModelFile,
    how: Extraction,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Lora> {
    let pairs = |tuned: Vec<Layer>, base: Vec<Layer>| tuned.into_iter().zip(base).collect::<Vec<_>>();
    let (unet, base_unet) = (UnetLayout::infer(tuned)?, UnetLayout::infer(base)?);
    let same = UnetLayout { names: base_unet.names.clone(), ..unet.clone() } == base_unet;
    ensure!(same, "the UNets of `{}` and `{}` differ in structure", tuned.path().display(), base.path().display());
    let (text, base_text) = (TextLayout::infer(tuned)?, TextLayout::infer(base)?);
    let same = TextLayout { names: base_text.names.clone(), ..text.clone() } == base_text;
    ensure!(same, "the text encoders of `{}` and `{}` differ in structure", tuned.path().display(), base.path().display());
    let text = pairs(text_targets(&text), text_targets(&base_text));
    let unet = pairs(unet_targets(&unet), unet_targets(&base_unet));

    let all = text.len() + unet.len();
    let mut lora = Lora::default();
    let (mut text_differs, mut unet_differs) = (false, false);
    for (index, (layer, base_layer)) in text.iter().chain(&unet).enumerate() {
        progress(index, all)?;
        let difference = difference(tuned, base, layer, base_layer)?;
        let differs = difference.largest();
        if index < text.len() {
            text_differs |= differs > how.min_diff;
        } else {
            unet_differs |= differs > 0.0;
        }
        lora.modules.insert(layer.module.clone(), module(&difference, layer, how));
    }
    progress(all, all)?;
    if !text_differs {
        for (layer, _) in &text {
            lora.modules.remove(&layer.module);
        }
    }
    ensure!(
        text_differs || unet_differs,
        "`{}` and `{}` have the same weights: there is nothing to extract",
        tuned.path().display(),
        base.path().display()
    );
    Ok(lora)
}

/// `[out, in · height · width]`
fn difference(tuned: &ModelFile, base: &ModelFile, layer: &Layer, base_layer: &Layer) -> Result<Matrix> {
    let (a, b) = (tuned.read_f32(&layer.tensor)?, base.read_f32(&base_layer.tensor)?);
    let values: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let finite = values.iter().all(|value| value.is_finite());
    ensure!(finite, "the difference of tensor `{}` is not finite: one of the models is broken", layer.tensor);
    let rows = layer.shape[0];
    Ok(Matrix::new(rows, values.len() / rows, values))
}

fn module(difference: &Matrix, layer: &Layer, how: Extraction) -> LoraModule {
    let (mut up, mut down) = factors(difference, how.rank);
    if how.clamp_quantile < 1.0 {
        clamp(&mut up, &mut down, how.clamp_quantile);
    }
    let kernel = match layer.shape[..] {
        [_, _, height, width] => Some([height, width]),
        _ => None,
    };
    LoraModule { alpha: up.columns as f32, up, down, kernel }
}

/// `up` and `down` whose product is the best approximation of a difference: `up` holds the singular values.
pub fn factors(difference: &Matrix, rank: usize) -> (Matrix, Matrix) {
    let svd = svd::leading(difference, rank);
    let mut up = svd.u;
    for row in up.values.chunks_exact_mut(svd.s.len()) {
        row.iter_mut().zip(&svd.s).for_each(|(value, s)| *value *= s);
    }
    (up, svd.vt)
}

/// Cuts both factors off at a quantile of their signed values; returns it.
pub fn clamp(up: &mut Matrix, down: &mut Matrix, q: f64) -> f32 {
    let bound = quantile(up.values.iter().chain(&down.values).copied().collect(), q);
    for value in up.values.iter_mut().chain(&mut down.values) {
        // In this order a negative bound gives what torch's clamp gives: the bound itself.
        *value = value.max(-bound).min(bound);
    }
    bound
}

/// With linear interpolation between the two nearest values, as torch and numpy do by default.
fn quantile(mut values: Vec<f32>, q: f64) -> f32 {
    let place = q * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    let (_, low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    (f64::from(low) + (f64::from(high) - f64::from(low)) * (place - below as f64)) as f32
}
