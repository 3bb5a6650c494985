//! What a model file says of its own making: kohya's `ss_…` and `sshs_…`, the model spec's `modelspec.…`, and what its tensors tell.
//! Unaware of caches: whether it is true nobody here knows.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::sd::checkpoint::key;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::lora::file::{Outline, outline};

/// Facts of a training, in the order in which they are told: the name, and the keys that may hold it, the best first. Sources:
/// sd-scripts' `train_network.py` and <https://github.com/Stability-AI/ModelSpec>.
const FACTS: &[(&str, &[&str])] = &[
    ("title", &["modelspec.title", "ss_output_name"]),
    ("author", &["modelspec.author"]),
    ("date", &["modelspec.date"]),
    ("license", &["modelspec.license"]),
    ("description", &["modelspec.description"]),
    ("comment", &["ss_training_comment"]),
    ("trigger", &["modelspec.trigger_phrase"]),
    ("usage", &["modelspec.usage_hint"]),
    ("merged from", &["modelspec.merged_from"]),
    ("base", &["ss_sd_model_name"]),
    ("base version", &["ss_base_model_version", "modelspec.architecture"]),
    ("base hash", &["ss_new_sd_model_hash", "ss_sd_model_hash"]),
    ("vae", &["ss_vae_name"]),
    ("network", &["ss_network_module"]),
    ("network args", &["ss_network_args"]),
    ("rank", &["ss_network_dim"]),
    ("alpha", &["ss_network_alpha"]),
    ("epoch", &["ss_epoch"]),
    ("epochs", &["ss_num_epochs"]),
    ("steps", &["ss_steps"]),
    ("steps planned", &["ss_max_train_steps"]),
    ("images", &["ss_num_train_images"]),
    ("class images", &["ss_num_reg_images"]),
    ("batch size", &["ss_total_batch_size", "ss_batch_size_per_device"]),
    ("gradient accumulation", &["ss_gradient_accumulation_steps"]),
    ("rate", &["ss_learning_rate"]),
    ("rate of the UNet", &["ss_unet_lr"]),
    ("rate of the text encoder", &["ss_text_encoder_lr"]),
    ("schedule", &["ss_lr_scheduler"]),
    ("warm-up", &["ss_lr_warmup_steps"]),
    ("optimizer", &["ss_optimizer"]),
    ("largest gradient", &["ss_max_grad_norm"]),
    ("noise offset", &["ss_noise_offset"]),
    ("min-SNR gamma", &["ss_min_snr_gamma"]),
    ("prior loss weight", &["ss_prior_loss_weight"]),
    ("resolution", &["ss_resolution", "modelspec.resolution"]),
    ("buckets", &["ss_enable_bucket"]),
    ("prediction", &["modelspec.prediction_type"]),
    ("clip skip", &["ss_clip_skip"]),
    ("token length", &["ss_max_token_length"]),
    ("precision", &["ss_mixed_precision"]),
    ("seed", &["ss_seed"]),
    ("webui's hash", &["sshs_model_hash"]),
];

/// What a person wants to know of a LoRA; what of it is not said is named.
const WANTED: &[&str] = &["base", "rank", "alpha", "epoch", "steps", "rate", "resolution", "trigger", "tags"];

/// Longer texts are thumbnails and the like.
const LONGEST: usize = 2000;

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub kind: ModelKind,
    /// Name and value.
    pub facts: Vec<(&'static str, String)>,
    /// Folders of pictures as kohya names them: name, pictures, repeats.
    pub folders: Vec<(String, u64, u64)>,
    /// Words of captions and how often they came, the most frequent first.
    pub tags: Vec<(String, u64)>,
    /// Of what a person wants to know of a LoRA, what neither metadata nor tensors say.
    pub not_said: Vec<&'static str>,
}

/// What kind of model a file holds, told by the names of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelKind {
    Lora(Outline),
    /// Weights of a whole model.
    Model,
    /// Tensors of which this program knows nothing.
    Other,
}

/// Reads what `file` says of itself.
///
/// # Errors
/// If its tensors cannot be read.
pub fn account(file: &ModelFile) -> Result<Account> {
    let metadata = file.metadata();
    let kind = match outline(file)? {
        Some(outline) => ModelKind::Lora(outline),
        None if file.tensors().keys().any(|name| name.starts_with(key::UNET_PREFIX) || name.starts_with(key::VAE_PREFIX)) => {
            ModelKind::Model
        }
        None => ModelKind::Other,
    };
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    for (name, known) in FACTS {
        facts.extend(known.iter().find_map(|key| said(metadata, key)).map(|value| (*name, value)));
    }
    let datasets: Vec<Value> = parsed(metadata, "ss_datasets").unwrap_or_default();
    if let (None, Some(dataset)) = (value_of(&facts, "resolution"), datasets.first())
        && let Some(resolution) = dataset.get("resolution")
    {
        facts.push(("resolution", resolution.to_string()));
    }
    if let ModelKind::Lora(outline) = &kind {
        add_from_tensors(outline, &mut facts);
    }
    let tags = tags(metadata, &datasets);
    let is_said = |wanted: &str| match wanted {
        "tags" => !tags.is_empty(),
        // Of a base whose name is not told its hash tells which it is.
        "base" => facts.iter().any(|(name, _)| *name == "base" || *name == "base hash"),
        // One of three will do.
        "rate" => facts.iter().any(|(name, _)| name.starts_with("rate")),
        wanted => value_of(&facts, wanted).is_some(),
    };
    let not_said = match kind {
        ModelKind::Lora(_) => WANTED.iter().copied().filter(|wanted| !is_said(wanted)).collect(),
        ModelKind::Model | ModelKind::Other => Vec::new(),
    };
    Ok(Account { folders: folders(metadata), tags, not_said, kind, facts })
}

/// A value that says something: kohya writes `None` for what was not given.
fn said(metadata: &BTreeMap<String, String>, key: &str) -> Option<String> {
    let value = metadata.get(key)?.trim();
    (!matches!(value, "" | "None" | "null" | "{}") && value.len() <= LONGEST).then(|| value.to_string())
}

fn value_of<'f>(facts: &'f [(&str, String)], wanted: &str) -> Option<&'f str> {
    facts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str())
}

fn parsed<T: serde::de::DeserializeOwned>(metadata: &BTreeMap<String, String>, key: &str) -> Option<T> {
    serde_json::from_str(metadata.get(key)?).ok()
}

/// What the metadata does not say and the tensors do.
fn add_from_tensors(outline: &Outline, facts: &mut Vec<(&'static str, String)>) {
    let range = |least: String, most: String| if least == most { least } else { format!("{least} to {most}") };
    if value_of(facts, "rank").is_none() {
        facts.push(("rank", range(outline.ranks.0.to_string(), outline.ranks.1.to_string())));
    }
    if let (None, Some((least, most))) = (value_of(facts, "alpha"), outline.alphas) {
        facts.push(("alpha", range(least.to_string(), most.to_string())));
    }
}

/// `ss_tag_frequency` counts by folder; the folders are added up.
fn tags(metadata: &BTreeMap<String, String>, datasets: &[Value]) -> Vec<(String, u64)> {
    type ByFolder = BTreeMap<String, BTreeMap<String, u64>>;
    let whole: Option<ByFolder> = parsed(metadata, "ss_tag_frequency");
    let of_dataset = |dataset: &Value| serde_json::from_value::<ByFolder>(dataset.get("tag_frequency")?.clone()).ok();
    let parts = match whole {
        Some(whole) => vec![whole],
        None => datasets.iter().filter_map(of_dataset).collect(),
    };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (tag, count) in parts.into_iter().flat_map(BTreeMap::into_values).flatten() {
        *counts.entry(tag.trim().to_string()).or_default() += count;
    }
    let mut tags: Vec<(String, u64)> = counts.into_iter().filter(|(tag, _)| !tag.is_empty()).collect();
    tags.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    tags
}

fn folders(metadata: &BTreeMap<String, String>) -> Vec<(String, u64, u64)> {
    let folders: BTreeMap<String, Value> = parsed(metadata, "ss_dataset_dirs").unwrap_or_default();
    let number = |folder: &Value, name: &str| folder.get(name).and_then(Value::as_u64).unwrap_or_default();
    folders.iter().map(|(name, folder)| (name.clone(), number(folder, "img_count"), number(folder, "n_repeats"))).collect()
}

impl Account {
    /// As `explain --json` prints it.
    pub fn to_json(&self) -> Value {
        let kind = match &self.kind {
            ModelKind::Lora(outline) => json!({
                "kind": "lora",
                "text_encoder_modules": outline.text_encoder_modules,
                "unet_modules": outline.unet_modules,
                "ranks": [outline.ranks.0, outline.ranks.1],
                "alphas": outline.alphas.map(|(least, most)| [least, most]),
            }),
            ModelKind::Model => json!({ "kind": "model" }),
            ModelKind::Other => json!({ "kind": null }),
        };
        json!({
            "model": kind,
            "facts": self.facts.iter().map(|(name, value)| (name.to_string(), json!(value))).collect::<serde_json::Map<_, _>>(),
            "folders": self.folders.iter().map(|(name, images, repeats)| json!({ "name": name, "images": images, "repeats": repeats }))
                .collect::<Vec<_>>(),
            "tags": self.tags.iter().map(|(tag, count)| json!([tag, count])).collect::<Vec<_>>(),
            "not_said": self.not_said,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::checkpoint::safetensors;
    use crate::sd::checkpoint::tensor::TensorData;

    fn lora(metadata: &[(&str, &str)]) -> Account {
        let mut tensors = BTreeMap::new();
        for (name, shape) in [
            ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", vec![4, 8]),
            ("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", vec![8, 4]),
        ] {
            tensors.insert(name.to_string(), TensorData::from_f32(&shape, &[0.5; 32]));
        }
        tensors.insert("lora_unet_mid_block_attentions_0_proj_in.alpha".into(), TensorData::from_f32(&[], &[2.0]));
        let metadata = metadata.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("any-name.safetensors");
        std::fs::write(&path, safetensors::to_bytes(&tensors, &metadata).expect("bytes")).expect("written");
        account(&ModelFile::open(&path).expect("opens")).expect("an account")
    }

    #[test]
    fn a_file_of_kohyas_tells_its_training_and_names_what_it_does_not_tell() {
        let said = lora(&[
            ("ss_sd_model_name", "v1-5-pruned.safetensors"),
            ("ss_network_dim", "32"),
            ("ss_network_alpha", "16.0"),
            ("ss_epoch", "8"),
            ("ss_num_epochs", "10"),
            ("ss_steps", "1880"),
            ("ss_unet_lr", "0.0001"),
            ("ss_learning_rate", "None"),
            ("ss_tag_frequency", r#"{"10_cat": {"cat": 20, " sitting": 3}, "5_cat": {"cat": 4}}"#),
            ("ss_dataset_dirs", r#"{"10_cat": {"n_repeats": 10, "img_count": 20}}"#),
        ]);
        let fact = |name: &str| value_of(&said.facts, name).map(str::to_string);
        assert_eq!(fact("base").as_deref(), Some("v1-5-pruned.safetensors"));
        assert_eq!((fact("rank").as_deref(), fact("alpha").as_deref()), (Some("32"), Some("16.0")));
        assert_eq!((fact("rate"), fact("rate of the UNet").as_deref()), (None, Some("0.0001")));
        assert_eq!(said.tags, [("cat".to_string(), 24), ("sitting".to_string(), 3)]);
        assert_eq!(said.folders, [("10_cat".to_string(), 20, 10)]);
        assert_eq!(said.not_said, ["resolution", "trigger"]);
    }

    #[test]
    fn a_file_without_metadata_tells_what_its_tensors_do() {
        let said = lora(&[]);
        assert_eq!(said.facts, [("rank", "4".to_string()), ("alpha", "2".to_string())]);
        let ModelKind::Lora(outline) = said.kind else { panic!("{said:?}") };
        assert_eq!((outline.unet_modules, outline.text_encoder_modules, outline.ranks), (1, 0, (4, 4)));
        assert_eq!(said.not_said, ["base", "epoch", "steps", "rate", "resolution", "trigger", "tags"]);
    }

    #[test]
    fn metadata_that_is_no_json_says_nothing_and_newer_files_keep_tags_by_dataset() {
        let broken = lora(&[("ss_tag_frequency", "{"), ("ss_dataset_dirs", "[1]"), ("ss_datasets", "7")]);
        assert!(broken.tags.is_empty() && broken.folders.is_empty());
        let newer = lora(&[(
            "ss_datasets",
            r#"[{"resolution": [512, 768], "tag_frequency": {"a": {"x": 1}}}, {"tag_frequency": {"b": {"x": 2}}}]"#,
        )]);
        assert_eq!(newer.tags, [("x".to_string(), 3)]);
        assert_eq!(value_of(&newer.facts, "resolution"), Some("[512,768]"));
    }
}
