//! The settings of one picture as they stand in its key. Unaware of how it is drawn.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sd::diffusion::prediction::Prediction;
use crate::sd::diffusion::sampler::Sampler;
use crate::sd::drawing::picture::Request;

/// Everything that decides a picture beside the files it is drawn with. The names of the fields are names in keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureSettings {
    pub prompt: String,
    pub negative: String,
    /// As written in the pipeline file.
    pub sampler: String,
    pub steps: u64,
    pub guidance: f64,
    /// Width and height in pixels.
    pub size: [u32; 2],
    pub seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u64>,
    /// Of each LoRA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strengths: Vec<f64>,
}

impl PictureSettings {
    /// As values of a piece of work.
    pub fn values(&self) -> BTreeMap<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields.into_iter().collect(),
            other => unreachable!("a struct of plain fields becomes an object, not {other:?}"),
        }
    }

    /// # Errors
    /// If the values are not those that `values` gives.
    pub fn of_values(values: &BTreeMap<String, Value>) -> Result<Self> {
        let fields: serde_json::Map<String, Value> = values.clone().into_iter().collect();
        serde_json::from_value(Value::Object(fields)).context("reading the settings of a picture")
    }

    /// What is drawn. Clip skip and prediction are left at those of a plain base.
    pub fn request(&self) -> Result<Request> {
        let sampler = Sampler::from_word(&self.sampler).with_context(|| format!("`{}` is no sampler", self.sampler))?;
        Ok(Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            sampler,
            steps: usize::try_from(self.steps).context("too many steps")?,
            guidance: self.guidance,
            width: self.size[0],
            height: self.size[1],
            seed: self.seed,
            clip_skip: 1,
            prediction: Prediction::Epsilon,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PictureSettings {
        PictureSettings {
            prompt: "a red star".into(),
            negative: String::new(),
            sampler: "euler_a".into(),
            steps: 20,
            guidance: 7.5,
            size: [64, 64],
            seed: 420_420,
            clip_skip: None,
            strengths: Vec::new(),
        }
    }

    #[test]
    fn settings_come_back_from_the_values_of_a_key() {
        for settings in [settings(), PictureSettings { clip_skip: Some(2), strengths: vec![0.5, 1.0], ..settings() }] {
            assert_eq!(PictureSettings::of_values(&settings.values()).unwrap(), settings);
        }
    }

    #[test]
    fn what_is_not_set_is_in_no_key() {
        let names: Vec<String> = settings().values().into_keys().collect();
        assert_eq!(names, ["guidance", "negative", "prompt", "sampler", "seed", "size", "steps"]);
    }
}
