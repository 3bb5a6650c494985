//! A LoRA in memory: for every adapted layer its two factors and alpha. Reads whatever `names` knows, writes kohya's or diffusers' names.
//! Unaware of how names and numbers become layers of a model.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::carry::refuse_unreadable;
use crate::sd::checkpoint::metadata;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::modules::{ModulePath, Network};
use crate::sd::checkpoint::tensor::{Dtype, TensorData};
use crate::sd::lora::adapter_config::{self, AdapterConfig};
use crate::sd::lora::matrix::Matrix;
use crate::sd::lora::module::LoraModule;
use crate::sd::lora::names::{Address, Meaning, PEFT_PREFIX, Part, meaning};
use crate::sd::lora::placing::{Structure, placed};

/// A whole LoRA file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lora {
    pub modules: BTreeMap<ModulePath, LoraModule>,
    pub metadata: BTreeMap<String, String>,
    /// What the user should know of how the file was read: "alpha is nowhere written: taken as the rank".
    pub remarks: Vec<String>,
}

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraNames {
    /// `lora_unet_….lora_down.weight`, with alpha: webui, sd-scripts, ComfyUI, diffusers.
    Kohya,
    /// `unet.….lora_A.weight`: what diffusers itself saves. Has no alpha, so the scale moves into `up`.
    Diffusers,
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
        let (address, part) = match meaning(name) {
            Ok(Meaning::Part(address, part)) => (address, part),
            Ok(Meaning::Embedding(_)) => continue,
            Err(_) => return Ok(None),
        };
        match part {
            Part::Down => ranks.extend(info.shape.first()),
            Part::Alpha => alphas.extend(file.read(name)?.to_f32()?.first().map(|alpha| f64::from(*alpha))),
            Part::Up => {}
        }
        modules.insert(address);
    }
    let (Some(least), Some(most)) = (ranks.iter().min(), ranks.iter().max()) else { return Ok(None) };
    let is_text = |address: &&Address| match address {
        Address::Layer(module) => module.network == Network::TextEncoder,
        Address::Ldm(_) => false,
        Address::Numbered(network, _) => *network == Some(Network::TextEncoder),
    };
    let text_encoder_modules = modules.iter().filter(is_text).count();
    let range = alphas.iter().copied().reduce(f64::min).zip(alphas.iter().copied().reduce(f64::max));
    let unet_modules = modules.len() - text_encoder_modules;
    Ok(Some(Outline { text_encoder_modules, unet_modules, ranks: (*least, *most), alphas: range }))
}

/// cloneofsimo's mark, in the metadata, of a tensor that is an embedding.
const EMBEDDING: &str = "<embed>";

/// The factors of one layer, before they are read, and what else a file holds.
#[derive(Default)]
struct Parts {
    by_layer: BTreeMap<Address, BTreeMap<Part, TensorData>>,
    embeddings: BTreeSet<String>,
    /// Whether names are peft's, which keeps alpha in a file of its own.
    are_peft: bool,
}

impl Parts {
    fn read(file: &ModelFile) -> Result<Self> {
        let mut parts = Self::default();
        refuse_unreadable(file, |_| true)?;
        for name in file.tensors().keys() {
            if file.metadata().get(name).is_some_and(|mark| mark == EMBEDDING) {
                parts.embeddings.insert(name.clone());
                continue;
            }
            match meaning(name)? {
                Meaning::Embedding(word) => drop(parts.embeddings.insert(word)),
                Meaning::Part(address, part) => {
                    let old = parts.by_layer.entry(address).or_default().insert(part, file.read(name)?);
                    ensure!(old.is_none(), "tensor `{name}` is there under two names");
                }
            }
            parts.are_peft |= name.starts_with(PEFT_PREFIX);
        }
        ensure!(!parts.by_layer.is_empty(), "it has no tensors of a LoRA");
        Ok(parts)
    }
}

impl Lora {
    /// Reads a LoRA of which nothing but its file is known.
    ///
    /// # Errors
    /// As [`Self::read_for`].
    pub fn read(file: &ModelFile) -> Result<Self> {
        Self::read_for(file, None, None)
    }

    /// Reads a LoRA: with peft's configuration that lies beside it, and for a model of that structure.
    ///
    /// # Errors
    /// If a tensor cannot be read or belongs to no LoRA, a factor is missing, shapes do not fit, or a value is not finite.
    pub fn read_for(file: &ModelFile, beside: Option<&AdapterConfig>, model: Option<&Structure>) -> Result<Self> {
        Self::read_inner(file, beside, model).with_context(|| format!("reading the LoRA `{}`", file.path().display()))
    }

    /// The layers of a LoRA with the shapes of their factors and none of their numbers: what the header of its file tells.
    ///
    /// # Errors
    /// As [`Self::read_for`], as far as the header tells.
    pub fn sketch(file: &ModelFile, model: Option<&Structure>) -> Result<Self> {
        let read = || -> Result<Self> {
            refuse_unreadable(file, |_| true)?;
            let mut shapes: BTreeMap<Address, BTreeMap<Part, &[usize]>> = BTreeMap::new();
            for (name, info) in file.tensors() {
                if file.metadata().get(name).is_none_or(|mark| mark != EMBEDDING)
                    && let Meaning::Part(address, part) = meaning(name)?
                {
                    shapes.entry(address).or_default().insert(part, &info.shape);
                }
            }
            ensure!(!shapes.is_empty(), "it has no tensors of a LoRA");
            let mut modules = BTreeMap::new();
            for (address, parts) in shapes {
                let sizes = Sizes::of(parts.get(&Part::Down).copied(), parts.get(&Part::Up).copied());
                let sizes = sizes.with_context(|| format!("module `{}`", layer_name(&address)))?;
                let matrix = |rows, columns| Matrix { rows, columns, values: Vec::new() };
                let (down, up) = (matrix(sizes.rank, sizes.columns), matrix(sizes.outputs, sizes.rank));
                modules.insert(address, LoraModule { down, up, alpha: sizes.rank as f32, kernel: sizes.kernel });
            }
            Ok(Self { modules: placed(modules, model)?, ..Self::default() })
        };
        read().with_context(|| format!("reading the LoRA `{}`", file.path().display()))
    }

    fn read_inner(file: &ModelFile, beside: Option<&AdapterConfig>, model: Option<&Structure>) -> Result<Self> {
        let parts = Parts::read(file)?;
        let noted = AdapterConfig::of_metadata(file.metadata())?;
        let config = noted.as_ref().or(beside.filter(|_| parts.are_peft));
        let mut remarks = Vec::new();
        if beside.is_some() && !parts.are_peft {
            let name = adapter_config::FILE_NAME;
            remarks.push(format!("the `{name}` beside it is not used: the names of its tensors are not peft's"));
        }
        let mut modules = BTreeMap::new();
        let (mut unsaid, mut idle) = (0, 0);
        for (address, mut factors) in parts.by_layer {
            let name = layer_name(&address);
            let (down, up, alpha) = (factors.remove(&Part::Down), factors.remove(&Part::Up), factors.remove(&Part::Alpha));
            let read = || -> Result<(LoraModule, Option<f32>)> {
                let mut module = assemble(down, up)?;
                let alpha = match (&alpha, &address, config) {
                    (Some(alpha), ..) => Some(*alpha.to_f32()?.first().context("its alpha is empty")?),
                    (None, Address::Layer(path), Some(config)) => config.alpha(path, module.rank())?,
                    (None, ..) => None,
                };
                module.alpha = alpha.unwrap_or(module.rank() as f32);
                ensure!(module.alpha.is_finite(), NOT_FINITE);
                Ok((module, alpha))
            };
            let (module, alpha) = read().with_context(|| format!("module `{name}`"))?;
            // cloneofsimo's forms have no alpha: their scale is 1.
            unsaid += usize::from(alpha.is_none() && !matches!(address, Address::Numbered(..)));
            idle += usize::from(alpha == Some(0.0));
            modules.insert(address, module);
        }
        remarks.extend(on_alphas(modules.len(), unsaid, idle, parts.are_peft && config.is_none()));
        remarks.extend(
            parts.embeddings.iter().map(|word| {
                format!("it brings the embedding `{word}`, which is left out: `{word}` in a prompt stays plain words")
            }),
        );
        Ok(Self { modules: placed(modules, model)?, metadata: file.metadata().clone(), remarks })
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
            match names {
                LoraNames::Kohya => add("alpha", &[], &[factors.alpha])?,
                LoraNames::Diffusers => {}
            }
        }
        Ok(tensors)
    }

    /// kohya's metadata for this LoRA, with rank, alpha and hashes of `tensors`. What else `more` says is added and wins.
    pub fn kohya_metadata(
        &self,
        tensors: &BTreeMap<String, TensorData>,
        more: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>> {
        let mut metadata = metadata::of_lora(self.rank(), self.rank() as f64, more);
        follow_tensors(tensors, &mut metadata)?;
        metadata::add_hashes(tensors, &mut metadata)?;
        Ok(metadata)
    }
}

/// Puts the rank and the alpha of `tensors` into `ss_network_dim` and `ss_network_alpha`, those of convolutions that have others into
/// `ss_network_args`; `Dynamic` where modules differ otherwise, as sd-scripts' `resize_lora.py` writes.
pub(super) fn follow_tensors(tensors: &BTreeMap<String, TensorData>, metadata: &mut BTreeMap<String, String>) -> Result<()> {
    // As Python prints a float: `8.0`.
    let float = |number: f64| format!("{number:?}");
    // Of each module: whether it is a convolution, rank and alpha.
    let mut modules: BTreeMap<Address, (bool, usize, Option<String>)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Ok(Meaning::Part(address, part)) = meaning(name) else { continue };
        let module = modules.entry(address).or_default();
        match part {
            Part::Down => {
                module.0 = tensor.shape.len() == 4 && tensor.shape[2..] != [1, 1];
                module.1 = tensor.shape.first().copied().unwrap_or_default();
            }
            Part::Alpha => module.2 = tensor.to_f32()?.first().map(|alpha| float(f64::from(*alpha))),
            Part::Up => {}
        }
    }
    let sizes = |convolutions: bool| -> BTreeSet<(usize, String)> {
        let of = modules.values().filter(|(is_convolution, ..)| *is_convolution == convolutions);
        of.map(|(_, rank, alpha)| (*rank, alpha.clone().unwrap_or_else(|| float(*rank as f64)))).collect()
    };
    let (mut plain, convolutions) = (sizes(false), sizes(true));
    if plain.len() == 1 && convolutions.len() == 1 && plain != convolutions {
        let [(rank, alpha)] = [convolutions.first().expect("there is one")];
        let args = serde_json::json!({ "conv_dim": rank.to_string(), "conv_alpha": alpha });
        metadata.insert("ss_network_args".into(), args.to_string());
    } else {
        plain.extend(convolutions);
    }
    let one = |values: BTreeSet<String>| if values.len() == 1 { values.into_iter().next() } else { None };
    if !plain.is_empty() {
        let dynamic = || "Dynamic".to_string();
        let ranks = one(plain.iter().map(|(rank, _)| rank.to_string()).collect());
        metadata.insert("ss_network_dim".into(), ranks.unwrap_or_else(dynamic));
        metadata
            .insert("ss_network_alpha".into(), one(plain.into_iter().map(|(_, alpha)| alpha).collect()).unwrap_or_else(dynamic));
    }
    Ok(())
}

const NOT_FINITE: &str = "it holds a value that is not finite: the training that made it broke";

/// What the user should know of the strengths of `all` modules.
fn on_alphas(all: usize, unsaid: usize, idle: usize, lacks_config: bool) -> Vec<String> {
    let share = |count: usize| if count == all { "its modules".to_string() } else { format!("{count} of its {all} modules") };
    let mut remarks = Vec::new();
    if idle > 0 {
        remarks.push(format!("alpha is 0 in {}: they change nothing", share(idle)));
    }
    if unsaid > 0 {
        let place = if lacks_config { format!(", and no `{}` lies beside it", adapter_config::FILE_NAME) } else { String::new() };
        remarks.push(format!("alpha is not written for {}{place}: it is taken as the rank, which is scale 1", share(unsaid)));
    }
    remarks
}

/// For messages.
fn layer_name(address: &Address) -> String {
    match address {
        Address::Layer(path) => path.to_string(),
        Address::Ldm(path) => path.clone(),
        Address::Numbered(_, index) => format!("number {index}"),
    }
}

/// The sizes of one layer's factors.
struct Sizes {
    rank: usize,
    outputs: usize,
    /// Of `down`: inputs times the area of the kernel.
    columns: usize,
    kernel: Option<[usize; 2]>,
}

impl Sizes {
    fn of(down: Option<&[usize]>, up: Option<&[usize]>) -> Result<Self> {
        let down = down.context("it has no down factor (`lora_down.weight`)")?;
        let up = up.context("it has no up factor (`lora_up.weight`)")?;
        let rank = *down.first().context("its down factor is a single number")?;
        let fits = up.len() >= 2 && up[1] == rank && rank > 0 && up[2..].iter().all(|side| *side == 1);
        ensure!(fits, "its factors do not fit: down {down:?}, up {up:?}");
        let kernel = match down {
            [_, _] => None,
            [_, _, height, width] => Some([*height, *width]),
            _ => bail!("its down factor has shape {down:?}: expected two or four sides"),
        };
        ensure!(
            kernel.is_none_or(|[height, width]| height.checked_mul(width).is_some_and(|area| area > 0)),
            "its down factor has shape {down:?}"
        );
        Ok(Self { rank, outputs: up[0], columns: down[1..].iter().product(), kernel })
    }
}

/// The factors of one layer, with alpha at the rank.
fn assemble(down: Option<TensorData>, up: Option<TensorData>) -> Result<LoraModule> {
    let shape = |tensor: &Option<TensorData>| tensor.as_ref().map(|tensor| tensor.shape.clone());
    let sizes = Sizes::of(shape(&down).as_deref(), shape(&up).as_deref())?;
    let values = |tensor: Option<TensorData>| tensor.map(|tensor| tensor.to_f32()).transpose().map(Option::unwrap_or_default);
    let down = Matrix::new(sizes.rank, sizes.columns, values(down).context("its down factor")?);
    let up = Matrix::new(sizes.outputs, sizes.rank, values(up).context("its up factor")?);
    ensure!(down.values.iter().chain(&up.values).all(|value| value.is_finite()), NOT_FINITE);
    Ok(LoraModule { down, up, alpha: sizes.rank as f32, kernel: sizes.kernel })
}
