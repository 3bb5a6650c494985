//! Turns the events of the YAML parser into a tree: keys that are given once, aliases put in where they stand, and nothing beyond
//! the limits of `spec`. Unaware of files and of what the keys mean.

use std::collections::HashMap;
use std::sync::Arc;

use serde_yaml::granit_parser::{self, Event, ScalarStyle, StructureStyle, Tag};

use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::scalar::plain_scalar;
use crate::syntax::tree::{Key, Node, Source, Span, Value};
use crate::syntax::yaml::{MAX_TEXT, MAX_VALUES, span};

/// Turns events into a tree with a stack of its own: no depth of input is a depth of calls.
pub(crate) struct Builder<'a> {
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

impl<'a> Builder<'a> {
    /// For the text of `source` from byte `from` on.
    pub(crate) fn new(source: &'a Arc<Source>, from: usize, diagnostics: &'a mut Diagnostics) -> Self {
        Self {
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
        }
    }

    /// What the events gave; `None` if there was no value.
    pub(crate) fn into_root(self) -> Option<Node> {
        self.root
    }

    /// `None` ends the reading: a limit was passed.
    pub(crate) fn take(&mut self, event: Event<'_>, place: &granit_parser::Span) -> Option<()> {
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
