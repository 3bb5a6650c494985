//! Variables: puts `${name}` into the tree before anything reads it, and leaves in it where a value came from. Unaware of stage
//! kinds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use regex::{Captures, Regex};

use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::scalar::plain_scalar;
use crate::syntax::tree::{Node, Source, Span, Value};
use crate::syntax::yaml::{MAX_DEPTH, MAX_TEXT, MAX_VALUES, span};

/// Answers for `${env.NAME}`.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// Longer than any prompt.
const MAX_EXPANDED_TEXT: usize = 64 << 10;

/// Puts the variables in, everywhere but in `vars` and `env` themselves. `environment` answers for `${env.NAME}`. Returns the
/// places of the values that could not be completed: what else is wrong with those is only a consequence.
pub fn expand(root: &mut Node, environment: &Environment<'_>, diagnostics: &mut Diagnostics) -> Vec<Span> {
    let mut variables = Variables::collect(root, environment, diagnostics);
    let names: Vec<String> = variables.written.keys().cloned().collect();
    for name in names {
        variables.resolve(&name, diagnostics);
    }
    if let Value::Map(entries) = &mut root.value {
        for (key, node) in entries {
            if !matches!(key.name.as_str(), "vars" | "env") {
                variables.expand(node, 0, diagnostics);
            }
        }
    }
    variables.broken
}

/// `${name}`, or `$${`, which stands for a plain `${`.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$\$\{|\$\{([^}]*)\}").expect("a valid pattern"));

struct Variables<'a> {
    /// By name, before anything is put in.
    written: BTreeMap<String, Node>,
    /// By name; `None` where it is in error, which was said.
    resolved: BTreeMap<String, Option<Node>>,
    /// Names that are being resolved, outermost first.
    open: Vec<String>,
    declared: Vec<String>,
    environment: &'a Environment<'a>,
    /// Put in so far.
    values: usize,
    text: usize,
    is_full: bool,
    broken: Vec<Span>,
}

impl<'a> Variables<'a> {
    fn collect(root: &Node, environment: &'a Environment<'a>, diagnostics: &mut Diagnostics) -> Self {
        let mut written = BTreeMap::new();
        let is_usable = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        };
        match root.get("vars") {
            Some(Node { value: Value::Map(entries), .. }) => {
                for (key, node) in entries {
                    if matches!(key.name.as_str(), "concept" | "trigger" | "env") {
                        diagnostics
                            .report(&key.span, format!("`${{{}}}` has a meaning of its own: choose another name", key.name));
                    } else if !is_usable(&key.name) {
                        diagnostics
                            .report(&key.span, format!("`{}` cannot name a variable", key.name))
                            .hint("letters, digits, `_` and `-`, and a letter first");
                    } else {
                        written.insert(key.name.clone(), node.clone());
                    }
                }
            }
            Some(Node { value: Value::Null, .. }) | None => {}
            Some(node) => {
                diagnostics.report(&node.span, format!("`vars` must be a mapping, found {}", node.describe()));
            }
        }
        let concept = root.get("concept");
        if let Some(trigger) = root.get("trigger").or(concept) {
            written.insert("trigger".into(), trigger.clone());
        }
        if let Some(concept) = concept {
            written.insert("concept".into(), concept.clone());
        }
        Self {
            written,
            resolved: BTreeMap::new(),
            open: Vec::new(),
            declared: declared_environment(root, diagnostics),
            environment,
            values: 0,
            text: 0,
            is_full: false,
            broken: Vec::new(),
        }
    }

    /// The value of a variable with everything put in; `None` if that cannot be.
    fn resolve(&mut self, name: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
        if let Some(resolved) = self.resolved.get(name) {
            return resolved.clone();
        }
        let mut node = self.written.get(name)?.clone();
        if let Some(from) = self.open.iter().position(|open| open == name) {
            let path: Vec<String> = self.open[from..].iter().chain([&name.to_string()]).map(|name| format!("`{name}`")).collect();
            diagnostics.report(&node.span, format!("these variables need each other: {}", path.join(" \u{2192} ")));
            self.resolved.insert(name.to_string(), None);
            return None;
        }
        if self.open.len() >= MAX_DEPTH {
            diagnostics.report(&node.span, format!("more than {MAX_DEPTH} variables stand in one another here"));
            return None;
        }
        self.open.push(name.to_string());
        let is_sound = self.expand(&mut node, 0, diagnostics);
        self.open.pop();
        let resolved = (is_sound && !matches!(self.resolved.get(name), Some(None))).then_some(node);
        self.resolved.insert(name.to_string(), resolved.clone());
        resolved
    }

    /// Puts variables into a node and all below it; false if something could not be put in.
    fn expand(&mut self, node: &mut Node, depth: usize, diagnostics: &mut Diagnostics) -> bool {
        match &mut node.value {
            // Not `all`: every problem is said, not only the first.
            Value::List(nodes) => {
                nodes.iter_mut().map(|node| self.expand(node, depth + 1, diagnostics)).filter(|sound| !sound).count() == 0
            }
            Value::Map(entries) => {
                entries.iter_mut().map(|(_, node)| self.expand(node, depth + 1, diagnostics)).filter(|sound| !sound).count() == 0
            }
            Value::Text(text) if text.contains("${") => {
                let text = text.clone();
                let is_sound = self.expand_text(node, &text, depth, diagnostics);
                if !is_sound {
                    self.broken.push(node.span.clone());
                }
                is_sound
            }
            _ => true,
        }
    }

    fn expand_text(&mut self, node: &mut Node, text: &str, depth: usize, diagnostics: &mut Diagnostics) -> bool {
        // A scalar that is one variable takes its value with its type.
        if let Some(found) = VARIABLE.captures(text).filter(|found| found[0].len() == text.len() && found.get(1).is_some()) {
            let Some(value) = self.lookup(&found, node, diagnostics) else { return false };
            if depth + height(&value) > MAX_DEPTH {
                diagnostics.report(&node.span, format!("this is nested more than {MAX_DEPTH} deep"));
                return false;
            }
            node.origin = Some(value.span);
            node.value = value.value;
            return true;
        }
        let mut expanded = String::new();
        let mut is_sound = true;
        let mut end = 0;
        for found in VARIABLE.captures_iter(text) {
            let whole = found.get(0).expect("the match itself");
            expanded.push_str(&text[end..whole.start()]);
            end = whole.end();
            if found.get(1).is_none() {
                expanded.push_str("${");
                continue;
            }
            let Some(value) = self.lookup(&found, node, diagnostics) else {
                is_sound = false;
                continue;
            };
            match scalar_text(&value.value) {
                Some(text) => expanded.push_str(&text),
                None => {
                    let place = place_of(&found[0], node);
                    diagnostics
                        .report(&place, format!("`{}` is {} and cannot stand inside text", &found[0], value.describe()))
                        .also(&value.span, "it is given here");
                    is_sound = false;
                }
            }
            if expanded.len() > MAX_EXPANDED_TEXT {
                diagnostics
                    .report(&node.span, format!("with its variables this text is longer than {} KiB", MAX_EXPANDED_TEXT >> 10));
                return false;
            }
            node.origin.get_or_insert(value.span);
        }
        if text[end..].contains("${") {
            diagnostics.report(&node.span, "a `${` here has no `}`").hint("close it, or write `$${` for a plain `${`");
            is_sound = false;
        }
        expanded.push_str(&text[end..]);
        node.value = Value::Text(expanded);
        is_sound
    }

    fn lookup(&mut self, found: &Captures<'_>, node: &Node, diagnostics: &mut Diagnostics) -> Option<Node> {
        if self.is_full {
            return None;
        }
        let place = place_of(&found[0], node);
        let name = &found[1];
        let value = if let Some(name) = name.strip_prefix("env.") {
            self.environment_variable(name, &place, diagnostics)?
        } else if self.written.contains_key(name) {
            self.resolve(name, diagnostics)?
        } else {
            let known: Vec<&str> = self.written.keys().map(String::as_str).collect();
            let problem = diagnostics.report(&place, format!("unknown variable `{name}`"));
            if name == "concept" || name == "trigger" {
                problem.hint("it is the pipeline's `concept:`, which is missing");
            } else {
                problem.hint(format!("known: {}; `$${{` writes a plain `${{`", known.join(", "))).did_you_mean(name, known);
            }
            return None;
        };
        self.count(&value, &place, diagnostics)?;
        Some(value)
    }

    fn environment_variable(&self, name: &str, place: &Span, diagnostics: &mut Diagnostics) -> Option<Node> {
        if !self.declared.iter().any(|declared| declared == name) {
            diagnostics
                .report(place, format!("the environment variable `{name}` is not declared"))
                .hint(format!("add `env: [{name}]` at the top of the file"));
            return None;
        }
        let Some(text) = (self.environment)(name) else {
            diagnostics.report(place, format!("the environment variable `{name}` is not set"));
            return None;
        };
        let value = plain_scalar(&text).unwrap_or_else(|_| Value::Text(text.clone()));
        let source = Arc::new(Source { name: format!("${name}"), text });
        Some(Node { span: span(&source, 0, source.text.len()), value, origin: None })
    }

    fn count(&mut self, value: &Node, place: &Span, diagnostics: &mut Diagnostics) -> Option<()> {
        let (values, text) = weight(value);
        self.values += values;
        self.text += text;
        let fits = self.values <= MAX_VALUES && self.text <= MAX_TEXT;
        if !fits && !self.is_full {
            self.is_full = true;
            diagnostics
                .report(place, format!("variables put in more than {MAX_VALUES} values or {} MiB of text", MAX_TEXT >> 20));
        }
        fits.then_some(())
    }
}

/// Adds to each problem with a value that a variable or an alias put in the place where that was given.
pub fn show_origins(root: &Node, diagnostics: &mut Diagnostics) {
    let mut origins = HashMap::new();
    collect_origins(root, &mut origins);
    for problem in diagnostics.iter_mut().filter(|problem| problem.also.is_none()) {
        if let Some(origin) = origins.get(&(problem.span.start, problem.span.end)).filter(|(span, _)| *span == &problem.span) {
            problem.also(origin.1, "the value is given here");
        }
    }
}

/// By start and end of the place where a value was put in.
type Origins<'a> = HashMap<(usize, usize), (&'a Span, &'a Span)>;

fn collect_origins<'a>(node: &'a Node, into: &mut Origins<'a>) {
    if let Some(origin) = &node.origin {
        into.insert((node.span.start, node.span.end), (&node.span, origin));
    }
    match &node.value {
        Value::List(nodes) => nodes.iter().for_each(|node| collect_origins(node, into)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| collect_origins(node, into)),
        _ => {}
    }
}

/// `env: [NAME]`.
fn declared_environment(root: &Node, diagnostics: &mut Diagnostics) -> Vec<String> {
    let nodes = match root.get("env") {
        None | Some(Node { value: Value::Null, .. }) => return Vec::new(),
        Some(Node { value: Value::List(nodes), .. }) => nodes.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    let mut names = Vec::new();
    for node in nodes {
        match &node.value {
            Value::Text(name) => names.push(name.clone()),
            _ => {
                diagnostics
                    .report(&node.span, format!("expected the name of an environment variable, found {}", node.describe()));
            }
        }
    }
    names
}

/// Where `written` stands inside a node, where that is known; else the whole node.
fn place_of(written: &str, node: &Node) -> Span {
    let text = &node.span.source.text[node.span.start..node.span.end];
    match text.find(written) {
        Some(at) => span(&node.span.source, node.span.start + at, node.span.start + at + written.len()),
        None => node.span.clone(),
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// Values and bytes of text.
fn weight(node: &Node) -> (usize, usize) {
    let sum = |(values, text): (usize, usize), node: &Node| {
        let (v, t) = weight(node);
        (values + v, text + t)
    };
    match &node.value {
        Value::List(nodes) => nodes.iter().fold((1, 0), sum),
        Value::Map(entries) => entries.iter().map(|(_, node)| node).fold((1, 0), sum),
        Value::Text(text) => (1, text.len()),
        _ => (1, 0),
    }
}

fn height(node: &Node) -> usize {
    match &node.value {
        Value::List(nodes) => 1 + nodes.iter().map(height).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| height(node)).max().unwrap_or(0),
        _ => 0,
    }
}
