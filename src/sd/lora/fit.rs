//! Whether a LoRA fits a model, and if not, which of the two is the matter: names that nobody knows, layers that this model has not, or
//! shapes that do not fit. Unaware of what is done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use anyhow::{Result, bail};

use crate::sd::checkpoint::modules::{Layer, ModulePath, Network};
use crate::sd::lora::file::Lora;
use crate::sd::lora::module::LoraModule;
use crate::sd::lora::placing::{fits, layers_of_stable_diffusion, ldm_layers_of_stable_diffusion};

/// Paths of layers with every number made a `#`, diffusers' and LDM's.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let diffusers = layers_of_stable_diffusion().map(|module| numberless(&module.path));
    diffusers.chain(ldm_layers_of_stable_diffusion().iter().map(|path| numberless(path))).collect()
});

/// That every layer of `lora` is among `layers`, those of the model that a message calls `model`, and has its shape.
///
/// # Errors
/// Names the first layer that is not, how many there are, and what that says of the LoRA.
pub fn check(lora: &Lora, layers: &BTreeMap<ModulePath, Layer>, model: &str) -> Result<()> {
    let strangers: Vec<&ModulePath> = lora.modules.keys().filter(|module| !KNOWN.contains(&numberless(&module.path))).collect();
    if let Some(first) = strangers.first() {
        bail!(
            "the LoRA changes `{first}`{}, which is a layer of no Stable Diffusion model: its names are those of another program or of \
             another kind of network",
            and_others(strangers.len())
        );
    }
    // What tells families apart comes before single layers.
    if let (Some(theirs), Some(ours)) = (text_width(lora), text_width_of(layers))
        && theirs != ours
    {
        bail!("the LoRA is for {}, `{model}` is {}", family(theirs), family(ours));
    }
    let missing: Vec<&ModulePath> = lora.modules.keys().filter(|module| !layers.contains_key(*module)).collect();
    if let Some(first) = missing.first() {
        bail!(
            "the LoRA changes `{first}`{}, which `{model}` has not: it was trained on a model of another structure",
            and_others(missing.len())
        );
    }
    let misfits: Vec<(&ModulePath, &LoraModule)> =
        lora.modules.iter().filter(|(path, module)| !fits(module, &layers[*path])).collect();
    if let Some((path, module)) = misfits.first() {
        bail!(
            "`{path}` of the LoRA{} is for a weight of shape {:?}, and `{model}` has {:?}: it was trained on a model of other sizes",
            and_others(misfits.len()),
            module.weight_shape(),
            layers[*path].shape
        );
    }
    Ok(())
}

fn and_others(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}

/// `down_blocks.#.attentions.#.proj_in`
fn numberless(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for letter in path.chars() {
        match letter.is_ascii_digit() {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(letter),
        }
    }
    text
}

/// Of the texts that the UNet attends to.
fn text_width(lora: &Lora) -> Option<usize> {
    lora.modules.iter().find(|(path, _)| reads_texts(path)).map(|(_, module)| module.down.columns)
}

fn text_width_of(layers: &BTreeMap<ModulePath, Layer>) -> Option<usize> {
    layers.iter().find(|(path, _)| reads_texts(path)).and_then(|(_, layer)| layer.shape.get(1).copied())
}

fn reads_texts(path: &ModulePath) -> bool {
    path.network == Network::Unet && (path.path.ends_with(".attn2.to_k") || path.path.ends_with(".attn2.to_v"))
}

/// The models whose UNet attends to texts of that width.
fn family(width: usize) -> String {
    match width {
        768 => "Stable Diffusion 1.x (its texts are 768 wide)".into(),
        1024 => "Stable Diffusion 2.x (its texts are 1024 wide)".into(),
        2048 => "SDXL (its texts are 2048 wide)".into(),
        1280 => "the SDXL refiner (its texts are 1280 wide)".into(),
        width => format!("a model whose texts are {width} wide"),
    }
}
