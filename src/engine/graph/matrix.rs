//! `matrix:` of a stage: its axes, and what the values of each put into the params. Unaware of who reads the stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::scalar::spelling;
use crate::syntax::settings::{Segment, parse_path, put};
use crate::syntax::tree::{Key, Node, Source, Span, Value};
use crate::syntax::yaml::span;

/// A param with the values that the variants of a stage give it.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Stage and path: `train.network.rank`.
    pub full_name: String,
    /// Of the path, in the file.
    pub span: Span,
    /// At least one, each once.
    pub values: Vec<AxisValue>,
    path: Vec<Segment>,
}

/// One value of an axis.
#[derive(Clone, Debug)]
pub struct AxisValue {
    /// In the one spelling: `0.0001` for `1e-4`.
    pub spelling: String,
    node: Node,
}

/// The axes that `node` gives to `stage`. `params` are those that the stage gives without it; `reserved` are keys that are no
/// params.
pub fn read(stage: &str, node: &Node, params: &Node, reserved: &[&str], diagnostics: &mut Diagnostics) -> Vec<Axis> {
    let Value::Map(entries) = &node.value else {
        diagnostics
            .report(&node.span, format!("`matrix` must be a mapping, found {}", node.describe()))
            .hint("write `matrix: { network.rank: [4, 8, 16] }`");
        return Vec::new();
    };
    if entries.is_empty() {
        diagnostics.report(&node.span, "`matrix` is empty: there is nothing to vary").hint("remove it");
    }
    let mut axes = Vec::new();
    for (key, values) in entries {
        let Some(path) = path(&key.name, &key.span, diagnostics) else { continue };
        let first = key.name.split(['.', '[']).next().unwrap_or_default();
        if reserved.contains(&first) {
            diagnostics.report(&key.span, format!("`{first}` is no param of the stage: it cannot be an axis"));
            continue;
        }
        if let Some(written) = find(params, &path) {
            diagnostics
                .report(&key.span, format!("`{}` is given by the matrix and by the stage itself", key.name))
                .also(&written, "it is given here too")
                .hint("remove one of them");
            continue;
        }
        let values = read_values(&key.name, values, diagnostics);
        if !values.is_empty() {
            axes.push(Axis { full_name: format!("{stage}.{}", key.name), span: key.span.clone(), values, path });
        }
    }
    axes
}

impl Axis {
    /// Gives the param the value at `index`.
    pub fn apply(&self, index: usize, params: &mut Node, diagnostics: &mut Diagnostics) {
        put(params, &self.path, self.values[index].node.clone(), diagnostics);
    }

    /// The param at the top of the path.
    pub fn param(&self) -> &str {
        match self.path.first() {
            Some(Segment::Key(key)) => &key.name,
            _ => "",
        }
    }
}

/// The path of a key, with places in the file where these are known.
fn path(name: &str, place: &Span, diagnostics: &mut Diagnostics) -> Option<Vec<Segment>> {
    let is_as_written = place.source.text.get(place.start..place.end) == Some(name);
    let source = Arc::new(Source { name: place.source.name.clone(), text: name.to_string() });
    let mut unplaced = Diagnostics::default();
    let Some(mut path) = parse_path(&source, name.len(), &mut unplaced) else {
        diagnostics
            .report(place, format!("`{name}` is not the path of a param"))
            .hint("write it with dots: `network.rank`, `prompts[0]`");
        return None;
    };
    for segment in &mut path {
        let (Segment::Key(Key { span: own, .. }) | Segment::Index(_, own)) = segment;
        *own = if is_as_written { span(&place.source, place.start + own.start, place.start + own.end) } else { place.clone() };
    }
    Some(path)
}

/// Where the stage itself gives the param.
fn find(params: &Node, path: &[Segment]) -> Option<Span> {
    let Some((segment, rest)) = path.split_first() else { return Some(params.span.clone()) };
    match (segment, &params.value) {
        (Segment::Key(key), _) => find(params.get(&key.name)?, rest),
        // An element of a list is there to be replaced.
        (Segment::Index(..), _) => None,
    }
}

fn read_values(axis: &str, node: &Node, diagnostics: &mut Diagnostics) -> Vec<AxisValue> {
    let nodes = match &node.value {
        Value::List(nodes) if nodes.is_empty() => {
            diagnostics.report(&node.span, format!("`{axis}` has no values")).hint("write at least one: `[8]`");
            return Vec::new();
        }
        Value::List(nodes) => nodes.as_slice(),
        Value::Map(_) => {
            diagnostics
                .report(&node.span, format!("`{axis}` needs a list of values, found a mapping"))
                .hint("write the path of a param with dots, as in `network.rank: [4, 8]`");
            return Vec::new();
        }
        _ => std::slice::from_ref(node),
    };
    let mut first: BTreeMap<String, &Span> = BTreeMap::new();
    let mut values = Vec::new();
    for node in nodes {
        let Some(spelling) = spelling(&node.value) else {
            diagnostics
                .report(&node.span, format!("a value of `{axis}` must be a number, a word or a text, found {}", node.describe()))
                .hint("write a stage of its own for each list or mapping");
            continue;
        };
        match first.get(&spelling) {
            Some(first) => {
                diagnostics
                    .report(&node.span, format!("`{spelling}` is given twice for `{axis}`"))
                    .also(first, "the first is here");
            }
            None => {
                first.insert(spelling.clone(), &node.span);
                values.push(AxisValue { spelling, node: node.clone() });
            }
        }
    }
    values
}
