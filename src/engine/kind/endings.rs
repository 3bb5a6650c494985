//! How the names of the texts beside photos end: `.txt`. Unaware of photos.

use std::path::Path;

use serde_json::json;

use crate::inputs::listing::is_picture;
use crate::kind::param_value::ParamValue;
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Node, Value};

/// In bytes.
const LONGEST_ENDING: usize = 40;

/// How the names of texts end: `.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endings(Vec<String>);

impl Endings {
    /// `.txt` alone: what applies where no stage sets `endings`.
    pub fn usual() -> Self {
        Self(vec![".txt".to_string()])
    }

    /// At least one, each with its dot, in the order of the pipeline file.
    pub fn list(&self) -> &[String] {
        &self.0
    }

    /// For a message: `.txt` or `.caption`, each in backticks.
    pub(crate) fn listed(&self) -> String {
        self.0.iter().map(|ending| format!("`{ending}`")).collect::<Vec<_>>().join(" or ")
    }
}

impl ParamValue for Endings {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let nodes = match &node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let before = diagnostics.count();
        let mut endings = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(ending) = String::decode(node, diagnostics) else { continue };
            let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
            if !ending.starts_with('.') || ending.len() < 2 || ending.len() > LONGEST_ENDING || !ending.chars().all(is_plain) {
                diagnostics
                    .report(&node.span, format!("`{ending}` is not the ending of a text"))
                    .hint("write it with its dot: `.caption`; `.png.txt` for `IMG_1.png.txt` beside `IMG_1.png`");
            } else if is_picture(Path::new(&format!("x{ending}"))) {
                diagnostics.report(&node.span, format!("files that end in `{ending}` are pictures"));
            }
            endings.push(ending);
        }
        if endings.is_empty() {
            diagnostics.report(&node.span, "there must be one ending at least").hint("write `.txt`");
        }
        (diagnostics.count() == before).then_some(Self(endings))
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self.0)
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}
