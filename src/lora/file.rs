//! A LoRA in memory: for every adapted layer its two factors and alpha. Reads the names of kohya, diffusers and peft, writes any of them.
//! Unaware of the model it was trained on.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::checkpoint::model_file::ModelFile;
use crate::checkpoint::modules::{ModulePath, Network};
use crate::checkpoint::tensor::{Dtype, TensorData};
use crate::checkpoint::{keys, metadata};
use crate::lora::matrix::Matrix;

/// The factors of one layer. Its weight changes by `strength · alpha / rank · up · down`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `[rank, in · height · width]`
    pub down: Matrix,
    /// `[out, rank]`
    pub up: Matrix,
    pub alpha: f32,
    /// Height and width of the layer's kernel, if it is a convolution.
    pub kernel: Option<[usize; 2]>,
}

/// A whole LoRA file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lora {
    pub modules: BTreeMap<ModulePath, LoraModule>,
    pub metadata: BTreeMap<String, String>,
}

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraNames {
    /// `lora_unet_….lora_down.weight`, with alpha: webui, sd-scripts, ComfyUI, diffusers.
    Kohya,
    /// `unet.….lora_A.weight`: what diffusers itself saves. Has no alpha, so the scale moves into `up`.
    Diffusers,
}

impl LoraModule {
    pub fn rank(&self) -> usize {
        self.up.columns
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    /// `[out, in]` or `[out, in, height, width]` of the layer it adapts.
    pub fn weight_shape(&self) -> Vec<usize> {
        match self.kernel {
            None => vec![self.up.rows, self.down.columns],
            Some([height, width]) => vec![self.up.rows, self.down.columns / (height * width), height, width],
        }
    }

    /// The change of the weight at strength 1: `[out, in · height · width]`.
    pub fn delta(&self) -> Matrix {
        let mut delta = self.up.times(&self.down);
        let scale = self.scale();
        delta.values.iter_mut().for_each(|value| *value *= scale);
        delta
    }
}

/// Which of a module's tensors a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Factor {
    Down,
    Up,
    Alpha,
}

/// Endings of names, of kohya and of diffusers and peft through the years.
const ENDINGS: &[(&str, Factor)] = &[
    (".lora_down.weight", Factor::Down),
    (".lora_up.weight", Factor::Up),
    (".lora_A.weight", Factor::Down),
    (".lora_B.weight", Factor::Up),
    (".lora_A.default.weight", Factor::Down),
    (".lora_B.default.weight", Factor::Up),
    (".lora.down.weight", Factor::Down),
    (".lora.up.weight", Factor::Up),
    (".lora_linear_layer.down.weight", Factor::Down),
    (".lora_linear_layer.up.weight", Factor::Up),
    (".alpha", Factor::Alpha),
];

/// The names of diffusers' first LoRA files, `….attn1.processor.to_q_lora.down.weight`: the layer is named by the middle.
const PROCESSORS: &[(&str, &str)] =
    &[("to_q_lora", "to_q"), ("to_k_lora", "to_k"), ("to_v_lora", "to_v"), ("to_out_lora", "to_out.0")];

fn parse(name: &str) -> Result<(ModulePath, Factor)> {
    for (word, layer) in PROCESSORS {
        for (end, factor) in [("down", Factor::Down), ("up", Factor::Up)] {
            if let Some(path) = name.strip_suffix(&format!(".processor.{word}.{end}.weight")) {
                return Ok((ModulePath::from_diffusers(&format!("{path}.{layer}"))?, factor));
            }
        }
    }
    for (ending, factor) in ENDINGS {
        if let Some(module) = name.strip_suffix(ending) {
            let module = match module.starts_with("lora_") {
                true => ModulePath::from_kohya(module)?,
                false => ModulePath::from_diffusers(module)?,
            };
            return Ok((module, *factor));
        }
    }
    for (word, kind) in [("hada_", "LoHa"), ("lokr_", "LoKr"), ("dora_scale", "DoRA"), ("lora_mid", "a Tucker-decomposed LoCon")]
    {
        if name.contains(word) {
            bail!("tensor `{name}` belongs to {kind}: only LoRA and LoCon are supported");
        }
    }
    bail!("tensor `{name}` is no part of a LoRA: expected names like `lora_unet_….lora_down.weight` or `unet.….lora_A.weight`")
}

/// What the tensors of a LoRA tell without their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    pub text_encoder_modules: usize,
    pub unet_modules: usize,
    /// Smallest and largest.
    pub ranks: (usize, usize),
    /// Smallest and largest of those that are written; `None` if none is.
    pub alphas: Option<(f64, f64)>,
}

/// `None` if it is no LoRA.
///
/// # Errors
/// If an alpha cannot be read.
pub fn outline(file: &ModelFile) -> Result<Option<Outline>> {
    let mut modules = BTreeSet::new();
    let mut ranks: Vec<usize> = Vec::new();
    let mut alphas: Vec<f64> = Vec::new();
    for (name, info) in file.tensors() {
        let Ok((module, factor)) = parse(name) else { return Ok(None) };
        match factor {
            Factor::Down => ranks.extend(info.shape.first()),
            Factor::Alpha => alphas.extend(file.read(name)?.to_f32()?.first().map(|alpha| f64::from(*alpha))),
            Factor::Up => {}
        }
        modules.insert(module);
    }
    let (Some(least), Some(most)) = (ranks.iter().min(), ranks.iter().max()) else { return Ok(None) };
    let unet_modules = modules.iter().filter(|module| module.network == Network::Unet).count();
    let range = alphas.iter().copied().reduce(f64::min).zip(alphas.iter().copied().reduce(f64::max));
    Ok(Some(Outline { text_encoder_modules: modules.len() - unet_modules, unet_modules, ranks: (*least, *most), alphas: range }))
}

impl Lora {
    /// Reads a LoRA.
    ///
    /// # Errors
    /// If a tensor belongs to no LoRA, a factor is missing, shapes do not fit, or a value is not finite.
    pub fn read(file: &ModelFile) -> Result<Self> {
        Self::read_inner(file).with_context(|| format!("reading the LoRA `{}`", file.path().display()))
    }

    fn read_inner(file: &ModelFile) -> Result<Self> {
        if file.tensors().contains_key("0") && file.tensors().contains_key("1") {
            bail!(
                "it is a list without names, as sd_dreambooth_extension wrote it: which layer a factor belongs to is not in the file; \
                 use the checkpoint that its Generate Ckpt makes, and `extract`"
            );
        }
        let mut parts: BTreeMap<ModulePath, BTreeMap<Factor, TensorData>> = BTreeMap::new();
        for name in file.tensors().keys() {
            let (module, factor) = parse(name)?;
            let old = parts.entry(module).or_default().insert(factor, file.read(name)?);
            ensure!(old.is_none(), "tensor `{name}` is there under two names");
        }
        ensure!(!parts.is_empty(), "it has no tensors");
        let alphas = Alphas::of(file.metadata())?;
        let mut modules = BTreeMap::new();
        for (module, mut factors) in parts {
            let alpha = match factors.remove(&Factor::Alpha) {
                Some(tensor) => *tensor.to_f32()?.first().with_context(|| format!("module `{module}`: its alpha is empty"))?,
                None => alphas.of_module(&module),
            };
            let read = LoraModule::assemble(factors.remove(&Factor::Down), factors.remove(&Factor::Up), alpha);
            modules.insert(module.clone(), read.with_context(|| format!("module `{module}`"))?);
        }
        Ok(Self { modules, metadata: file.metadata().clone() })
    }

    /// The largest rank of its modules.
    pub fn rank(&self) -> usize {
        self.modules.values().map(LoraModule::rank).max().unwrap_or(0)
    }

    /// The tensors of a file, under `names`, in `dtype`.
    ///
    /// # Errors
    /// If a value is too large for `dtype`.
    pub fn tensors(&self, names: LoraNames, dtype: Dtype) -> Result<BTreeMap<String, TensorData>> {
        let mut tensors = BTreeMap::new();
        for (module, factors) in &self.modules {
            let rank = factors.rank();
            let down_shape = match factors.kernel {
                None => vec![rank, factors.down.columns],
                Some([height, width]) => vec![rank, factors.down.columns / (height * width), height, width],
            };
            let mut up_shape = vec![factors.up.rows, rank];
            if factors.kernel.is_some() {
                up_shape.extend([1, 1]);
            }
            let mut up = factors.up.values.clone();
            let (base, down_name, up_name) = match names {
                LoraNames::Kohya => (module.kohya(), "lora_down.weight", "lora_up.weight"),
                LoraNames::Diffusers => {
                    let scale = factors.scale();
                    up.iter_mut().for_each(|value| *value *= scale);
                    (module.diffusers(), "lora_A.weight", "lora_B.weight")
                }
            };
            let mut add = |name: &str, shape: &[usize], values: &[f32]| -> Result<()> {
                let name = format!("{base}.{name}");
                let tensor = TensorData::from_f32(shape, values).cast(dtype).with_context(|| format!("tensor `{name}`"))?;
                tensors.insert(name, tensor);
                Ok(())
            };
            add(down_name, &down_shape, &factors.down.values)?;
            add(up_name, &up_shape, &up)?;
            if names == LoraNames::Kohya {
                add("alpha", &[], &[factors.alpha])?;
            }
        }
        Ok(tensors)
    }

    /// kohya's metadata for this LoRA, with hashes over `tensors`. `more` is added and wins.
    pub fn kohya_metadata(
        &self,
        tensors: &BTreeMap<String, TensorData>,
        more: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>> {
        let alpha = self.modules.values().map(|module| f64::from(module.alpha)).fold(0.0, f64::max);
        let mut metadata = metadata::of_lora(self.rank(), alpha, more);
        metadata::add_hashes(tensors, &mut metadata)?;
        Ok(metadata)
    }
}

impl LoraModule {
    fn assemble(down: Option<TensorData>, up: Option<TensorData>, alpha: f32) -> Result<Self> {
        let down = down.context("it has no down factor (`lora_down.weight`)")?;
        let up = up.context("it has no up factor (`lora_up.weight`)")?;
        let rank = *down.shape.first().context("its down factor is a single number")?;
        let fits = up.shape.len() >= 2 && up.shape[1] == rank && rank > 0 && up.shape[2..].iter().all(|side| *side == 1);
        ensure!(fits, "its factors do not fit: down {:?}, up {:?}", down.shape, up.shape);
        let kernel = match down.shape[..] {
            [_, _] => None,
            [_, _, height, width] => Some([height, width]),
            _ => bail!("its down factor has shape {:?}: expected two or four sides", down.shape),
        };
        let columns = down.shape[1..].iter().product();
        let (down, up) = (
            Matrix::new(rank, columns, down.to_f32().context("its down factor")?),
            Matrix::new(up.shape[0], rank, up.to_f32().context("its up factor")?),
        );
        let finite = down.values.iter().chain(&up.values).chain([&alpha]).all(|value| value.is_finite());
        ensure!(finite, "it holds a value that is not finite: the training that made it broke");
        // kohya writes 0 or nothing where alpha shall be the rank.
        let alpha = if alpha == 0.0 { rank as f32 } else { alpha };
        Ok(Self { down, up, alpha, kernel })
    }
}

/// What diffusers notes in `lora_adapter_metadata`: alpha by network, and by module where it differs.
struct Alphas {
    notes: serde_json::Map<String, serde_json::Value>,
}

impl Alphas {
    fn of(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let notes = match metadata.get("lora_adapter_metadata") {
            Some(text) => serde_json::from_str(text).context("its `lora_adapter_metadata` is no JSON object")?,
            None => serde_json::Map::new(),
        };
        Ok(Self { notes })
    }

    /// 0 where nothing is noted.
    fn of_module(&self, module: &ModulePath) -> f32 {
        let full = module.diffusers();
        let network = full.split('.').next().expect("split gives at least one part");
        let number = |value: &serde_json::Value| value.as_f64().map(|value| value as f32);
        let patterns = self.notes.get(&format!("{network}.alpha_pattern")).and_then(serde_json::Value::as_object);
        let special = patterns.and_then(|patterns| {
            let mine = |pattern: &str| module.path == pattern || module.path.ends_with(&format!(".{pattern}"));
            patterns.iter().find(|(pattern, _)| mine(pattern)).and_then(|(_, value)| number(value))
        });
        special.or_else(|| self.notes.get(&format!("{network}.lora_alpha")).and_then(number)).unwrap_or(0.0)
    }
}

/// A LoRA file in other names (`None` keeps them, and then any kind of LoRA will do) and another type (`None` keeps each tensor's): its
/// tensors and metadata.
///
/// # Errors
/// If it is no LoRA, or a value is too large for `dtype`.
pub fn converted(
    file: &ModelFile,
    names: Option<LoraNames>,
    dtype: Option<Dtype>,
) -> Result<(BTreeMap<String, TensorData>, BTreeMap<String, String>)> {
    let first = file.tensors().keys().next().with_context(|| format!("`{}` holds no tensors", file.path().display()))?;
    let is_model = file.tensors().keys().any(|name| name.starts_with(keys::UNET_PREFIX) || name.starts_with(keys::VAE_PREFIX));
    ensure!(!is_model, "`{}` is a model and no LoRA (it has `{first}`): give it as `from`", file.path().display());
    let (tensors, mut metadata) = match names {
        None => {
            let mut tensors = BTreeMap::new();
            for name in file.tensors().keys() {
                let tensor = file.read(name)?;
                let tensor = if let Some(dtype) = dtype { tensor.cast(dtype) } else { Ok(tensor) };
                tensors.insert(name.clone(), tensor.with_context(|| format!("tensor `{name}` of `{}`", file.path().display()))?);
            }
            (tensors, file.metadata().clone())
        }
        Some(names) => {
            let lora = Lora::read(file)?;
            let widest = file.tensors().values().map(|info| info.dtype).filter(|dtype| dtype.is_float()).max();
            let tensors = lora.tensors(names, dtype.or(widest).unwrap_or(Dtype::F32))?;
            let mut metadata = lora.metadata.clone();
            // Its scale is now in alpha or in the factors.
            metadata.remove("lora_adapter_metadata");
            if names == LoraNames::Kohya {
                metadata = lora.kohya_metadata(&tensors, &metadata)?;
            }
            (tensors, metadata)
        }
    };
    if metadata.contains_key("sshs_model_hash") {
        metadata::add_hashes(&tensors, &mut metadata)?;
    }
    Ok((tensors, metadata))
}
