//! The sizes of a Stable Diffusion 1.x model, worked out from the names and shapes in its file: SD 1.5 and a model a thousandth its size
//! load by the same code. Unaware of how the networks compute.

mod keys;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::carry::scale_of;
use crate::sd::checkpoint::key::{Key, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::tensor::TensorInfo;

/// The sizes of a whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub unet: UnetLayout,
    pub vae: VaeLayout,
    pub text: TextLayout,
}

/// SD 1.5: channels 320, 640, 1280, 1280; 2 ResBlocks a level; attention on all but the last; context 768.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetLayout {
    /// 4; 9 for inpainting models.
    pub in_channels: usize,
    pub out_channels: usize,
    /// Per level, from the finest.
    pub channels: Vec<usize>,
    /// On the way down; one more on the way up.
    pub res_blocks: usize,
    /// Per level. The middle always has one.
    pub attention: Vec<bool>,
    /// Width of the text embeddings.
    pub context_width: usize,
    /// `proj_in` and `proj_out` are linear layers (SD 2.x) and not 1×1 convolutions.
    pub linear_projections: bool,
    pub names: Naming,
}

/// SD 1.5: channels 128, 256, 512, 512; 2 ResBlocks a level; 4 latent channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaeLayout {
    pub image_channels: usize,
    pub latent_channels: usize,
    /// Per level, from the finest. The picture is `2^(levels - 1)` times as wide as the latents.
    pub channels: Vec<usize>,
    /// In the encoder; the decoder has one more.
    pub res_blocks: usize,
    pub names: Naming,
}

/// SD 1.5: width 768, 12 layers, MLP 3072, 77 positions, 49,408 tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextLayout {
    pub width: usize,
    pub layers: usize,
    pub mlp_width: usize,
    pub positions: usize,
    pub vocabulary: usize,
    pub names: Naming,
}

/// How the file at hand names the tensors of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// In front of every name.
    pub prefix: String,
    pub style: Style,
}

/// Which program's names a file uses behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Ldm,
    Diffusers,
    /// diffusers before 0.15 called the VAE's attention `query`, `key`, `value`, `proj_attn`.
    OldDiffusers,
    /// The text encoder of old SD 1.x files, which lack `text_model.`.
    BareText,
}

impl Naming {
    /// The name that `key` has in the file.
    pub fn in_file(&self, key: &Key) -> String {
        let name = match self.style {
            Style::Ldm => [UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX]
                .iter()
                .find_map(|prefix| key.ldm.strip_prefix(prefix))
                .expect("every key begins with its network's prefix")
                .to_string(),
            Style::Diffusers => key.diffusers.clone(),
            Style::OldDiffusers => key
                .diffusers
                .replace(".to_q.", ".query.")
                .replace(".to_k.", ".key.")
                .replace(".to_v.", ".value.")
                .replace(".to_out.0.", ".proj_attn."),
            Style::BareText => key.diffusers.replacen("text_model.", "", 1),
        };
        format!("{}{name}", self.prefix)
    }
}

impl Layout {
    /// Works out the sizes and checks that every tensor is there with the shape they imply.
    ///
    /// # Errors
    /// Names the tensor and what was expected of it.
    pub fn infer(file: &ModelFile) -> Result<Self> {
        let attempt = || -> Result<Self> {
            Ok(Self { unet: UnetLayout::infer(file)?, vae: VaeLayout::infer(file)?, text: TextLayout::infer(file)? })
        };
        attempt().with_context(|| format!("`{}` is not a Stable Diffusion 1.x model in one file", file.path().display()))
    }
}

/// Shapes by name, with errors that say what was looked for.
struct Shapes<'a> {
    tensors: &'a BTreeMap<String, TensorInfo>,
    /// What cannot be read, with the reason.
    unreadable: &'a BTreeMap<String, String>,
}

/// The longest side of a weight that is believed, and the most levels of a network: sizes reckoned from them stay far from overflow.
const MAX_SIDE: usize = 1 << 24;
const MAX_LEVELS: usize = 16;

impl<'a> Shapes<'a> {
    fn of(file: &'a ModelFile) -> Self {
        Self { tensors: file.tensors(), unreadable: file.unreadable() }
    }

    /// Why there is no tensor of that name.
    fn lack(&self, name: &str, expected: &str) -> String {
        match self.unreadable.get(name) {
            Some(reason) => format!("tensor `{name}` cannot be read: {reason}"),
            None => format!("tensor `{name}` is missing: expected {expected}"),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether any tensor's name begins so.
    fn has_below(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    fn get<const SIDES: usize>(&self, name: &str, what: &str) -> Result<[usize; SIDES]> {
        let info = self.tensors.get(name).with_context(|| self.lack(name, what))?;
        let is_plain = info.shape.iter().all(|side| (1..=MAX_SIDE).contains(side));
        let shape = info.shape.as_slice().try_into().ok().filter(|_| is_plain);
        shape.with_context(|| format!("tensor `{name}` has shape {}: expected {what}", info.sides()))
    }

    /// Finds which of some names, each with a prefix and style it stands for, is there.
    fn naming(&self, network: &str, marks: &[(&str, &str, Style)]) -> Result<Naming> {
        for (prefix, mark, style) in marks {
            if self.has(&format!("{prefix}{mark}")) {
                return Ok(Naming { prefix: prefix.to_string(), style: *style });
            }
        }
        if self.tensors.keys().any(|name| name.starts_with("conditioner.embedders.")) {
            bail!("this is an SDXL model (it has `conditioner.embedders.…`): SD 1.x is needed");
        }
        if self.tensors.keys().any(|name| name.starts_with("cond_stage_model.model.")) && network == "text encoder" {
            bail!("its text encoder is OpenCLIP (`cond_stage_model.model.…`, SD 2.x): CLIP ViT-L as in SD 1.x is needed");
        }
        let (prefix, mark, _) = marks[0];
        let has: Vec<&str> = self.tensors.keys().take(3).map(String::as_str).collect();
        bail!(
            "it has no {network}: expected `{prefix}{mark}` or its counterpart in diffusers; it begins with `{}`",
            has.join("`, `")
        )
    }

    /// That every key is there with its shape; a 1×1 convolution may be a linear layer.
    fn verify(&self, names: &Naming, keys: &[Key]) -> Result<()> {
        let mut problems = Vec::new();
        for key in keys {
            let name = names.in_file(key);
            match self.tensors.get(&name) {
                None => problems.push(self.lack(&name, &format!("shape {:?}", key.shape))),
                Some(info) if squeezed(&info.shape) != squeezed(&key.shape) => {
                    problems.push(format!("tensor `{name}` has shape {}: expected {:?}", info.sides(), key.shape));
                }
                Some(info) if !info.dtype.holds_floats() => {
                    problems.push(format!("tensor `{name}` is {}: expected F16, BF16, F32 or F64", info.dtype.name()));
                }
                Some(info) if info.dtype.is_float8() => problems.extend(scale_of(self.tensors, &name).map(|scale| {
                    format!("tensor `{name}` is {} and scaled by `{scale}`: expected the model in fp16", info.dtype.name())
                })),
                Some(_) => {}
            }
        }
        let Some(first) = problems.first() else { return Ok(()) };
        match problems.len() {
            1 => bail!("{first}"),
            count => bail!("{first} (and {} more like it)", count - 1),
        }
    }
}

/// Without the trailing 1×1 of a convolution.
pub(super) fn squeezed(shape: &[usize]) -> &[usize] {
    shape.strip_suffix(&[1, 1]).filter(|rest| rest.len() == 2).unwrap_or(shape)
}

/// What a walk down one side of a network meets on one level.
struct Level {
    /// The weights of the last convolution of each block.
    convolutions: Vec<String>,
    /// The attention behind each block, if there is one.
    attentions: Vec<Option<String>>,
}

impl Level {
    /// Channels and attention of the level, the same for all its blocks.
    fn sizes(&self, shapes: &Shapes<'_>) -> Result<(usize, bool)> {
        let [channels, ..] = shapes.get::<4>(&self.convolutions[0], "a 3×3 convolution")?;
        let attention = self.attentions[0].is_some();
        for (convolution, other) in self.convolutions.iter().zip(&self.attentions) {
            let [other_channels, ..] = shapes.get::<4>(convolution, "a 3×3 convolution")?;
            ensure!(other_channels == channels, "tensor `{convolution}` has {other_channels} channels: its level has {channels}");
            ensure!(
                other.is_some() == attention,
                "the block of `{convolution}` differs in attention from the others of its level"
            );
        }
        Ok((channels, attention))
    }
}

/// The same number of blocks on every level.
fn blocks_per_level(levels: &[Level]) -> Result<usize> {
    let count = levels.first().map_or(0, |level| level.convolutions.len());
    ensure!(count > 0, "its first level has no ResBlock");
    ensure!(levels.len() <= MAX_LEVELS, "it has {} levels: expected at most {MAX_LEVELS}", levels.len());
    for level in levels {
        let here = level.convolutions.len();
        ensure!(here == count, "the level of `{}` has {here} ResBlocks, the first has {count}", level.convolutions[0]);
    }
    Ok(count)
}

impl UnetLayout {
    /// Of the UNet in `file`: LDM's or diffusers' names, in a whole model or alone.
    pub fn infer(file: &ModelFile) -> Result<Self> {
        let shapes = Shapes::of(file);
        let names = shapes.naming(
            "UNet",
            &[
                (UNET_PREFIX, "input_blocks.0.0.weight", Style::Ldm),
                ("", "input_blocks.0.0.weight", Style::Ldm),
                ("unet.", "time_embedding.linear_1.weight", Style::Diffusers),
                ("", "time_embedding.linear_1.weight", Style::Diffusers),
            ],
        )?;
        let at = |name: &str| format!("{}{name}", names.prefix);
        let (levels, first, middle, last) = match names.style {
            Style::Ldm => (Self::levels_ldm(&shapes, &names.prefix), "input_blocks.0.0", "middle_block.1", "out.2"),
            Style::Diffusers | Style::OldDiffusers | Style::BareText => {
                (Self::levels_diffusers(&shapes, &names.prefix), "conv_in", "mid_block.attentions.0", "conv_out")
            }
        };
        let res_blocks = blocks_per_level(&levels)?;
        let sizes: Vec<(usize, bool)> = levels.iter().map(|level| level.sizes(&shapes)).collect::<Result<_>>()?;
        let [_, in_channels, ..] = shapes.get::<4>(&at(&format!("{first}.weight")), "a 3×3 convolution")?;
        let [out_channels, ..] = shapes.get::<4>(&at(&format!("{last}.weight")), "a 3×3 convolution")?;
        let middle = at(middle);
        let to_k = format!("{middle}.transformer_blocks.0.attn2.to_k.weight");
        let [_, context_width] = shapes.get(&to_k, "the text's keys in the middle")?;
        let projection = format!("{middle}.proj_in.weight");
        let linear_projections = shapes.tensors.get(&projection).is_some_and(|info| info.shape.len() == 2);
        let (channels, attention) = sizes.into_iter().unzip();
        let layout =
            Self { in_channels, out_channels, channels, res_blocks, attention, context_width, linear_projections, names };
        shapes.verify(&layout.names, &layout.keys())?;
        Ok(layout)
    }

    fn levels_ldm(shapes: &Shapes<'_>, prefix: &str) -> Vec<Level> {
        let mut levels = vec![Level { convolutions: Vec::new(), attentions: Vec::new() }];
        for block in 1.. {
            let block = format!("{prefix}input_blocks.{block}");
            let level = levels.last_mut().expect("it begins with one");
            if shapes.has_below(&format!("{block}.0.op.")) && !level.convolutions.is_empty() {
                levels.push(Level { convolutions: Vec::new(), attentions: Vec::new() });
            } else if shapes.has_below(&format!("{block}.0.")) {
                level.convolutions.push(format!("{block}.0.out_layers.3.weight"));
                level.attentions.push(Some(format!("{block}.1.")).filter(|attention| shapes.has_below(attention)));
            } else {
                break;
            }
        }
        levels.retain(|level| !level.convolutions.is_empty());
        levels
    }

    fn levels_diffusers(shapes: &Shapes<'_>, prefix: &str) -> Vec<Level> {
        let block = |level: usize, index: usize| {
            let (block, attention) = (
                format!("{prefix}down_blocks.{level}.resnets.{index}."),
                format!("{prefix}down_blocks.{level}.attentions.{index}."),
            );
            let attention = Some(attention).filter(|attention| shapes.has_below(attention));
            shapes.has_below(&block).then(|| (format!("{block}conv2.weight"), attention))
        };
        let level = |level: usize| {
            let (convolutions, attentions): (Vec<_>, Vec<_>) = (0..).map_while(|index| block(level, index)).unzip();
            (!convolutions.is_empty()).then_some(Level { convolutions, attentions })
        };
        (0..).map_while(level).collect()
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        4 * self.channels[0]
    }

    /// Attention heads at a width: 8 in SD 1.x, 64 channels a head in SD 2.x.
    pub fn heads(&self, width: usize) -> usize {
        if self.linear_projections { width / 64 } else { 8 }
    }
}

impl VaeLayout {
    /// Of the VAE in `file`: a whole model, or a `.vae.pt` whose names lack `first_stage_model.`.
    pub fn infer(file: &ModelFile) -> Result<Self> {
        let shapes = Shapes::of(file);
        let (ldm, diffusers) = ("encoder.down.0.block.0.conv2.weight", "encoder.down_blocks.0.resnets.0.conv2.weight");
        let mut names = shapes.naming(
            "VAE",
            &[
                (VAE_PREFIX, ldm, Style::Ldm),
                ("", ldm, Style::Ldm),
                ("vae.", diffusers, Style::Diffusers),
                ("", diffusers, Style::Diffusers),
            ],
        )?;
        let at = |name: &str| format!("{}{name}", names.prefix);
        if names.style == Style::Diffusers && shapes.has(&at("encoder.mid_block.attentions.0.query.weight")) {
            names.style = Style::OldDiffusers;
        }
        let at = |name: &str| format!("{}{name}", names.prefix);
        let block = |level: usize, index: usize| match names.style {
            Style::Ldm => at(&format!("encoder.down.{level}.block.{index}.")),
            Style::Diffusers | Style::OldDiffusers | Style::BareText => {
                at(&format!("encoder.down_blocks.{level}.resnets.{index}."))
            }
        };
        let level = |level: usize| {
            let blocks = (0..).map(|index| block(level, index)).take_while(|block| shapes.has_below(block));
            let convolutions: Vec<String> = blocks.map(|block| format!("{block}conv2.weight")).collect();
            let attentions = vec![None; convolutions.len()];
            (!convolutions.is_empty()).then_some(Level { convolutions, attentions })
        };
        let levels: Vec<Level> = (0..).map_while(level).collect();
        let res_blocks = blocks_per_level(&levels)?;
        let sizes: Vec<(usize, bool)> = levels.iter().map(|level| level.sizes(&shapes)).collect::<Result<_>>()?;
        let [_, image_channels, ..] = shapes.get::<4>(&at("encoder.conv_in.weight"), "a 3×3 convolution")?;
        let [_, latent_channels, ..] = shapes.get::<4>(&at("decoder.conv_in.weight"), "a 3×3 convolution")?;
        let channels = sizes.into_iter().map(|(channels, _)| channels).collect();
        let layout = Self { image_channels, latent_channels, channels, res_blocks, names: names.clone() };
        shapes.verify(&layout.names, &layout.keys())?;
        Ok(layout)
    }

    /// How many times wider the picture is than its latents: 8 in SD 1.5.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

impl TextLayout {
    /// Of the CLIP text encoder in `file`.
    pub fn infer(file: &ModelFile) -> Result<Self> {
        let shapes = Shapes::of(file);
        let (whole, bare) = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight");
        let names = shapes.naming(
            "text encoder",
            &[
                (TEXT_PREFIX, whole, Style::Diffusers),
                (TEXT_PREFIX, bare, Style::BareText),
                ("text_encoder.", whole, Style::Diffusers),
                ("text_encoder.", bare, Style::BareText),
                ("", whole, Style::Diffusers),
                ("", bare, Style::BareText),
            ],
        )?;
        let inner = match names.style {
            Style::BareText => "",
            Style::Ldm | Style::Diffusers | Style::OldDiffusers => "text_model.",
        };
        let at = |name: &str| format!("{}{inner}{name}", names.prefix);
        let [vocabulary, width] = shapes.get(&at("embeddings.token_embedding.weight"), "one row per token")?;
        let [positions, _] = shapes.get(&at("embeddings.position_embedding.weight"), "one row per position")?;
        let fc1 = |layer: usize| at(&format!("encoder.layers.{layer}.mlp.fc1.weight"));
        let layers = (0..).take_while(|layer| shapes.has(&fc1(*layer))).count();
        ensure!(layers > 0, "tensor `{}` is missing: expected the first layer of the text encoder", fc1(0));
        let [mlp_width, _] = shapes.get(&fc1(0), "a linear layer")?;
        ensure!(width.is_multiple_of(64), "the text encoder is {width} wide: expected a multiple of 64, the width of a head");
        let layout = Self { width, layers, mlp_width, positions, vocabulary, names };
        shapes.verify(&layout.names, &layout.keys())?;
        Ok(layout)
    }

    /// Attention heads: CLIP has 64 channels in each.
    pub fn heads(&self) -> usize {
        self.width / 64
    }
}
