//! How a param names what a stage reads: an input or a stage, which of its variants, and which of its items. `train[rank=8]@20`.
//! Unaware of which there are.

use std::fmt;

use serde_json::json;

use crate::kind::param_value::ParamValue;
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::diagnostic::expected;
use crate::syntax::scalar::respelled;
use crate::syntax::tree::{Node, Span, Value};

/// A name of an input or a stage, as a param gives it: `train@20`, `train[rank=8]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub name: String,
    /// What stands between `[ ]`. Empty for a reference that follows the variants of the stage it stands in.
    pub picks: Vec<Pick>,
    pub selector: Selector,
    pub span: Span,
}

/// Which variants of a stage are meant: one part of what stands between `[ ]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// `*`: every variant, all together.
    Every,
    /// `rank=8`
    Value {
        axis: String,
        /// In its one spelling.
        value: String,
    },
    /// `rank=*`: every value of one axis, all together.
    EveryValue { axis: String },
}

/// Which items of a stage a reference takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Without `@`.
    All,
    /// `@20`, `@[20, 30]`.
    Epochs(Vec<u64>),
    /// `@step:1880`: the checkpoint saved at that many images seen.
    Step(u64),
    /// `@last`
    Last,
    /// `@pick`: the top-level `pick`, or what `score` recommends.
    Pick,
}

impl Reference {
    /// All of the input or stage `name`, as if it were written at `span`.
    pub fn to(name: impl Into<String>, span: &Span) -> Self {
        Self { name: name.into(), picks: Vec::new(), selector: Selector::All, span: span.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.picks.is_empty() {
            let picks: Vec<String> = self.picks.iter().map(Pick::to_string).collect();
            write!(f, "[{}]", picks.join(","))?;
        }
        write!(f, "{}", self.selector)
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::Value { axis, value } => write!(f, "{axis}={value}"),
            Self::EveryValue { axis } => write!(f, "{axis}=*"),
        }
    }
}

/// As written after the name: `@20`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Epochs(epochs) => match epochs.as_slice() {
                [epoch] => write!(f, "@{epoch}"),
                epochs => {
                    let epochs: Vec<String> = epochs.iter().map(u64::to_string).collect();
                    write!(f, "@[{}]", epochs.join(", "))
                }
            },
            Self::Step(step) => write!(f, "@step:{step}"),
            Self::Last => f.write_str("@last"),
            Self::Pick => f.write_str("@pick"),
        }
    }
}

impl ParamValue for Reference {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Value::Text(text) = &node.value else {
            return expected(node, "the name of an input or a stage", diagnostics);
        };
        let picked = parse_variant_name(text);
        let Some((name, picks, rest)) = picked else {
            diagnostics
                .report(&node.span, format!("`{text}` picks no variant"))
                .hint("between `[ ]` comes `axis=value`, as in `train[rank=8]`, or `*` for all of them together");
            return None;
        };
        let selector = match rest.strip_prefix('@') {
            None if rest.is_empty() => Some(Selector::All),
            None => None,
            Some(selector) => parse_selector(selector),
        };
        let Some(selector) = selector else {
            diagnostics
                .report(&node.span, format!("`{text}` selects nothing known"))
                .hint("after `@` comes an epoch (`@20`), epochs (`@[20, 30]`), `step:1880`, `last` or `pick`");
            return None;
        };
        Some(Self { name: name.to_string(), picks, selector, span: node.span.clone() })
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self.name)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }

    fn references(&self, path: &str, found: &mut Vec<(String, Reference)>) {
        found.push((path.to_string(), self.clone()));
    }
}

/// The name, its picks, and what follows them; `None` if what stands between `[ ]` cannot be understood.
pub fn parse_variant_name(text: &str) -> Option<(&str, Vec<Pick>, &str)> {
    let (name, rest) = text.split_at(text.find(['[', '@']).unwrap_or(text.len()));
    let Some(inside) = rest.strip_prefix('[') else { return Some((name, Vec::new(), rest)) };
    let close = *places(inside, ']').first()?;
    let parts = &inside[..close];
    let mut picks = Vec::new();
    let mut start = 0;
    for end in places(parts, ',').into_iter().chain([parts.len()]) {
        picks.push(parse_pick(parts[start..end].trim())?);
        start = end + 1;
    }
    Some((name, picks, &inside[close + 1..]))
}

fn parse_pick(text: &str) -> Option<Pick> {
    if text == "*" {
        return Some(Pick::Every);
    }
    let equals = *places(text, '=').first()?;
    let (axis, value) = (text[..equals].trim().to_string(), text[equals + 1..].trim());
    match value {
        _ if axis.is_empty() || value.is_empty() => None,
        "*" => Some(Pick::EveryValue { axis }),
        value => Some(Pick::Value { axis, value: respelled(value)? }),
    }
}

/// Where `wanted` stands outside quotes and inner brackets: values may hold commas, axes may be called `prompts[0]`.
pub fn places(text: &str, wanted: char) -> Vec<usize> {
    let (mut depth, mut is_quoted, mut is_escaped) = (0usize, false, false);
    let mut found = Vec::new();
    for (at, letter) in text.char_indices() {
        if is_quoted {
            is_quoted = is_escaped || letter != '"';
            is_escaped = !is_escaped && letter == '\\';
            continue;
        }
        if depth == 0 && letter == wanted {
            found.push(at);
        }
        match letter {
            '"' => is_quoted = true,
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    found
}

fn parse_selector(text: &str) -> Option<Selector> {
    match text.trim() {
        "last" => Some(Selector::Last),
        "pick" => Some(Selector::Pick),
        text => {
            if let Some(step) = text.strip_prefix("step:") {
                return step.trim().parse().ok().map(Selector::Step);
            }
            let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
            let epochs: Result<Vec<u64>, _> = list.split(',').map(|epoch| epoch.trim().parse()).collect();
            epochs.ok().map(Selector::Epochs)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::syntax::tree::Source;
    use crate::syntax::yaml::span;

    fn decode(text: &str) -> Result<Reference, String> {
        let source = Arc::new(Source { name: "test.yaml".into(), text: text.into() });
        let node = Node { span: span(&source, 0, text.len()), value: Value::Text(text.into()), origin: None };
        let mut diagnostics = Diagnostics::default();
        Reference::decode(&node, &mut diagnostics).ok_or_else(|| diagnostics.into_sorted()[0].message.clone())
    }

    #[test]
    fn a_reference_is_a_name_variants_and_items() {
        for (written, name, shown) in [
            ("train", "train", "train"),
            ("train@20", "train", "train@20"),
            ("train[rank=8]", "train", "train[rank=8]"),
            ("train[ rank = 8.0 ]@[20,30]", "train", "train[rank=8]@[20, 30]"),
            ("train[network.rank=8, schedule=cosine]@step:1880", "train", "train[network.rank=8,schedule=cosine]@step:1880"),
            ("train[*]@last", "train", "train[*]@last"),
            ("train[rank=*, size=512]", "train", "train[rank=*,size=512]"),
            ("train[rate=1e-4]", "train", "train[rate=0.0001]"),
            ("sample[prompts[0]=\"a, b]@\"]", "sample", "sample[prompts[0]=\"a, b]@\"]"),
            ("train/latents[rank=8]", "train/latents", "train/latents[rank=8]"),
        ] {
            let reference = decode(written).unwrap_or_else(|message| panic!("{written}: {message}"));
            assert_eq!((reference.name.as_str(), reference.to_string().as_str()), (name, shown), "{written}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for written in
            ["train[]", "train[rank]", "train[rank=]", "train[=8]", "train[rank=8", "train[rank=8,]", "train[rank=\"8]"]
        {
            assert_eq!(decode(written), Err(format!("`{written}` picks no variant")));
        }
        for written in ["train@", "train@x", "train[rank=8]x", "train[rank=8]@"] {
            assert_eq!(decode(written), Err(format!("`{written}` selects nothing known")));
        }
    }
}
