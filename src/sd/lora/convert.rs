//! Puts a LoRA file into other names or another type. Unaware of containers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::sd::checkpoint::carry::{refuse_not_finite, refuse_unreadable};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::tensor::{Dtype, TensorData};
use crate::sd::checkpoint::{key, metadata};
use crate::sd::lora::adapter_config::{self, AdapterConfig};
use crate::sd::lora::file::{Lora, LoraNames, follow_tensors, outline};

/// A LoRA file in other names or another type.
#[derive(Debug)]
pub struct Converted {
    pub tensors: BTreeMap<String, TensorData>,
    pub metadata: BTreeMap<String, String>,
    /// As [`Lora::remarks`].
    pub remarks: Vec<String>,
}

/// A LoRA file in other names (`None` keeps them, and then any kind of LoRA will do) and another type (`None` keeps each tensor's).
/// `beside` is peft's configuration that lies beside it.
///
/// # Errors
/// If it is no LoRA, a tensor cannot be read, a value is not finite or too large for `dtype`.
pub fn converted(
    file: &ModelFile,
    beside: Option<&AdapterConfig>,
    names: Option<LoraNames>,
    dtype: Option<Dtype>,
) -> Result<Converted> {
    refuse_unreadable(file, |_| true)?;
    let first = file.tensors().keys().next().with_context(|| format!("`{}` holds no tensors", file.path().display()))?;
    let is_model = file.tensors().keys().any(|name| name.starts_with(key::UNET_PREFIX) || name.starts_with(key::VAE_PREFIX));
    ensure!(
        !is_model || outline(file)?.is_some(),
        "`{}` is a model and no LoRA (it has `{first}`): give it as `from`",
        file.path().display()
    );
    let mut result = match names {
        None => with_its_names(file, beside.is_some(), dtype)?,
        Some(names) => {
            let lora = Lora::read_for(file, beside, None)?;
            let widest = file.tensors().values().map(|info| info.dtype).filter(|dtype| dtype.is_float()).max();
            let tensors = lora.tensors(names, dtype.or(widest).unwrap_or(Dtype::F32))?;
            let mut metadata = lora.metadata.clone();
            // Its scale is now in alpha or in the factors.
            metadata.remove(adapter_config::METADATA);
            match names {
                LoraNames::Kohya => metadata = lora.kohya_metadata(&tensors, &metadata)?,
                LoraNames::Diffusers => {}
            }
            Converted { tensors, metadata, remarks: lora.remarks }
        }
    };
    if result.metadata.contains_key("ss_network_dim") {
        follow_tensors(&result.tensors, &mut result.metadata)?;
    }
    if result.metadata.contains_key("sshs_model_hash") {
        metadata::add_hashes(&result.tensors, &mut result.metadata)?;
    }
    Ok(result)
}

fn with_its_names(file: &ModelFile, has_config: bool, dtype: Option<Dtype>) -> Result<Converted> {
    let mut tensors = BTreeMap::new();
    for name in file.tensors().keys() {
        let tensor = file.read(name)?;
        refuse_not_finite(&tensor, name).with_context(|| format!("reading `{}`", file.path().display()))?;
        let tensor = if let Some(dtype) = dtype { tensor.cast(dtype) } else { Ok(tensor) };
        tensors.insert(name.clone(), tensor.with_context(|| format!("tensor `{name}` of `{}`", file.path().display()))?);
    }
    let config = adapter_config::FILE_NAME;
    let note = format!("its strength is in `{config}`: copy that beside the result, or use `layout: kohya`, which has it inside");
    Ok(Converted { tensors, metadata: file.metadata().clone(), remarks: has_config.then_some(note).into_iter().collect() })
}
