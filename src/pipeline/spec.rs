//! Reads pipeline.yaml once into a tree with a span for every key and value. Unaware of what the keys mean.
//!
//! YAML 1.2 with its core schema: `1e-4` is a number, `yes` is text, what is quoted is text. Everything is bounded: the file, the depth,
//! the number of values and the text that aliases multiply.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, StructureStyle, Tag};

use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::syntax;
use crate::pipeline::tree::{Key, Node, Source, Span, Value};

/// Ten thousand prompts fit many times; a file that was meant to be something else does not.
pub const MAX_BYTES: u64 = 4 << 20;

/// Deeper than any pipeline, shallow enough for code that walks a tree by recursion.
pub const MAX_DEPTH: usize = 64;

/// Values in a tree, those that aliases and variables put in again included.
pub const MAX_VALUES: usize = 100_000;

/// Bytes of text in a tree, counted in the same way.
pub const MAX_TEXT: usize = 16 << 20;

/// The tree of a file; `None` if there is none, with the reason in `diagnostics`.
pub fn read(path: &Path, diagnostics: &mut Diagnostics) -> Option<Node> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than is allowed shows that a file is too large, also where its size is not known before (a pipe).
    let opened = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    let whole_file = |text: &str| span(&Arc::new(Source { name: name.clone(), text: text.to_string() }), 0, 0);
    if let Err(error) = opened {
        diagnostics.report(&whole_file(""), format!("cannot read this file: {error}"));
        return None;
    }
    if bytes.len() as u64 > MAX_BYTES {
        diagnostics
            .report(&whole_file(""), format!("this file is larger than {} MiB", MAX_BYTES >> 20))
            .hint("a pipeline file is a page of YAML; photos and models are named under `inputs`");
        return None;
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let source = Arc::new(Source { name, text });
            let problem = diagnostics.report(&span(&source, valid, valid + 1), "this file is not UTF-8 text");
            if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                problem.hint("it looks like UTF-16: save it as UTF-8");
            } else {
                problem.hint("save it as UTF-8");
            }
            return None;
        }
    };
    parse(&Arc::new(Source { name, text }), 0, diagnostics)
}

/// The tree of the text of `source` from byte `from` on.
pub fn parse(source: &Arc<Source>, from: usize, diagnostics: &mut Diagnostics) -> Option<Node> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        emit_unresolved_aliases: true,
    };
    options.set_emit_comments(false);
    let mut builder = Builder {
        source,
        from,
        diagnostics,
        frames: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        values: 0,
        text: 0,
        documents: 0,
        here: span(source, from, from),
    };
    for event in Parser::new_from_str_with_options(&source.text[from..], options) {
        match event {
            Ok((event, place)) => builder.take(event, &place)?,
            Err(error) => {
                syntax::report(source, from, &error, builder.diagnostics);
                return None;
            }
        }
    }
    let root = builder.root.take();
    if root.is_none() {
        diagnostics.report(&span(source, from, from), "nothing is written here");
    }
    root
}

/// A plain scalar by the YAML 1.2 core schema; `Err` for a whole number beyond 64 bits.
pub fn plain_scalar(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Ok(Value::Float(f64::NAN)),
        _ => {}
    }
    let (negative, unsigned) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Ok(Value::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY }));
    }
    let digits = |text: &str, radix: u32| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    let whole = |parsed: Result<i64, _>| parsed.map(Value::Integer).map_err(|_: std::num::ParseIntError| too_large(text));
    if let Some(octal) = text.strip_prefix("0o").filter(|t| digits(t, 8)) {
        return whole(i64::from_str_radix(octal, 8));
    }
    if let Some(hexadecimal) = text.strip_prefix("0x").filter(|t| digits(t, 16)) {
        return whole(i64::from_str_radix(hexadecimal, 16));
    }
    if digits(unsigned, 10) {
        return whole(text.parse());
    }
    // Rust reads more as a float than YAML does (`inf`, `infinity`): only what is made of these may be one.
    let is_float = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && unsigned.contains(|c: char| c.is_ascii_digit());
    match text.parse() {
        Ok(float) if is_float => Ok(Value::Float(float)),
        _ => Ok(Value::Text(text.to_string())),
    }
}

fn too_large(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    let rest = if shown.len() < text.len() { "\u{2026}" } else { "" };
    format!("`{shown}{rest}` does not fit in 64 bits")
}

/// Turns events into a tree with a stack of its own: no depth of input is a depth of calls.
struct Builder<'a> {
    source: &'a Arc<Source>,
    from: usize,
    diagnostics: &'a mut Diagnostics,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    root: Option<Node>,
    values: usize,
    text: usize,
    documents: usize,
    /// The event being taken.
    here: Span,
}

/// A list or mapping that is still open.
struct Frame {
    start: Span,
    style: StructureStyle,
    anchor: usize,
    /// What the tree held when it began.
    values: usize,
    text: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashMap<String, Span>, pending: Pending },
}

/// The key whose value comes next.
enum Pending {
    None,
    Key(Key),
    /// A key that is in error: its value is passed over.
    Wrong,
}

struct Anchored {
    node: Node,
    values: usize,
    text: usize,
}

impl Builder<'_> {
    /// `None` ends the reading: a limit was passed.
    fn take(&mut self, event: Event<'_>, place: &granit_parser::Span) -> Option<()> {
        let place = self.place(place);
        self.here = place.clone();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.diagnostics
                        .report(&place, "a second document begins here")
                        .hint("one file is one pipeline: remove the `---`");
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => return self.scalar(&text, style, anchor, tag.as_deref(), place),
            Event::Alias(anchor) => return self.alias(anchor, place),
            Event::UnresolvedAlias(name) => {
                self.diagnostics
                    .report(&place, format!("there is no anchor `&{name}` before this"))
                    .hint("text that begins with `*` needs quotes");
                return self.put(place, Value::Null, 0);
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", &place);
                self.open(place, style, anchor, Content::List(Vec::new()));
            }
            Event::MappingStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", &place);
                let content = Content::Map { entries: Vec::new(), seen: HashMap::new(), pending: Pending::None };
                self.open(place, style, anchor, content);
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(&place),
            _ => {}
        }
        Some(())
    }

    fn place(&self, place: &granit_parser::Span) -> Span {
        let range = place.byte_range().unwrap_or(0..0);
        span(self.source, self.from + range.start, self.from + range.end)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>, place: Span) -> Option<()> {
        self.text += text.len();
        let is_key = matches!(self.frames.last(), Some(Frame { content: Content::Map { pending: Pending::None, .. }, .. }));
        if is_key {
            return self.key(text, style, place);
        }
        let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
        if !is_text {
            self.check_tag(tag, "str", &place);
        }
        let value = if style == ScalarStyle::Plain && !is_text {
            plain_scalar(text).unwrap_or_else(|problem| {
                self.diagnostics.report(&place, problem).hint("text that looks like a number needs quotes");
                Value::Null
            })
        } else {
            Value::Text(text.to_string())
        };
        // Nothing at all is shown where it is missing: at its key.
        let place = if place.start == place.end { self.pending_key().unwrap_or(place) } else { place };
        self.put(place, value, anchor)
    }

    fn key(&mut self, text: &str, style: ScalarStyle, place: Span) -> Option<()> {
        let is_missing = text.is_empty() || place.start == place.end;
        let next = if is_missing || (style == ScalarStyle::Plain && text == "<<") {
            if is_missing {
                self.diagnostics.report(&place, "a key is missing before this `:`");
            } else {
                self.diagnostics
                    .report(&place, "YAML 1.2 has no merge keys")
                    .hint("name shared values under `vars` and put them in by `${name}`");
            }
            Pending::Wrong
        } else {
            let Some(Frame { content: Content::Map { seen, .. }, .. }) = self.frames.last_mut() else { return Some(()) };
            if let Some(first) = seen.get(text) {
                self.diagnostics.report(&place, format!("`{text}` is given twice")).also(first, "the first is here");
                Pending::Wrong
            } else {
                seen.insert(text.to_string(), place.clone());
                Pending::Key(Key { name: text.to_string(), span: place })
            }
        };
        if let Some(Frame { content: Content::Map { pending, .. }, .. }) = self.frames.last_mut() {
            *pending = next;
        }
        self.count(1, 0)
    }

    fn alias(&mut self, anchor: usize, place: Span) -> Option<()> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            self.diagnostics.report(&place, "an anchor cannot hold itself");
            return self.put(place, Value::Null, 0);
        };
        let (values, text) = (anchored.values, anchored.text);
        // Before the copy is made.
        self.count(values, text)?;
        let node = &self.anchors[&anchor].node;
        let origin = Some(node.span.clone());
        let value = node.value.clone();
        self.place_node(Node { span: place, value, origin });
        Some(())
    }

    fn open(&mut self, place: Span, style: StructureStyle, anchor: usize, content: Content) {
        self.frames.push(Frame { start: place, style, anchor, values: self.values, text: self.text, content });
    }

    fn close(&mut self, end: &Span) -> Option<()> {
        let Some(frame) = self.frames.pop() else { return Some(()) };
        let value = match frame.content {
            Content::List(nodes) => Value::List(nodes),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        // A block has no brackets to point at: its key stands for it.
        let place = match (frame.style, self.pending_key()) {
            (StructureStyle::Block, Some(key)) => key,
            _ => Span { end: end.end.max(frame.start.end), ..frame.start },
        };
        let node = Node { span: place, value, origin: None };
        if frame.anchor != 0 {
            let (values, text) = (self.values - frame.values + 1, self.text - frame.text);
            self.count(values, text)?;
            self.anchors.insert(frame.anchor, Anchored { node: node.clone(), values, text });
        }
        self.count(1, 0)?;
        self.place_node(node);
        Some(())
    }

    fn put(&mut self, place: Span, value: Value, anchor: usize) -> Option<()> {
        let node = Node { span: place, value, origin: None };
        if anchor != 0 {
            let text = if let Value::Text(text) = &node.value { text.len() } else { 0 };
            self.count(1, text)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), values: 1, text });
        }
        self.count(1, 0)?;
        self.place_node(node);
        Some(())
    }

    /// Hands a finished node to the list or mapping around it.
    fn place_node(&mut self, node: Node) {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut frame.content {
            Content::List(nodes) => nodes.push(node),
            Content::Map { entries, pending, .. } => match std::mem::replace(pending, Pending::None) {
                Pending::Key(key) => entries.push((key, node)),
                Pending::Wrong => {}
                Pending::None => {
                    self.diagnostics.report(&node.span, format!("a key must be text, found {}", node.describe()));
                    *pending = Pending::Wrong;
                }
            },
        }
    }

    fn pending_key(&self) -> Option<Span> {
        match self.frames.last() {
            Some(Frame { content: Content::Map { pending: Pending::Key(key), .. }, .. }) => Some(key.span.clone()),
            _ => None,
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, place: &Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(expected)) {
            self.diagnostics
                .report(place, format!("the tag `{}` is not known here", tag.original()))
                .hint("remove it; quotes make text of anything");
        }
    }

    fn count(&mut self, values: usize, text: usize) -> Option<()> {
        self.values = self.values.saturating_add(values);
        self.text = self.text.saturating_add(text);
        if self.values <= MAX_VALUES && self.text <= MAX_TEXT {
            return Some(());
        }
        self.diagnostics
            .report(&self.here, format!("up to here are more than {MAX_VALUES} values or {} MiB of text", MAX_TEXT >> 20))
            .hint("aliases (`*name`) count each time they are used");
        None
    }
}

/// A span of `source`, cut back to whole characters.
pub fn span(source: &Arc<Source>, start: usize, end: usize) -> Span {
    let floor = |at: usize| (0..=at.min(source.text.len())).rev().find(|&at| source.text.is_char_boundary(at)).unwrap_or(0);
    Span { source: source.clone(), start: floor(start), end: floor(end.max(start)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let mut diagnostics = Diagnostics::default();
        let source = Arc::new(Source { name: "test.yaml".into(), text: text.into() });
        let node = parse(&source, 0, &mut diagnostics);
        let found = diagnostics.into_sorted();
        assert!(found.is_empty(), "{text:?}: {found:?}");
        node.expect("a tree")
    }

    fn problems(text: &str) -> Vec<String> {
        let mut diagnostics = Diagnostics::default();
        let source = Arc::new(Source { name: "test.yaml".into(), text: text.into() });
        let _ = parse(&source, 0, &mut diagnostics);
        diagnostics.into_sorted().into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let value = |text: &str| tree(&format!("v: {text}")).get("v").expect("there").value.clone();
        let text = |text: &str| Value::Text(text.into());
        for (written, expected) in [
            ("1e-4", Value::Float(0.0001)),
            ("0.0001", Value::Float(0.0001)),
            ("-.5", Value::Float(-0.5)),
            ("3.", Value::Float(3.0)),
            ("+12", Value::Integer(12)),
            ("007", Value::Integer(7)),
            ("0x1F", Value::Integer(31)),
            ("0o17", Value::Integer(15)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("~", Value::Null),
            ("null", Value::Null),
            ("TRUE", Value::Bool(true)),
            ("yes", text("yes")),
            ("off", text("off")),
            ("inf", text("inf")),
            ("nan", text("nan")),
            ("1_000", text("1_000")),
            ("1:30", text("1:30")),
            ("e5", text("e5")),
            (".", text(".")),
            ("-", text("-")),
            ("\"1e-4\"", text("1e-4")),
            ("'true'", text("true")),
            ("!!str 12", text("12")),
            ("train@20", text("train@20")),
            ("train@[20, 30]", text("train@[20, 30]")),
            ("${trigger}, [filewords]", text("${trigger}, [filewords]")),
        ] {
            // A lone `-` begins a list in YAML.
            if written != "-" {
                assert_eq!(value(written), expected, "{written}");
            }
        }
        assert_eq!(plain_scalar("-"), Ok(text("-")));
        assert!(matches!(value(".nan"), Value::Float(nan) if nan.is_nan()));
    }

    #[test]
    fn spans_cut_out_what_was_written() {
        let written =
            "a: 12 # twelve\r\nb\u{e4}r:\n  - \"x\\ty\"\n  - {c: \u{732b}, d: [1, 2]}\ne:\n  f: >\n    folded\n    text\n";
        let root = tree(written);
        let cut = |span: &Span| written[span.start..span.end].to_string();
        let Value::Map(entries) = &root.value else { panic!("a mapping") };
        let keys: Vec<String> = entries.iter().map(|(key, _)| cut(&key.span)).collect();
        assert_eq!(keys, ["a", "b\u{e4}r", "e"]);
        assert_eq!(cut(&entries[0].1.span), "12");
        let Value::List(list) = &entries[1].1.value else { panic!("a list") };
        assert_eq!(cut(&list[0].span), "\"x\\ty\"");
        assert_eq!(cut(&list[1].span), "{c: \u{732b}, d: [1, 2]}");
        assert_eq!(cut(&list[1].get("c").expect("there").span), "\u{732b}");
        assert_eq!(list[1].get("c").expect("there").span.line_column(), (4, 9));
        assert_eq!(cut(&list[1].get("d").expect("there").span), "[1, 2]");
        // A block is shown by its key.
        assert_eq!(cut(&entries[2].1.span), "e");
        assert_eq!(entries[2].1.get("f").expect("there").value, Value::Text("folded text\n".into()));
    }

    #[test]
    fn an_alias_repeats_a_value_and_remembers_where_it_was_written() {
        let root = tree("a: &x [1, {b: 2}]\nc: *x\n");
        let (first, second) = (root.get("a").expect("there"), root.get("c").expect("there"));
        assert_eq!(first.value, second.value);
        assert_eq!(second.origin.as_ref(), Some(&first.span));
        assert_eq!(second.span.line_column(), (2, 4));
    }

    #[test]
    fn every_prefix_and_every_lost_byte_of_a_file_ends_in_a_tree_or_in_problems_with_places() {
        let written =
            "a: &x {b: [1, 'two', \"thr\\u00e9\"], c: |\n  t\n}\nd:\n  - *x\n  - e: ${v}\n    f: g@[1, 2]\n\u{1f431}: null\n";
        let texts = written
            .char_indices()
            .flat_map(|(at, c)| [written[..at].to_string(), written[..at].to_string() + &written[at + c.len_utf8()..]]);
        for text in texts {
            let mut diagnostics = Diagnostics::default();
            let source = Arc::new(Source { name: "test.yaml".into(), text: text.clone() });
            let node = parse(&source, 0, &mut diagnostics);
            let found = diagnostics.into_sorted();
            assert!(node.is_some() || !found.is_empty(), "{text:?}");
            for problem in found {
                assert!(text.get(problem.span.start..problem.span.end).is_some(), "{text:?}: {problem:?}");
            }
        }
    }

    #[test]
    fn bombs_end_in_a_problem_and_not_in_memory() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
        }
        let mut long = format!("a: &a {}\nb: [", "x".repeat(1 << 20));
        long.push_str(&["*a"; 64].join(", "));
        long.push_str("]\n");
        let deep_flow = format!("a: {}", "[".repeat(100_000));
        let deep_block: String = (0..1000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        let wide = format!("a: [{}]", "1, ".repeat(300_000));
        for (text, expected) in [
            (bomb, "values or"),
            (long, "MiB of text"),
            (deep_flow, "nested more than 64 deep"),
            (deep_block, "nested more than 64 deep"),
            (wide, "values or"),
        ] {
            let found = problems(&text);
            assert!(found.len() == 1 && found[0].contains(expected), "{}: {found:?}", &text[..40]);
        }
    }
}
