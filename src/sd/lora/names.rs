//! What the name of a tensor in a LoRA file means: which layer, and which of its factors. The names of kohya, diffusers, peft, ComfyUI and
//! cloneofsimo through the years. Unaware of values, and of the model whose layers are named.

use anyhow::{Result, bail};

use crate::sd::checkpoint::modules::{ModulePath, Network};

/// A layer as a file names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// By its path in diffusers: the same in every model.
    Layer(ModulePath),
    /// By its path in LDM, of the UNet: `input_blocks.1.1.proj_in`. LDM counts blocks through, so which layer that is depends on how many
    /// a model has on each level.
    Ldm(String),
    /// By its place among the layers that cloneofsimo's LoRA adapts; `None` where the file does not say of which network.
    Numbered(Option<Network>, usize),
}

/// Which of a layer's tensors a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Down,
    Up,
    Alpha,
}

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    Part(Address, Part),
    /// A textual-inversion embedding that came along, by its word.
    Embedding(String),
}

/// In front of every name that peft gives.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// Endings of names, of kohya, of diffusers and of peft. Behind `lora_A` may stand the name of an adapter.
const ENDINGS: &[(&str, Part)] = &[
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".alpha", Part::Alpha),
];

/// The names of diffusers' first LoRA files, `….attn1.processor.to_q_lora.down.weight`: the layer is named by the middle.
const PROCESSORS: &[(&str, &str)] =
    &[("to_q_lora", "to_q"), ("to_k_lora", "to_k"), ("to_v_lora", "to_v"), ("to_out_lora", "to_out.0")];

/// Parts of names that only other kinds of adapters have, and what those are called. Sources: LyCORIS' modules, peft's tuners.
const OTHER_KINDS: &[(&str, &str)] = &[
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    ("hada_", "a LoHa"),
    ("lokr_", "a LoKr"),
    (".on_input", "an IA3"),
    (".ia3_", "an IA3"),
    ("lora_mid", "a LoCon with a Tucker decomposition"),
    ("oft_", "an OFT"),
    ("boft_", "a BOFT"),
    ("vera_lambda", "a VeRA"),
    (".glora_", "a GLoRA"),
    (".a1.weight", "a GLoRA"),
    (".b1.weight", "a GLoRA"),
    (".diff", "an adapter with full weights"),
    (".w_norm", "an adapter with norms"),
    (".b_norm", "an adapter with norms"),
    (".set_weight", "an adapter with full weights"),
    (".bias", "a LoRA with biases"),
];

/// Beginnings of names that only adapters of other models have.
const OTHER_MODELS: &[(&str, &str)] = &[
    ("lora_te2_", "SDXL (its second text encoder)"),
    ("text_encoder_2.", "SDXL (its second text encoder)"),
    ("lora_te3_", "SD3"),
    ("text_encoder_3.", "SD3"),
    ("lora_unet_joint_blocks", "SD3"),
    ("lora_unet_double_blocks", "Flux"),
    ("lora_unet_single_blocks", "Flux"),
    ("diffusion_model.double_blocks", "Flux"),
    ("diffusion_model.single_blocks", "Flux"),
    ("diffusion_model.joint_blocks", "SD3"),
    ("lora_transformer_", "a transformer (SD3, Flux and later)"),
    ("transformer.", "a transformer (SD3, Flux and later)"),
    ("lora_prior_", "Stable Cascade"),
];

/// Reads a name.
///
/// # Errors
/// If it belongs to another kind of adapter or to another model, which are named, or to nothing known.
pub fn meaning(name: &str) -> Result<Meaning> {
    if let Some(word) = embedding(name) {
        return Ok(Meaning::Embedding(word));
    }
    if let Some((address, part)) = numbered(name) {
        return Ok(Meaning::Part(address, part));
    }
    if let Some((_, model)) =
        OTHER_MODELS.iter().find(|(prefix, _)| name.strip_prefix(PEFT_PREFIX).unwrap_or(name).starts_with(prefix))
    {
        bail!("tensor `{name}` belongs to {model}: this program knows LoRAs of Stable Diffusion 1.x and 2.x");
    }
    for (word, layer) in PROCESSORS {
        for (end, part) in [("down", Part::Down), ("up", Part::Up)] {
            if let Some(path) = name.strip_suffix(&format!(".processor.{word}.{end}.weight")) {
                return Ok(Meaning::Part(layer_address(&format!("{path}.{layer}"))?, part));
            }
        }
    }
    let plain = without_adapter_name(name);
    for (ending, part) in ENDINGS {
        if let Some(module) = plain.strip_suffix(ending) {
            return Ok(Meaning::Part(layer_address(module)?, *part));
        }
    }
    // The last two words: an adapter's own, where the rest is the layer's.
    let own = name.rmatch_indices('.').nth(1).map_or(name, |(at, _)| &name[at..]);
    if let Some((_, kind)) = OTHER_KINDS.iter().find(|(word, _)| own.contains(word)) {
        bail!("tensor `{name}` belongs to {kind}, which is no LoRA: LoRA and LoCon are read");
    }
    // An IA3 of LyCORIS: a vector called as the layer's own weight.
    if name.starts_with("lora_") && name.ends_with(".weight") {
        bail!("tensor `{name}` belongs to an IA3 or to full weights, which are no LoRA: LoRA and LoCon are read");
    }
    bail!("tensor `{name}` is no part of a LoRA: expected names like `lora_unet_….lora_down.weight` or `unet.….lora_A.weight`")
}

/// `….lora_A.default.weight`, as peft calls it in memory, to `….lora_A.weight`.
fn without_adapter_name(name: &str) -> String {
    for factor in [".lora_A.", ".lora_B."] {
        if let Some((module, rest)) = name.rsplit_once(factor)
            && let Some(adapter) = rest.strip_suffix(".weight")
            && !adapter.contains('.')
        {
            return format!("{module}{factor}weight");
        }
    }
    name.to_string()
}

/// `bundle_emb.zxy.string_to_param.*`: ComfyUI's and webui's bundles.
fn embedding(name: &str) -> Option<String> {
    let rest = name.strip_prefix("bundle_emb.")?;
    Some(rest.split_once(".string_to_param").map_or(rest, |(word, _)| word).to_string())
}

/// `unet:12:up`, and a bare number of a list: up, down, up, down. cloneofsimo/lora, `lora_diffusion/lora.py`.
fn numbered(name: &str) -> Option<(Address, Part)> {
    if name.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(place) = name.parse::<usize>()
    {
        let part = if place.is_multiple_of(2) { Part::Up } else { Part::Down };
        return Some((Address::Numbered(None, place / 2), part));
    }
    let mut words = name.split(':');
    let network = match words.next()? {
        "unet" => Network::Unet,
        "text_encoder" => Network::TextEncoder,
        _ => return None,
    };
    let index = words.next()?.parse().ok()?;
    let part = match words.next()? {
        "up" => Part::Up,
        "down" => Part::Down,
        _ => return None,
    };
    words.next().is_none().then_some((Address::Numbered(Some(network), index), part))
}

/// The layer that a name without its ending means.
fn layer_address(module: &str) -> Result<Address> {
    let module = if module.starts_with("lora_") {
        ModulePath::from_kohya(module)?
    } else {
        let bare = module.strip_prefix(PEFT_PREFIX).unwrap_or(module);
        // ComfyUI names layers as the model's own file does.
        let ldm = bare.strip_prefix("model.").unwrap_or(bare).strip_prefix("diffusion_model.");
        if let Some(path) = ldm.filter(|path| is_ldm(path)) {
            return Ok(Address::Ldm(path.to_string()));
        }
        let clip = bare.strip_prefix("text_encoders.").unwrap_or(bare).strip_prefix("clip_l.transformer.");
        match clip {
            Some(path) => ModulePath::new(Network::TextEncoder, path),
            None => ModulePath::from_diffusers(bare)?,
        }
    };
    Ok(match module.network {
        Network::Unet if is_ldm(&module.path) => Address::Ldm(module.path),
        Network::Unet | Network::TextEncoder => Address::Layer(module),
    })
}

/// Whether a path of the UNet is one of LDM.
fn is_ldm(path: &str) -> bool {
    matches!(path.split('.').next(), Some("input_blocks" | "middle_block" | "output_blocks" | "time_embed" | "out" | "label_emb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> Address {
        match meaning(name) {
            Ok(Meaning::Part(address, _)) => address,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn refused(name: &str) -> String {
        meaning(name).expect_err(name).to_string()
    }

    #[test]
    fn a_layer_is_the_same_by_every_programs_name() {
        let to_q = Address::Layer(ModulePath::new(Network::Unet, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"));
        for name in [
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
            "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.default_0.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
        ] {
            assert_eq!(address(name), to_q, "{name}");
        }
        let q_proj = Address::Layer(ModulePath::new(Network::TextEncoder, "text_model.encoder.layers.0.self_attn.q_proj"));
        for name in [
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha",
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
            // transformers 5 dropped `text_model`.
            "lora_te_encoder_layers_0_self_attn_q_proj.lora_up.weight",
            "text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_up.weight",
        ] {
            assert_eq!(address(name), q_proj, "{name}");
        }
    }

    #[test]
    fn names_of_ldm_and_numbers_stay_what_they_are_until_the_model_is_known() {
        let ldm = Address::Ldm("input_blocks.1.1.transformer_blocks.0.ff.net.0.proj".into());
        for name in [
            "lora_unet_input_blocks_1_1_transformer_blocks_0_ff_net_0_proj.lora_up.weight",
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.lora_B.weight",
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.alpha",
        ] {
            assert_eq!(address(name), ldm, "{name}");
        }
        assert_eq!(address("lora_unet_input_blocks_3_0_op.alpha"), Address::Ldm("input_blocks.3.0.op".into()));
        let part = |name: &str| meaning(name).unwrap();
        assert_eq!(part("unet:12:up"), Meaning::Part(Address::Numbered(Some(Network::Unet), 12), Part::Up));
        assert_eq!(part("7"), Meaning::Part(Address::Numbered(None, 3), Part::Down));
        assert_eq!(part("bundle_emb.zxy.string_to_param.*"), Meaning::Embedding("zxy".into()));
    }

    #[test]
    fn other_kinds_and_other_models_are_named() {
        let layer = "lora_unet_mid_block_attentions_0_proj_in";
        for (ending, kind) in [
            ("dora_scale", "a DoRA"),
            ("hada_w1_a", "a LoHa"),
            ("lokr_w1", "a LoKr"),
            ("on_input", "an IA3"),
            ("weight", "an IA3"),
            ("lora_mid.weight", "Tucker"),
            ("oft_blocks", "an OFT"),
            ("diff_b", "full weights"),
        ] {
            let error = refused(&format!("{layer}.{ending}"));
            assert!(error.contains(kind) && error.ends_with("LoRA and LoCon are read"), "{error}");
        }
        assert!(refused("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector").contains("a DoRA"));
        for (name, model) in [
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "SDXL"),
            ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
            ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "SD3"),
        ] {
            assert!(refused(name).contains(&format!("belongs to {model}")) || refused(name).contains(model), "{name}");
        }
        assert!(refused("optimizer.state").contains("is no part of a LoRA"));
    }
}
