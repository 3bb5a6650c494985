//! The values that a params struct may hold: scalars, optional values, lists, and words of a choice. Unaware of which params
//! there are.

use serde_json::json;

use crate::kind::param_value::ParamValue;
use crate::kind::reference::Reference;
use crate::syntax::diagnostic::{Diagnostics, expected};
use crate::syntax::tree::{Node, Value};

impl ParamValue for bool {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            Value::Text(ref text) if matches!(text.to_lowercase().as_str(), "yes" | "no" | "on" | "off") => {
                let found = format!("expected true or false, found the text `{text}`");
                diagnostics.report(&node.span, found).hint("YAML 1.2 writes `true` and `false`");
                None
            }
            _ => expected(node, "true or false", diagnostics),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }
}

impl ParamValue for u64 {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.value {
            Value::Integer(value) if value >= 0 => Some(value as u64),
            Value::Integer(_) => {
                diagnostics.report(&node.span, "expected a whole number of at least 0");
                None
            }
            _ => expected(node, "a whole number", diagnostics),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl ParamValue for f64 {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.value {
            Value::Integer(value) => Some(value as f64),
            Value::Float(value) if value.is_finite() => Some(value),
            Value::Float(_) => {
                diagnostics.report(&node.span, "expected a finite number");
                None
            }
            _ => expected(node, "a number", diagnostics),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "number" })
    }
}

impl ParamValue for String {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                diagnostics
                    .report(&node.span, format!("expected text, found {}", node.describe()))
                    .hint("quotes make text of it");
                None
            }
            Value::List(nodes) => {
                let problem = diagnostics.report(&node.span, "expected text, found a list");
                // `[filewords]`: brackets that were meant as part of the text.
                if let [Node { value: Value::Text(only), .. }] = nodes.as_slice() {
                    problem.hint(format!("write \"{only}\", or \"[{only}]\" if the brackets belong to the text"));
                }
                None
            }
            _ => expected(node, "text", diagnostics),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

impl<T: ParamValue> ParamValue for Option<T> {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.value {
            Value::Null => Some(None),
            _ => T::decode(node, diagnostics).map(Some),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        self.as_ref().map_or(serde_json::Value::Null, T::canonical)
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }

    fn references(&self, path: &str, found: &mut Vec<(String, Reference)>) {
        if let Some(value) = self {
            value.references(path, found);
        }
    }
}

/// A list; a single value stands for a list of one.
impl<T: ParamValue> ParamValue for Vec<T> {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::List(nodes) => {
                let decoded: Vec<Option<T>> = nodes.iter().map(|node| T::decode(node, diagnostics)).collect();
                decoded.into_iter().collect()
            }
            _ => T::decode(node, diagnostics).map(|value| vec![value]),
        }
    }

    fn canonical(&self) -> serde_json::Value {
        self.iter().map(T::canonical).collect()
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] })
    }

    fn references(&self, path: &str, found: &mut Vec<(String, Reference)>) {
        for (index, value) in self.iter().enumerate() {
            value.references(&format!("{path}[{index}]"), found);
        }
    }
}

/// A param that is one of a few words. `choice! { pub enum Dtype { Fp32 = "fp32", Fp16 = "fp16" } }`
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $(#[doc = $word_doc:literal])* $variant:ident = $word:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $word_doc])* $variant ),* }

        impl $name {
            /// As written in the pipeline file, in the order of `ALL`.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
            /// Every one, in the order of the declaration.
            pub const ALL: [Self; Self::WORDS.len()] = [$(Self::$variant),*];

            /// As written in the pipeline file.
            pub const fn word(self) -> &'static str {
                match self { $( Self::$variant => $word ),* }
            }

            /// `None` for a word that is none of them.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|known| known.word() == word)
            }
        }

        impl $crate::kind::param_value::ParamValue for $name {
            fn decode(
                node: &$crate::syntax::tree::Node,
                diagnostics: &mut $crate::syntax::diagnostic::Diagnostics,
            ) -> Option<Self> {
                let $crate::syntax::tree::Value::Text(text) = &node.value else {
                    let what = format!("one of {}", Self::WORDS.join(", "));
                    return $crate::syntax::diagnostic::expected(node, &what, diagnostics);
                };
                let choice = Self::from_word(text);
                if choice.is_none() {
                    diagnostics
                        .report(&node.span, format!("`{text}` is not one of: {}", Self::WORDS.join(", ")))
                        .did_you_mean(text, Self::WORDS.iter().copied());
                }
                choice
            }

            fn canonical(&self) -> serde_json::Value {
                serde_json::Value::from(self.word())
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": Self::WORDS })
            }
        }
    };
}
