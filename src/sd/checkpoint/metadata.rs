//! The metadata of a LoRA file as kohya's sd-scripts write it, as far as it follows from the contents: no dates, hosts or paths.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::safetensors;
use crate::sd::checkpoint::tensor::{TensorData, TensorInfo};

/// Where kohya's old hash begins, and how far it goes.
const LEGACY_START: usize = 0x10_0000;
const LEGACY_LENGTH: usize = 0x1_0000;

/// What every LoRA file of ours says: enough for webui, sd-scripts and ComfyUI to know what it fits.
///
/// `alpha` is the same for all modules. `more` is added and wins: `ss_epoch`, `ss_steps`, `ss_learning_rate`.
pub fn of_lora(rank: usize, alpha: f64, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut metadata: BTreeMap<String, String> = [
        ("ss_v2", "False"),
        ("ss_base_model_version", "sd_v1"),
        ("ss_network_module", "networks.lora"),
        ("ss_network_args", "{}"),
        ("modelspec.sai_model_spec", "1.0.1"),
        ("modelspec.architecture", "stable-diffusion-v1/lora"),
        ("modelspec.implementation", "diffusers"),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into();
    metadata.insert("ss_network_dim".into(), rank.to_string());
    // As Python prints a float: `8.0`.
    metadata.insert("ss_network_alpha".into(), format!("{alpha:?}"));
    metadata.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    metadata
}

/// Adds `sshs_model_hash` and `sshs_legacy_hash`, by which webui tells a LoRA in a picture's parameters.
///
/// Both are taken over a serialisation whose metadata has only the `ss_…` entries; source: `precalculate_safetensors_hashes` in sd-scripts'
/// `library/train_util.py`.
pub fn add_hashes(tensors: &BTreeMap<String, TensorData>, metadata: &mut BTreeMap<String, String>) -> Result<()> {
    let training = metadata.iter().filter(|(key, _)| key.starts_with("ss_")).map(|(k, v)| (k.clone(), v.clone())).collect();
    let infos: BTreeMap<String, TensorInfo> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    let header = safetensors::header(&infos, &training)?;
    let (mut hash, mut legacy) = (Sha256::new(), Sha256::new());
    let mut at = header.len();
    legacy.update(part(&header, 0));
    for (name, _) in safetensors::file_order(&infos) {
        let bytes = &tensors[name].bytes;
        hash.update(bytes);
        legacy.update(part(bytes, at));
        at += bytes.len();
    }
    metadata.insert("sshs_model_hash".into(), hex(&hash.finalize()));
    metadata.insert("sshs_legacy_hash".into(), hex(&legacy.finalize())[..8].to_string());
    Ok(())
}

/// What sd-scripts note of the base by its contents: SHA-256 of the file, and its first 8 digits over a part of it, webui's old hash.
///
/// # Errors
/// If it cannot be read.
pub fn of_base(base: &ModelFile) -> Result<BTreeMap<String, String>> {
    let hash = || -> std::io::Result<(String, String)> {
        let (mut file, mut buffer) = (base.bytes(0), vec![0; 1 << 20]);
        let (mut hash, mut legacy, mut at) = (Sha256::new(), Sha256::new(), 0);
        loop {
            match file.read(&mut buffer)? {
                0 => break Ok((hex(&hash.finalize()), hex(&legacy.finalize())[..8].to_string())),
                count => {
                    hash.update(&buffer[..count]);
                    legacy.update(part(&buffer[..count], at));
                    at += count;
                }
            }
        }
    };
    let (new, legacy) = hash().with_context(|| format!("reading `{}` for its hash", base.path().display()))?;
    Ok(BTreeMap::from([("ss_new_sd_model_hash".to_string(), new), ("ss_sd_model_hash".to_string(), legacy)]))
}

/// The part of `bytes`, which lie at `at` in the file, that the old hash covers.
fn part(bytes: &[u8], at: usize) -> &[u8] {
    let clamp = |position: usize| position.saturating_sub(at).min(bytes.len());
    &bytes[clamp(LEGACY_START)..clamp(LEGACY_START + LEGACY_LENGTH)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
