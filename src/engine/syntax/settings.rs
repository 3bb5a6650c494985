//! `--set`: another value for a key of the tree, for this time. Unaware of stage kinds.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Key, Node, Source, Span, Value};
use crate::syntax::yaml::{self, span};

/// Top-level keys of a pipeline file, in the order of the reference.
pub const TOP_LEVEL: &[&str] = &["concept", "trigger", "seed", "skip", "pick", "env", "vars", "inputs", "stages"];

/// Applies one `--set`, written `train.network.rank=16`: the value is YAML, missing keys are made, and a path that does not begin
/// with a top-level key begins with the name of a stage.
pub fn set(root: &mut Node, setting: &str, diagnostics: &mut Diagnostics) {
    let source = Arc::new(Source { name: "--set".into(), text: setting.to_string() });
    let Some(equals) = setting.find('=') else {
        diagnostics
            .report(&span(&source, 0, setting.len()), "a setting needs a value")
            .hint("write `--set train.network.rank=16`");
        return;
    };
    let Some(mut path) = parse_path(&source, equals, diagnostics) else { return };
    let before = diagnostics.count();
    let empty = setting[equals + 1..].trim().is_empty();
    let parsed = if empty { None } else { yaml::parse(&source, equals + 1, diagnostics) };
    let value = match parsed {
        Some(node) => node,
        None if empty => Node { span: span(&source, 0, equals), value: Value::Null, origin: None },
        None => return,
    };
    if diagnostics.count() > before {
        return;
    }
    let Segment::Key(first) = &path[0] else { return };
    if !TOP_LEVEL.contains(&first.name.as_str()) {
        let stages: Vec<&str> = match root.get("stages").map(|stages| &stages.value) {
            Some(Value::Map(entries)) => entries.iter().map(|(key, _)| key.name.as_str()).collect(),
            _ => Vec::new(),
        };
        if !stages.contains(&first.name.as_str()) {
            diagnostics
                .report(&first.span, format!("there is no stage `{}`", first.name))
                .hint(format!("a setting begins with a stage or with one of: {}", TOP_LEVEL.join(", ")))
                .did_you_mean(&first.name, stages.iter().copied().chain(TOP_LEVEL.iter().copied()));
            return;
        }
        let stages = Key { name: "stages".into(), span: first.span.clone() };
        path.insert(0, Segment::Key(stages));
    }
    let path = through_matrix(root, path);
    put(root, &path, value, diagnostics);
}

/// The path to where a stage keeps the value: an axis of its matrix has its own path as one key, and is set whether `matrix` is
/// named or not. `train.network.rank=16` leaves one variant of a training whose matrix varies the rank.
fn through_matrix(root: &Node, path: Vec<Segment>) -> Vec<Segment> {
    let [Segment::Key(stages), Segment::Key(stage), rest @ ..] = path.as_slice() else { return path };
    let names_matrix = matches!(rest.first(), Some(Segment::Key(key)) if key.name == "matrix");
    let param = if names_matrix { &rest[1..] } else { rest };
    let (Some(first), Some(last), "stages") = (param.first(), param.last(), stages.name.as_str()) else { return path };
    let mut name = String::new();
    for segment in param {
        match segment {
            Segment::Key(key) if name.is_empty() => name.push_str(&key.name),
            Segment::Key(key) => name.push_str(&format!(".{}", key.name)),
            Segment::Index(index, _) => name.push_str(&format!("[{index}]")),
        }
    }
    let matrix = root.get("stages").and_then(|stages| stages.get(&stage.name)).and_then(|stage| stage.get("matrix"));
    if !names_matrix && matrix.and_then(|matrix| matrix.get(&name)).is_none() {
        return path;
    }
    let (first, last) = (first.span(), last.span());
    let key = |name: &str| Segment::Key(Key { name: name.into(), span: Span { end: last.end, ..first.clone() } });
    vec![Segment::Key(stages.clone()), Segment::Key(stage.clone()), key("matrix"), key(&name)]
}

impl Segment {
    fn span(&self) -> &Span {
        match self {
            Self::Key(key) => &key.span,
            Self::Index(_, span) => span,
        }
    }
}

/// One part of the path of a param.
#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Key(Key),
    Index(usize, Span),
}

static SEGMENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(?:([^.\[\]=\s]+)|\[([0-9]{1,6})\])").expect("a valid pattern"));

/// The path in the first `end` bytes of a text.
pub(crate) fn parse_path(source: &Arc<Source>, end: usize, diagnostics: &mut Diagnostics) -> Option<Vec<Segment>> {
    let text = &source.text[..end];
    let mut path = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if !path.is_empty() && text[at..].starts_with('.') {
            at += 1;
        }
        let Some(found) = SEGMENT.captures(&text[at..]) else { break };
        let place = span(source, at, at + found[0].len());
        match (found.get(1), found.get(2)) {
            (Some(name), _) => path.push(Segment::Key(Key { name: name.as_str().into(), span: place })),
            (_, Some(index)) => path.push(Segment::Index(index.as_str().parse().expect("at most six digits"), place)),
            _ => break,
        }
        at += found[0].len();
    }
    if at < text.len() || !matches!(path.first(), Some(Segment::Key(_))) {
        diagnostics
            .report(&span(source, at, text.len()), "this is not the path of a param")
            .hint("write it with dots: `train.network.rank`, `sample.prompts[0]`");
        return None;
    }
    Some(path)
}

/// Puts `value` where `path` leads below `node`; missing keys are made.
pub(crate) fn put(node: &mut Node, path: &[Segment], value: Node, diagnostics: &mut Diagnostics) {
    let Some((segment, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    match segment {
        Segment::Key(key) => {
            if node.value == Value::Null {
                node.value = Value::Map(Vec::new());
            }
            let found = node.describe();
            let Value::Map(entries) = &mut node.value else {
                diagnostics.report(&key.span, format!("there is no `{}` here: what stands before it is {found}", key.name));
                return;
            };
            let index = entries.iter().position(|(k, _)| k.name == key.name).unwrap_or_else(|| {
                let missing = Node { span: key.span.clone(), value: Value::Null, origin: None };
                entries.push((key.clone(), missing));
                entries.len() - 1
            });
            put(&mut entries[index].1, rest, value, diagnostics);
        }
        Segment::Index(index, place) => {
            let found = node.describe();
            let Value::List(nodes) = &mut node.value else {
                diagnostics.report(place, format!("`[{index}]` needs a list, what stands before it is {found}"));
                return;
            };
            let length = nodes.len();
            match nodes.get_mut(*index) {
                Some(node) => put(node, rest, value, diagnostics),
                None => {
                    diagnostics.report(place, format!("there is no `[{index}]`: the list has {length}, counted from 0"));
                }
            }
        }
    }
}
