//! The layers that a LoRA can adapt, and the names that programs give them: kohya's `lora_unet_down_blocks_0_…`, diffusers' and peft's
//! `unet.down_blocks.0.…`.
//!
//! One name identifies a layer here: its network and its path in diffusers. All others are translated to it.

use std::fmt;

use anyhow::{Result, bail};

use crate::sd::checkpoint::key::Key;
use crate::sd::checkpoint::layout::{Layout, TextLayout, UnetLayout};

/// Which network a layer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    TextEncoder,
    Unet,
}

/// A layer by its network and its path in diffusers: `down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`,
/// `text_model.encoder.layers.0.self_attn.q_proj`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePath {
    pub network: Network,
    pub path: String,
}

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kohya())
    }
}

/// A layer with a weight matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub module: ModulePath,
    /// `[out, in]` or `[out, in, height, width]`.
    pub shape: Vec<usize>,
    /// The tensor in the file the layout was inferred from.
    pub tensor: String,
}

/// Words of diffusers' paths that have an underscore of their own.
const COMPOUNDS: &[&str] = &[
    "down_blocks",
    "up_blocks",
    "mid_block",
    "transformer_blocks",
    "time_embedding",
    "linear_1",
    "linear_2",
    "conv_in",
    "conv_out",
    "time_emb_proj",
    "conv_shortcut",
    "proj_in",
    "proj_out",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "text_model",
    "token_embedding",
    "position_embedding",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    // Of LDM's.
    "input_blocks",
    "middle_block",
    "output_blocks",
    "in_layers",
    "out_layers",
    "emb_layers",
    "skip_connection",
    "time_embed",
    "label_emb",
];

/// In front of the text encoder's paths; transformers 5 leaves it out.
const TEXT_MODEL: &str = "text_model.";

/// What the text encoder's paths begin with behind `text_model.`.
const TEXT_PARTS: &[&str] = &["encoder.layers.", "embeddings.", "final_layer_norm"];

impl ModulePath {
    /// A path of the text encoder as transformers 5 has it gets the `text_model.` of all others.
    pub fn new(network: Network, path: impl Into<String>) -> Self {
        let mut path = path.into();
        if network == Network::TextEncoder && TEXT_PARTS.iter().any(|part| path.starts_with(part)) {
            path.insert_str(0, TEXT_MODEL);
        }
        Self { network, path }
    }

    /// kohya's name: the path with `_` for `.`.
    pub fn kohya(&self) -> String {
        let prefix = match self.network {
            Network::TextEncoder => "lora_te_",
            Network::Unet => "lora_unet_",
        };
        format!("{prefix}{}", self.path.replace('.', "_"))
    }

    /// The name in a pipeline of diffusers: `unet.…`, `text_encoder.…`.
    pub fn diffusers(&self) -> String {
        match self.network {
            Network::TextEncoder => format!("text_encoder.{}", self.path),
            Network::Unet => format!("unet.{}", self.path),
        }
    }

    /// From kohya's name.
    ///
    /// # Errors
    /// If it begins otherwise than kohya's names of an SD 1.x model. The path of one that LDM names is LDM's.
    pub fn from_kohya(name: &str) -> Result<Self> {
        let (network, rest) = if let Some(rest) = name.strip_prefix("lora_unet_") {
            (Network::Unet, rest)
        } else if let Some(rest) = name.strip_prefix("lora_te_").or_else(|| name.strip_prefix("lora_te1_")) {
            (Network::TextEncoder, rest)
        } else if name.starts_with("lora_te2_") {
            bail!("`{name}` belongs to the second text encoder of SDXL: SD 1.x has one");
        } else {
            bail!("`{name}` is no module of kohya's: expected `lora_unet_…` or `lora_te_…`");
        };
        Ok(Self::new(network, dotted(rest)))
    }

    /// From a name of diffusers or peft.
    ///
    /// # Errors
    /// If it tells neither network.
    pub fn from_diffusers(name: &str) -> Result<Self> {
        let bare = name.strip_prefix("base_model.model.").unwrap_or(name);
        if let Some(path) = bare.strip_prefix("unet.") {
            return Ok(Self::new(Network::Unet, path));
        }
        let text = bare.strip_prefix("text_encoder.");
        let is_text = |bare: &str| bare.starts_with(TEXT_MODEL) || bare.starts_with(TEXT_PARTS[0]);
        if let Some(path) = text.or_else(|| is_text(bare).then_some(bare)) {
            return Ok(Self::new(Network::TextEncoder, path));
        }
        if ["down_blocks.", "up_blocks.", "mid_block.", "conv_in", "conv_out", "time_embedding."]
            .iter()
            .any(|p| bare.starts_with(p))
        {
            return Ok(Self::new(Network::Unet, bare));
        }
        bail!("`{name}` belongs to no network of SD 1.x: expected `unet.…` or `text_encoder.…`")
    }
}

/// The path behind a name whose dots were made underscores.
fn dotted(name: &str) -> String {
    let mut rest = name;
    let mut words = Vec::new();
    while !rest.is_empty() {
        let compound = COMPOUNDS
            .iter()
            .filter(|word| rest.strip_prefix(**word).is_some_and(|after| after.is_empty() || after.starts_with('_')))
            .max_by_key(|word| word.len());
        let length = compound.map_or_else(|| rest.find('_').unwrap_or(rest.len()), |word| word.len());
        words.push(&rest[..length]);
        rest = rest[length..].strip_prefix('_').unwrap_or(&rest[length..]);
    }
    words.join(".")
}

/// The layers that kohya's sd-scripts adapt by default, text encoder first: the attention and MLP of the text encoder; of every
/// transformer of the UNet the projections, both attentions and the feed-forward. 264 in SD 1.5.
pub fn lora_targets(layout: &Layout) -> Vec<Layer> {
    let mut targets = text_targets(&layout.text);
    targets.extend(unet_targets(&layout.unet));
    targets
}

/// Of the UNet: 192 in SD 1.5.
pub fn unet_targets(layout: &UnetLayout) -> Vec<Layer> {
    unet_layers(layout).into_iter().filter(|layer| layer.module.path.contains(".attentions.")).collect()
}

/// What kohya's sd-scripts adapt beside that with `conv_dim`: every convolution and linear layer of the UNet's ResNets and samplers. 86 in
/// SD 1.5.
pub fn unet_convolutions(layout: &UnetLayout) -> Vec<Layer> {
    let is_one = |path: &str| [".resnets.", ".downsamplers.", ".upsamplers."].iter().any(|part| path.contains(part));
    unet_layers(layout).into_iter().filter(|layer| is_one(&layer.module.path)).collect()
}

/// Of the text encoder: 72 in SD 1.5.
pub fn text_targets(layout: &TextLayout) -> Vec<Layer> {
    text_layers(layout).into_iter().filter(|layer| layer.module.path.contains(".layers.")).collect()
}

/// Every linear layer and convolution of the UNet, down, up, then middle.
pub fn unet_layers(layout: &UnetLayout) -> Vec<Layer> {
    layers(Network::Unet, &layout.keys(), |key| layout.names.in_file(key))
}

/// Every linear layer of the text encoder, and the two embeddings.
pub fn text_layers(layout: &TextLayout) -> Vec<Layer> {
    layers(Network::TextEncoder, &layout.keys(), |key| layout.names.in_file(key))
}

fn layers(network: Network, keys: &[Key], in_file: impl Fn(&Key) -> String) -> Vec<Layer> {
    let weights = keys.iter().filter(|key| key.shape.len() > 1);
    weights
        .filter_map(|key| {
            let path = key.diffusers.strip_suffix(".weight")?;
            Some(Layer { module: ModulePath::new(network, path), shape: key.shape.clone(), tensor: in_file(key) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::checkpoint::layout::{Naming, Style};

    fn naming() -> Naming {
        Naming { prefix: String::new(), style: Style::Diffusers }
    }

    fn sd15() -> (UnetLayout, TextLayout) {
        let unet = UnetLayout {
            in_channels: 4,
            out_channels: 4,
            channels: vec![320, 640, 1280, 1280],
            res_blocks: 2,
            attention: vec![true, true, true, false],
            context_width: 768,
            linear_projections: false,
            names: naming(),
        };
        let text = TextLayout { width: 768, layers: 12, mlp_width: 3072, positions: 77, vocabulary: 49408, names: naming() };
        (unet, text)
    }

    #[test]
    fn sd_1_5_has_kohyas_264_targets_and_their_parameters() {
        let (unet, text) = sd15();
        let convolutions = unet_convolutions(&unet);
        let is_3x3 = |layer: &&Layer| layer.shape.ends_with(&[3, 3]);
        assert_eq!((convolutions.len(), convolutions.iter().filter(is_3x3).count()), (86, 50));
        let (unet, text) = (unet_targets(&unet), text_targets(&text));
        assert_eq!((unet.len(), text.len()), (192, 72));
        assert_eq!(unet.iter().filter(|layer| layer.shape.len() == 4).count(), 32);
        let rank_8 = |layers: &[Layer]| layers.iter().map(|layer| 8 * (layer.shape[0] + layer.shape[1])).sum::<usize>();
        // Counted on kohya's own networks.
        assert_eq!((rank_8(&unet), rank_8(&text)), (3_391_488, 1_327_104));
        let names: Vec<String> = unet[..12].iter().map(|layer| layer.module.kohya()).collect();
        let block = "lora_unet_down_blocks_0_attentions_0";
        let inner =
            ["attn1", "attn2"].map(|a| ["to_q", "to_k", "to_v", "to_out_0"].map(|l| format!("transformer_blocks_0_{a}_{l}")));
        let mut expected = vec!["proj_in".to_string()];
        expected.extend(inner.into_iter().flatten());
        expected.extend(["transformer_blocks_0_ff_net_0_proj", "transformer_blocks_0_ff_net_2", "proj_out"].map(String::from));
        assert_eq!(names, expected.iter().map(|name| format!("{block}_{name}")).collect::<Vec<_>>());
    }

    #[test]
    fn every_layer_is_found_again_by_each_of_its_names() {
        let (unet, text) = sd15();
        let layers = [unet_layers(&unet), text_layers(&text)].concat();
        for Layer { module, .. } in &layers {
            assert_eq!(&ModulePath::from_kohya(&module.kohya()).unwrap(), module);
            assert_eq!(&ModulePath::from_diffusers(&module.diffusers()).unwrap(), module);
            assert_eq!(&ModulePath::from_diffusers(&format!("base_model.model.{}", module.path)).unwrap(), module);
        }
        // 44 + 3 + 3 convolutions of 3×3, 22 time projections and 14 shortcuts beside kohya's 192, the ends and the time embedding.
        assert_eq!(layers.len(), 192 + 86 + 4 + 72 + 2);
    }
}
