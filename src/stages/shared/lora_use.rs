//! A LoRA with the strength at which it is used: `train@20`, or `{ from: train@20, strength: 0.8 }`.

use anyhow::Context as _;
use serde_json::json;

use crate::engine::kind::input_use::Companion;
use crate::engine::kind::item::Fields;
use crate::engine::kind::params::{ParamValue, check_mapping};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Files, Resolved};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::lora::adapter_config::{self, AdapterConfig};

/// One LoRA of a list.
#[derive(Clone, Debug)]
pub struct LoraUse {
    pub from: Reference,
    /// Multiplies what the LoRA adds; 1 is as trained.
    pub strength: f64,
}

impl ParamValue for LoraUse {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            return Some(Self { from: Reference::decode(node, diagnostics)?, strength: 1.0 });
        }
        check_mapping(node, &["from", "strength"], diagnostics)?;
        let strength = node.get("strength").map_or(Some(1.0), |node| f64::decode(node, diagnostics));
        let Some(from) = node.get("from") else {
            diagnostics.report(&node.span, "`from` is missing").hint("`{ from: train@20, strength: 0.8 }`");
            return None;
        };
        Some(Self { from: Reference::decode(from, diagnostics)?, strength: strength? })
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self.strength)
    }

    fn schema() -> serde_json::Value {
        let mapping = json!({
            "type": "object",
            "properties": { "from": Reference::schema(), "strength": f64::schema() },
            "required": ["from"],
            "additionalProperties": false,
        });
        json!({ "anyOf": [Reference::schema(), mapping] })
    }

    /// The path is the same in both forms, so that the long form at strength 1 gives the same key.
    fn references(&self, path: &str, found: &mut Vec<(String, Reference)>) {
        found.push((path.to_string(), self.from.clone()));
    }
}

/// The field of what peft writes beside a LoRA.
const CONFIG: &str = "adapter_config";

fn config_param(lora: &str) -> String {
    format!("{lora}.{CONFIG}")
}

/// What peft writes beside the LoRA that the param `lora` names.
pub fn companion(lora: &str) -> Companion {
    Companion {
        param: config_param(lora),
        beside: lora.to_string(),
        file: adapter_config::FILE_NAME,
        never_alone: "adapter_model",
        most_bytes: adapter_config::MAX_SIZE,
        reads: &[CONFIG],
    }
}

/// Gives a piece of work what lies beside the LoRA that the param `lora` names, if anything does.
pub fn add_config(lora: &str, inputs: &Resolved, work: &mut Fields) {
    let param = config_param(lora);
    if let Some(config) = inputs.items(&param).first().and_then(|item| item.fields.get(CONFIG)) {
        work.insert(param.as_str().into(), config.clone());
    }
}

/// What `add_config` gave.
///
/// # Errors
/// If it cannot be read or is none of a LoRA.
pub fn config(lora: &str, work: &Fields, files: &dyn Files) -> anyhow::Result<Option<AdapterConfig>> {
    let Some(config) = work.get(config_param(lora).as_str()) else { return Ok(None) };
    let bytes = files.read(config).with_context(|| format!("reading the `{}` beside the LoRA", adapter_config::FILE_NAME))?;
    AdapterConfig::of_file(&bytes).map(Some)
}
