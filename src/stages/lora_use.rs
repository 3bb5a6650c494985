//! A LoRA with the strength at which it is used: `train@20`, or `{ from: train@20, strength: 0.8 }`.

use serde_json::json;

use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::params::{ParamValue, check_mapping};
use crate::pipeline::reference::Reference;
use crate::pipeline::tree::{Node, Value};

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
