//! What the files of a training say of it, where other programs look for it: trigger, tags, base. Not a kind.
//!
//! Only what follows from the training's key, since a file's bytes do: the trigger, what captions say, what the base is by its
//! contents and by its own word. The name of a file, of a person or of the concept, and dates, are nowhere in a key; they come
//! when a LoRA is exported.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use crate::sd::checkpoint::metadata;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::diffusion::prediction::Prediction;

/// Of the words of captions no more are listed: a header stays small whatever captions there are.
const MOST_TAGS: usize = 1000;

/// kohya's and the model spec's account of `images` pictures with `captions`, taught to `base` by the word `trigger`.
///
/// # Errors
/// If the base cannot be read.
pub fn account(base: &ModelFile, trigger: &str, captions: &[String], prediction: Prediction) -> Result<BTreeMap<String, String>> {
    let images = captions.len();
    let mut account = BTreeMap::from([
        ("ss_num_train_images".to_string(), images.to_string()),
        ("ss_num_reg_images".to_string(), "0".to_string()),
        ("modelspec.prediction_type".to_string(), prediction.word().to_string()),
    ]);
    if prediction == Prediction::VelocityAtZeroSnr {
        account.insert("ss_zero_terminal_snr".into(), "True".into());
    }
    // kohya's folders are called after their repeats and what is in them.
    let folder = format!("1_{trigger}");
    account.insert("ss_dataset_dirs".into(), json!({ &folder: { "n_repeats": 1, "img_count": images } }).to_string());
    account.insert("ss_tag_frequency".into(), json!({ folder: tags(captions) }).to_string());
    if !trigger.is_empty() {
        account.insert("modelspec.title".into(), trigger.to_string());
        account.insert("modelspec.trigger_phrase".into(), trigger.to_string());
    }
    account.extend(metadata::of_base(base)?);
    if let Some(title) = base.metadata().get("modelspec.title").filter(|title| !title.is_empty()) {
        account.insert("ss_sd_model_name".into(), title.clone());
    }
    Ok(account)
}

/// How often each part of a caption between commas comes: sd-scripts' count of tags.
fn tags(captions: &[String]) -> BTreeMap<&str, u64> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for tag in captions.iter().flat_map(|caption| caption.split(',')).map(str::trim).filter(|tag| !tag.is_empty()) {
        *counts.entry(tag).or_default() += 1;
    }
    let mut ordered: Vec<(&str, u64)> = counts.into_iter().collect();
    ordered.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    ordered.into_iter().take(MOST_TAGS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::checkpoint::safetensors;
    use crate::sd::checkpoint::tensor::TensorData;

    #[test]
    fn a_file_says_trigger_tags_and_base_and_no_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret-name.safetensors");
        let tensors = BTreeMap::from([("a".to_string(), TensorData::from_f32(&[2], &[1.0, 2.0]))]);
        let title = BTreeMap::from([("modelspec.title".to_string(), "Photo Model".to_string())]);
        safetensors::write(&path, &tensors, &title).expect("written");
        let base = ModelFile::open(&path).expect("opens");
        let captions = ["a star, red".to_string(), "a star, blue".to_string(), String::new()];
        let account = account(&base, "zxy", &captions, Prediction::VelocityAtZeroSnr).expect("an account");
        let said = |key: &str| account[key].as_str();
        assert_eq!((said("modelspec.title"), said("modelspec.trigger_phrase")), ("zxy", "zxy"));
        assert_eq!(said("ss_tag_frequency"), r#"{"1_zxy":{"a star":2,"blue":1,"red":1}}"#);
        assert_eq!(said("ss_dataset_dirs"), r#"{"1_zxy":{"img_count":3,"n_repeats":1}}"#);
        assert_eq!((said("ss_num_train_images"), said("ss_num_reg_images")), ("3", "0"));
        assert_eq!(
            (said("ss_sd_model_name"), said("ss_new_sd_model_hash").len(), said("ss_sd_model_hash").len()),
            ("Photo Model", 64, 8)
        );
        assert_eq!((said("modelspec.prediction_type"), said("ss_zero_terminal_snr")), ("v", "True"));
        assert!(!account.values().any(|value| value.contains("secret-name")));
    }

    #[test]
    fn of_very_many_words_the_rarest_are_left_out() {
        let captions: Vec<String> = (0..1500).map(|number| format!("common, rare {number:04}")).collect();
        let tags = tags(&captions);
        assert_eq!((tags.len(), tags["common"], tags.contains_key("rare 1400")), (1000, 1500, false));
    }
}
