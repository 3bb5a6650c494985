//! Finds a LoRA between two models: the best low-rank approximation of the difference of their weights, by kohya's conventions
//! (sd-scripts, `networks/extract_lora_from_models.py`).
//!
//! The singular values go into `up` as a whole; alpha is the rank. Two defaults differ: `min_diff` is 1e-6, because kohya's 0.01 drops the
//! text encoder of many LoRAs in silence, and nothing is clamped, because kohya's quantile of 0.99 costs several percent of the change.

use anyhow::{Result, bail, ensure};

use crate::sd::checkpoint::layout::{TextLayout, UnetLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::modules::{Layer, text_targets, unet_convolutions, unet_targets};
use crate::sd::lora::difference::{Differences, percent};
use crate::sd::lora::file::Lora;
use crate::sd::lora::matrix::Matrix;
use crate::sd::lora::module::LoraModule;
use crate::sd::lora::svd;

/// How to extract.
#[derive(Clone, Copy, Debug)]
pub struct Extraction {
    /// At least 1; a layer with a shorter side gets that.
    pub rank: usize,
    /// Of the 3×3 convolutions of ResNets and samplers; `None` leaves these blocks out.
    pub conv_rank: Option<usize>,
    /// The quantile at which factors are clamped, 0 to 1; 1 clamps nothing.
    pub clamp_quantile: f64,
    /// The text encoder is left out if no weight of it differs by more.
    pub min_diff: f32,
}

/// Extracts a LoRA; its remarks say how much of the change it holds. `progress` is told the number of modules done and of all, and says
/// whether to go on.
///
/// # Errors
/// If the models differ in structure, are equal or differ only where no module is looked at, or hold values that are not finite.
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
    let text_layers = pairs(text_targets(&text), text_targets(&base_text));
    let mut unet_layers = pairs(unet_targets(&unet), unet_targets(&base_unet));
    if how.conv_rank.is_some() {
        unet_layers.extend(pairs(unet_convolutions(&unet), unet_convolutions(&base_unet)));
    }

    let all = text_layers.len() + unet_layers.len();
    let mut lora = Lora::default();
    let (mut of_text, mut of_unet) = (Looked::default(), Looked::default());
    for (index, (layer, base_layer)) in text_layers.iter().chain(&unet_layers).enumerate() {
        progress(index, all)?;
        let difference = difference(tuned, base, layer, base_layer)?;
        let module = module(&difference, layer, how);
        let looked = if index < text_layers.len() { &mut of_text } else { &mut of_unet };
        looked.add(&difference, &module, how.clamp_quantile);
        lora.modules.insert(layer.module.clone(), module);
    }
    progress(all, all)?;
    let outside = Differences::outside((tuned, &unet, &text), (base, &base_unet, &base_text), &lora.modules)?;
    let differs = of_text.largest > how.min_diff;
    if !differs {
        lora.modules.retain(|module, _| !text_layers.iter().any(|(layer, _)| layer.module == *module));
    }
    if !differs && of_unet.largest == 0.0 {
        let (tuned, base) = (tuned.path().display(), base.path().display());
        bail!("{}", nothing_to_extract(&format!("`{tuned}` and `{base}`"), &of_text, &outside, how));
    }
    lora.remarks = remarks(&lora, &of_text, &of_unet, &outside, how);
    Ok(lora)
}

/// What was found in the layers of one network.
#[derive(Default)]
struct Looked {
    largest: f32,
    /// Sums of squares: of the differences, and of what of them the factors hold.
    change: f64,
    held: f64,
}

impl Looked {
    fn add(&mut self, difference: &Matrix, module: &LoraModule, clamp_quantile: f64) {
        self.largest = self.largest.max(difference.largest());
        let change = squares(&difference.values);
        self.change += change;
        // The singular vectors are of length 1, so the columns of `up` are as long as the singular values; unless they are cut off.
        self.held += if clamp_quantile < 1.0 {
            let held = module.delta();
            let rest = difference.values.iter().zip(&held.values);
            change - rest.map(|(whole, held)| f64::from(whole - held).powi(2)).sum::<f64>()
        } else {
            squares(&module.up.values).min(change)
        };
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum()
}

fn nothing_to_extract(models: &str, of_text: &Looked, outside: &Differences, how: Extraction) -> String {
    if of_text.largest > 0.0 {
        let (largest, min_diff) = (of_text.largest, how.min_diff);
        return format!(
            "{models} differ by at most {largest:e}, in the text encoder: `min_diff` is {min_diff:e}, so nothing is left to extract"
        );
    }
    match outside.summary(outside.change()) {
        Some(told) => format!("{models} differ only outside the layers that are looked at: {told}"),
        None if outside.vae_differs => format!("{models} differ only in the VAE, which no LoRA holds"),
        None => format!("{models} have the same weights: there is nothing to extract"),
    }
}

/// How much of the change the LoRA holds, and what it leaves out.
fn remarks(lora: &Lora, of_text: &Looked, of_unet: &Looked, outside: &Differences, how: Extraction) -> Vec<String> {
    let mut remarks = Vec::new();
    let keeps_text = of_text.largest > how.min_diff;
    let (change, held) = match keeps_text {
        true => (of_text.change + of_unet.change, of_text.held + of_unet.held),
        false => (of_unet.change, of_unet.held),
    };
    if change > 0.0 {
        let ranks = match how.conv_rank {
            Some(conv_rank) => format!("rank {}, {conv_rank} in convolutions,", how.rank),
            None => format!("rank {}", how.rank),
        };
        remarks.push(format!("{ranks} holds {} of the change in its {} layers", percent(held / change), lora.modules.len()));
    }
    let whole = of_text.change + of_unet.change + outside.change();
    remarks.extend(outside.summary(whole));
    if !keeps_text && of_text.largest > 0.0 {
        let (largest, min_diff) = (of_text.largest, how.min_diff);
        remarks.push(format!("the text encoder is left out: it differs by at most {largest:e}, and `min_diff` is {min_diff:e}"));
    }
    if outside.vae_differs {
        remarks.push("the VAEs differ too: no LoRA holds that".to_string());
    }
    remarks
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
    let kernel = match layer.shape[..] {
        [_, _, height, width] => Some([height, width]),
        _ => None,
    };
    let is_convolution = kernel.is_some_and(|kernel| kernel != [1, 1]);
    let (mut up, mut down) = factors(difference, how.conv_rank.filter(|_| is_convolution).unwrap_or(how.rank));
    if how.clamp_quantile < 1.0 {
        clamp(&mut up, &mut down, how.clamp_quantile);
    }
    LoraModule { alpha: up.columns as f32, up, down, kernel }
}

/// `up` and `down` whose product is the best approximation of a difference: `up` holds the singular values.
pub fn factors(difference: &Matrix, rank: usize) -> (Matrix, Matrix) {
    if difference.largest() == 0.0 {
        let rank = rank.min(difference.rows).min(difference.columns);
        return (Matrix::zeros(difference.rows, rank), Matrix::zeros(rank, difference.columns));
    }
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
