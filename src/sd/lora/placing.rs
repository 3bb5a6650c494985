//! Finds the layers of a model that a LoRA file names by LDM's blocks or by numbers. Unaware of values.
//!
//! cloneofsimo's LoRA numbers the linear layers inside attention and GEGLU as PyTorch walks through them. diffusers put the feed-forward
//! between the two attentions until 0.14 and behind them since; the shapes of the layers tell which. Source: cloneofsimo/lora,
//! `lora_diffusion/lora.py`; sd_dreambooth_extension's `.pt` files are such lists too.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::key::{Key, UNET_PREFIX};
use crate::sd::checkpoint::layout::{Naming, Style, TextLayout, UnetLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::modules::{Layer, ModulePath, Network, text_layers, unet_layers};
use crate::sd::lora::module::LoraModule;
use crate::sd::lora::names::Address;

/// The networks of a model that a LoRA can adapt.
#[derive(Clone, Debug, Default)]
pub struct Structure {
    pub unet: Option<UnetLayout>,
    pub text: Option<TextLayout>,
}

impl Structure {
    /// Of the networks that `base` holds whole.
    pub fn of(base: &ModelFile) -> Self {
        Self { unet: UnetLayout::infer(base).ok(), text: TextLayout::infer(base).ok() }
    }

    /// Stable Diffusion 1.x, and 2.x with its text encoder left out: what a LoRA without its model may be for.
    fn published() -> [Self; 2] {
        let names = || Naming { prefix: String::new(), style: Style::Diffusers };
        let unet = |context_width, linear_projections| UnetLayout {
            in_channels: 4,
            out_channels: 4,
            channels: vec![320, 640, 1280, 1280],
            res_blocks: 2,
            attention: vec![true, true, true, false],
            context_width,
            linear_projections,
            names: names(),
        };
        let text = TextLayout { width: 768, layers: 12, mlp_width: 3072, positions: 77, vocabulary: 49408, names: names() };
        [Self { unet: Some(unet(768, false)), text: Some(text) }, Self { unet: Some(unet(1024, true)), text: None }]
    }

    /// Whether it has the networks that a LoRA of these `modules` adapts.
    pub fn is_whole_for(&self, modules: &BTreeMap<ModulePath, LoraModule>) -> bool {
        modules.keys().all(|module| match module.network {
            Network::Unet => self.unet.is_some(),
            Network::TextEncoder => self.text.is_some(),
        })
    }

    /// Every layer with a weight matrix.
    pub fn layers(&self) -> BTreeMap<ModulePath, Layer> {
        let unet = self.unet.iter().flat_map(unet_layers);
        let text = self.text.iter().flat_map(text_layers);
        unet.chain(text).map(|layer| (layer.module.clone(), layer)).collect()
    }
}

/// The layers of Stable Diffusion 1.x, which any model of its kind has in some number.
pub(super) fn layers_of_stable_diffusion() -> impl Iterator<Item = ModulePath> {
    Structure::published().into_iter().flat_map(|structure| structure.layers().into_keys())
}

/// LDM's paths of the layers of Stable Diffusion 1.x.
pub(super) fn ldm_layers_of_stable_diffusion() -> Vec<String> {
    let [first, _] = Structure::published();
    let keys = first.unet.iter().flat_map(UnetLayout::keys);
    keys.filter_map(|key| ldm_path(&key).map(str::to_string)).collect()
}

/// The layers by their paths in diffusers. Names that a model has not keep their path, for whoever compares them with the model. Without a
/// model those of Stable Diffusion 1.x and 2.x are tried.
///
/// # Errors
/// If two names mean one layer, if numbers cannot be told apart by the shapes, or if no published model has what is named.
pub fn placed(parts: BTreeMap<Address, LoraModule>, model: Option<&Structure>) -> Result<BTreeMap<ModulePath, LoraModule>> {
    if let Some(model) = model {
        return place(parts, model);
    }
    if parts.keys().all(|address| matches!(address, Address::Layer(_))) {
        return place(parts, &Structure::default());
    }
    for structure in Structure::published() {
        let Ok(found) = place(parts.clone(), &structure) else { continue };
        let layers = structure.layers();
        if found.iter().all(|(path, module)| layers.get(path).is_some_and(|layer| fits(module, layer))) {
            return Ok(found);
        }
    }
    bail!(
        "it names layers by LDM's blocks or by numbers, and fits neither Stable Diffusion 1.x nor 2.x: which layer is meant follows from \
         the model, so merge it with the one that it was trained on"
    )
}

fn place(parts: BTreeMap<Address, LoraModule>, model: &Structure) -> Result<BTreeMap<ModulePath, LoraModule>> {
    let mut found = BTreeMap::new();
    let mut numbered: BTreeMap<Option<Network>, BTreeMap<usize, LoraModule>> = BTreeMap::new();
    let ldm: BTreeMap<String, String> = match parts.keys().any(|address| matches!(address, Address::Ldm(_))) {
        true => ldm_to_diffusers(model),
        false => BTreeMap::new(),
    };
    let mut add = |path: ModulePath, module: LoraModule| -> Result<()> {
        ensure!(!found.contains_key(&path), "the layer `{path}` is there under two names");
        found.insert(path, module);
        Ok(())
    };
    for (address, module) in parts {
        match address {
            Address::Layer(path) => add(path, module)?,
            Address::Ldm(path) => add(ModulePath::new(Network::Unet, ldm.get(&path).unwrap_or(&path)), module)?,
            Address::Numbered(network, index) => {
                numbered.entry(network).or_default().insert(index, module);
            }
        }
    }
    for (network, modules) in numbered {
        let layers = counted(&modules, network, model)?;
        for (index, module) in modules {
            add(layers[index].clone(), module)?;
        }
    }
    Ok(found)
}

/// `input_blocks.1.1.proj_in` to `down_blocks.0.attentions.0.proj_in`.
fn ldm_to_diffusers(model: &Structure) -> BTreeMap<String, String> {
    let keys = model.unet.iter().flat_map(UnetLayout::keys);
    let pair = |key: Key| Some((ldm_path(&key)?.to_string(), key.diffusers.strip_suffix(".weight")?.to_string()));
    keys.filter_map(pair).collect()
}

fn ldm_path(key: &Key) -> Option<&str> {
    key.ldm.strip_prefix(UNET_PREFIX)?.strip_suffix(".weight").filter(|_| key.shape.len() > 1)
}

/// The layers that numbers stand for: those of the one order into which all modules fit by their shapes.
fn counted(modules: &BTreeMap<usize, LoraModule>, network: Option<Network>, model: &Structure) -> Result<Vec<ModulePath>> {
    let mut orders = Vec::new();
    if network != Some(Network::TextEncoder)
        && let Some(unet) = &model.unet
    {
        orders.extend([walk_of_unet(unet, false), walk_of_unet(unet, true)]);
    }
    if network != Some(Network::Unet)
        && let Some(text) = &model.text
    {
        orders.push(walk_of_text(text));
    }
    let takes =
        |order: &Vec<Layer>| modules.iter().all(|(index, module)| order.get(*index).is_some_and(|layer| fits(module, layer)));
    let named = |order: Vec<Layer>| order.into_iter().map(|layer| layer.module).collect::<Vec<_>>();
    let mut fitting = orders.into_iter().filter(takes).map(named);
    let first = fitting.next().with_context(|| {
        format!(
            "it numbers its {} layers as cloneofsimo's LoRA does, and they do not fit the model, neither as diffusers ordered layers until \
             0.14 nor since: it was trained on another model",
            modules.len()
        )
    })?;
    let differs = |other: &Vec<ModulePath>| modules.keys().any(|index| other[*index] != first[*index]);
    ensure!(
        !fitting.any(|other| differs(&other)),
        "it numbers its layers as cloneofsimo's LoRA does, and fits the model in more than one way: which layer a number means is not in \
         the file"
    );
    Ok(first)
}

/// Layers inside attention and GEGLU, as PyTorch walks: down, up, then middle.
fn walk_of_unet(unet: &UnetLayout, feed_forward_last: bool) -> Vec<Layer> {
    const BLOCK: &str = ".transformer_blocks.";
    let mut blocks: Vec<(String, Vec<Layer>)> = Vec::new();
    for layer in unet_layers(unet) {
        let Some((before, inside)) = layer.module.path.split_once(BLOCK) else { continue };
        let block = format!("{before}{BLOCK}{}", inside.split('.').next().unwrap_or_default());
        match blocks.last_mut() {
            Some((last, layers)) if *last == block => layers.push(layer),
            _ => blocks.push((block, vec![layer])),
        }
    }
    let inner = if feed_forward_last { ["attn1.", "attn2.", "ff.net.0.proj"] } else { ["attn1.", "ff.net.0.proj", "attn2."] };
    let sorted = |(block, layers): (String, Vec<Layer>)| {
        inner.into_iter().flat_map(move |part| {
            let prefix = format!("{block}.{part}");
            layers.iter().filter(|layer| layer.module.path.starts_with(&prefix)).cloned().collect::<Vec<_>>()
        })
    };
    blocks.into_iter().flat_map(sorted).collect()
}

/// Layers inside attention, in the order in which transformers registers them.
fn walk_of_text(text: &TextLayout) -> Vec<Layer> {
    let layers = text_layers(text);
    let mut walk = Vec::new();
    for number in 0..text.layers {
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            let path = format!("text_model.encoder.layers.{number}.self_attn.{projection}");
            walk.extend(layers.iter().find(|layer| layer.module.path == path).cloned());
        }
    }
    walk
}

/// Old LoRAs of SD 2.x adapt its linear projections as 1×1 convolutions, and the other way round.
pub(super) fn fits(module: &LoraModule, layer: &Layer) -> bool {
    let plain = |shape: &[usize]| shape.strip_suffix(&[1, 1]).unwrap_or(shape).to_vec();
    plain(&module.weight_shape()) == plain(&layer.shape)
}
