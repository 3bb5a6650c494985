//! What must be right of tensors that go from one file into another: all of them can be read, their values are numbers, positions are
//! counted. Unaware of the names and containers on the other side.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::key::UNET_PREFIX;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};

/// Longer lists of positions are no text encoder's: CLIP has 77.
const MAX_POSITIONS: usize = 1 << 16;

/// How scales of 8-bit weights are called beside them: ComfyUI's, and that of torchao and vLLM.
const SCALES: &[&str] = &["scale_weight", "weight_scale", "weight_scale_inv"];

/// LDM's running average of the UNet, whose names have no dots.
const AVERAGE: &str = "model_ema.diffusion_model";

/// The tensors of a file that are carried into another.
#[derive(Debug)]
pub struct Carried<'a> {
    file: &'a ModelFile,
    dtype: Option<Dtype>,
    infos: BTreeMap<String, TensorInfo>,
    /// Lists of positions that are not `0, 1, 2, …` in whole numbers, each with what it is instead.
    miscounted: BTreeMap<String, String>,
}

impl<'a> Carried<'a> {
    /// Those tensors of `file` whose names are `wanted`; floating-point tensors in `dtype`, or each in its own.
    ///
    /// # Errors
    /// If one of them cannot be read or is scaled from 8 bits by another tensor, or there is none.
    pub fn new(file: &'a ModelFile, dtype: Option<Dtype>, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        refuse_unreadable(file, &wanted)?;
        let path = file.path().display();
        let mut infos = BTreeMap::new();
        let mut miscounted = BTreeMap::new();
        for (name, info) in file.tensors().iter().filter(|(name, _)| wanted(name)) {
            let mut info = info.clone();
            if dtype.is_some()
                && info.dtype.is_float8()
                && let Some(scale) = scale_of(file.tensors(), name)
            {
                bail!(
                    "tensor `{}` of `{path}` is {} and scaled by `{}`, which is not supported: use the model in fp16",
                    shown(name),
                    info.dtype.name(),
                    shown(&scale)
                );
            }
            if let Some(instead) = wrong_positions(file, name, &info)? {
                miscounted.insert(name.clone(), instead);
                info.dtype = Dtype::I64;
            } else if let Some(dtype) = dtype.filter(|_| info.dtype.holds_floats()) {
                info.dtype = dtype;
            }
            infos.insert(name.clone(), info);
        }
        ensure!(!infos.is_empty(), "`{path}` has no tensors{}", made_by_strangers(file));
        Ok(Self { file, dtype, infos, miscounted })
    }

    /// Where the tensors come from.
    pub fn file(&self) -> &'a ModelFile {
        self.file
    }

    /// Type and shape of what is carried, by name.
    pub fn infos(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    /// One tensor in the type it has in the file.
    ///
    /// # Errors
    /// If it cannot be read, holds NaN, or is a weight with infinite values.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        if self.miscounted.contains_key(name) {
            let shape = self.file.info(name)?.shape.clone();
            let count: usize = shape.iter().product();
            let bytes = (0..count as i64).flat_map(i64::to_le_bytes).collect();
            return Ok(TensorData { dtype: Dtype::I64, shape, bytes });
        }
        let tensor = self.file.read(name)?;
        refuse_broken(&tensor, name).with_context(|| format!("reading `{}`", self.file.path().display()))?;
        Ok(tensor)
    }

    /// One tensor in the type that `infos` says.
    ///
    /// # Errors
    /// As `read`, and if a value is too large for the type.
    pub fn cast(&self, name: &str) -> Result<TensorData> {
        let tensor = self.read(name)?;
        match self.dtype.filter(|_| tensor.dtype.holds_floats()) {
            Some(dtype) => {
                tensor.cast(dtype).with_context(|| format!("tensor `{}` of `{}`", shown(name), self.file.path().display()))
            }
            None => Ok(tensor),
        }
    }

    /// What is not carried as it is, as lines for the user.
    pub fn remarks(&self) -> Vec<String> {
        let path = self.file.path().display();
        let corrected = |(name, instead): (&String, &String)| {
            let last = self.infos[name].elements().unwrap_or(0).saturating_sub(1);
            format!("`{}` of `{path}` {instead}: it is written as whole numbers from 0 to {last}", shown(name))
        };
        self.file.remark().into_iter().chain(self.miscounted.iter().map(corrected)).collect()
    }
}

/// That no tensor of `file` whose name is `wanted` would be left out because it cannot be read.
///
/// # Errors
/// Names up to three of them with the reason.
pub fn refuse_unreadable(file: &ModelFile, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let lost: Vec<(&String, &String)> = file.unreadable().iter().filter(|(name, _)| wanted(name)).collect();
    let Some(((first, reason), more)) = lost.split_first() else { return Ok(()) };
    let named: Vec<String> = more.iter().take(2).map(|(name, reason)| format!("; `{}`: {reason}", shown(name))).collect();
    let left = more.len() - named.len();
    bail!(
        "`{}` holds what cannot be carried over: tensor `{}`: {reason}{}{}",
        file.path().display(),
        shown(first),
        named.concat(),
        if left > 0 { format!("; and {left} more") } else { String::new() }
    )
}

/// Whether a file holds its UNet only as the running average of a training.
pub fn is_average_alone(file: &ModelFile) -> bool {
    let any = |prefix: &str| file.tensors().keys().any(|name| name.starts_with(prefix));
    any(AVERAGE) && !any(UNET_PREFIX) && !any("unet.") && !any("input_blocks.") && !any("time_embedding.")
}

/// The error about such a file.
pub fn refuse_average_alone(file: &ModelFile) -> Result<()> {
    ensure!(
        !is_average_alone(file),
        "`{}` holds its UNet only as a running average (`{AVERAGE}…`), which is left out here: use the file that has `{UNET_PREFIX}…`",
        file.path().display()
    );
    Ok(())
}

/// The tensor that scales an 8-bit weight, if there is one.
pub(super) fn scale_of(tensors: &BTreeMap<String, TensorInfo>, name: &str) -> Option<String> {
    let layer = name.strip_suffix("weight")?;
    SCALES.iter().map(|scale| format!("{layer}{scale}")).find(|scale| tensors.contains_key(scale))
}

/// That a tensor holds numbers. Infinity has its place in masks alone.
///
/// # Errors
/// If it holds NaN, or is a weight or bias with infinite values.
pub fn refuse_broken(tensor: &TensorData, name: &str) -> Result<()> {
    let (nan, infinite) = tensor.not_finite();
    let is_weight = name.ends_with(".weight") || name.ends_with(".bias");
    refuse_counted(tensor, name, nan, if is_weight { infinite } else { 0 })
}

/// That a tensor holds finite numbers: no adapter has masks.
///
/// # Errors
/// If it holds NaN or infinite values.
pub fn refuse_not_finite(tensor: &TensorData, name: &str) -> Result<()> {
    let (nan, infinite) = tensor.not_finite();
    refuse_counted(tensor, name, nan, infinite)
}

fn refuse_counted(tensor: &TensorData, name: &str, nan: usize, infinite: usize) -> Result<()> {
    let what = match (nan, infinite) {
        (0, 0) => return Ok(()),
        (0, _) => "infinite values",
        _ => "NaN",
    };
    let total: usize = tensor.shape.iter().product();
    let name = shown(name);
    bail!(
        "tensor `{name}` holds {what}, {} of its {total} values: the model is broken, take another copy or version",
        nan + infinite
    )
}

/// What a list of positions is instead of `0, 1, 2, …` in whole numbers; `None` if it is right, or no such list. Trainings and merges have
/// rounded those of many files in circulation, and programs that read them look up the wrong embeddings.
fn wrong_positions(file: &ModelFile, name: &str, info: &TensorInfo) -> Result<Option<String>> {
    let is_list = name == "position_ids" || name.ends_with(".position_ids");
    let has_numbers = !matches!(info.dtype, Dtype::Bool | Dtype::C64 | Dtype::F8E8M0);
    if !is_list || !has_numbers || info.elements().is_none_or(|count| count > MAX_POSITIONS) {
        return Ok(None);
    }
    let values = file.read_f32(name)?;
    let wrong = values.iter().enumerate().find(|(index, value)| **value != *index as f32);
    let float = info.dtype.holds_floats().then(|| format!("is {}", info.dtype.name()));
    let wrong = wrong.map(|(index, value)| format!("has {value} in the place of {index}"));
    Ok(match (float, wrong) {
        (None, None) => None,
        (Some(float), None) => Some(float),
        (None, Some(wrong)) => Some(wrong),
        (Some(float), Some(wrong)) => Some(format!("{float} and {wrong}")),
    })
}

/// Why a pickle without tensors has none, as far as that can be told.
fn made_by_strangers(file: &ModelFile) -> String {
    file.remark().map_or_else(String::new, |remark| format!(": {remark}; save its `state_dict()`"))
}
