//! A prompt of a list, alone or with settings of its own: `a red star`, or `{ text: a red star, steps: 30 }`.

use serde_json::json;

use crate::engine::kind::params::{ParamValue, Params};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::prompt::emphasis;
use crate::stages::shared::size::Size;

crate::params! {
    /// A prompt with settings of its own; what is not given is the stage's.
    pub struct PromptSettings {
        /// In webui's grammar: `(more)`, `[less]`, `(so much:1.3)`, `BREAK`. `[filewords]` is replaced by a caption.
        result text: String,
        /// What the picture shall not show.
        result negative: Option<String> = None,
        /// Side in pixels, or `[width, height]`.
        result size: Option<Size> = None,
        /// One picture for each.
        result seed: Option<Vec<u64>> = None,
        /// Sampling steps.
        result steps: Option<u64> = None,
        /// CFG scale.
        result guidance: Option<f64> = None,
        /// One picture for each, of each LoRA.
        result strength: Option<Vec<f64>> = None,
    }
}

/// One prompt of a list.
#[derive(Clone, Debug)]
pub struct PromptUse(pub PromptSettings);

impl ParamValue for PromptUse {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let settings = match &node.value {
            Value::Text(text) => PromptSettings {
                text: text.clone(),
                negative: None,
                size: None,
                seed: None,
                steps: None,
                guidance: None,
                strength: None,
            },
            _ => PromptSettings::decode_params(node, diagnostics)?,
        };
        let texts = [("text", Some(&settings.text)), ("negative", settings.negative.as_ref())];
        let mut whole = true;
        if settings.text == "filewords" {
            let problem = diagnostics.report(&node.span, "this prompt is the word `filewords` alone");
            problem.hint("for the words of a caption, write \"[filewords]\" with its quotes");
            whole = false;
        }
        for (key, text) in texts {
            whole &= text.is_none_or(|text| check_grammar(text, node.get(key).unwrap_or(node), diagnostics));
        }
        whole.then_some(Self(settings))
    }

    fn canonical(&self) -> serde_json::Value {
        self.0.canonical()
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [String::schema(), PromptSettings::schema()] })
    }
}

/// Reports a prompt that cannot be read, at `node`.
pub(crate) fn check_grammar(text: &str, node: &Node, diagnostics: &mut Diagnostics) -> bool {
    let problem = emphasis::parse(text).err();
    if let Some(problem) = &problem {
        diagnostics.report(&node.span, problem.to_string());
    }
    problem.is_none()
}
