//! Reads pipeline.yaml once into a tree with a span for every key and value. Unaware of what the keys mean.
//!
//! Everything is bounded: the file, the depth, the number of values and the text that aliases multiply.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use serde_yaml::granit_parser::{self, Parser};

use crate::cache::regular_file::{self, Links};
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Node, Source, Span};
use crate::syntax::tree_builder::Builder;
use crate::syntax::yaml_errors;

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
    let read = regular_file::read(path, Links::Followed, MAX_BYTES);
    let whole_file = |text: &str| span(&Arc::new(Source { name: name.clone(), text: text.to_string() }), 0, 0);
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            diagnostics
                .report(&whole_file(""), format!("this file is larger than {} MiB", MAX_BYTES >> 20))
                .hint("a pipeline file is a page of YAML; photos and models are named under `inputs`");
            return None;
        }
        Err(error) => {
            diagnostics.report(&whole_file(""), format!("cannot read this file: {error}"));
            return None;
        }
    };
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
    let mut builder = Builder::new(source, from, diagnostics);
    for event in Parser::new_from_str_with_options(&source.text[from..], options) {
        match event {
            Ok((event, place)) => builder.take(event, &place)?,
            Err(error) => {
                yaml_errors::report(source, from, &error, diagnostics);
                return None;
            }
        }
    }
    let root = builder.into_root();
    if root.is_none() {
        diagnostics.report(&span(source, from, from), "nothing is written here");
    }
    root
}

/// A span of `source`, cut back to whole characters.
pub fn span(source: &Arc<Source>, start: usize, end: usize) -> Span {
    let floor = |at: usize| (0..=at.min(source.text.len())).rev().find(|&at| source.text.is_char_boundary(at)).unwrap_or(0);
    Span { source: source.clone(), start: floor(start), end: floor(end.max(start)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::tree::Value;

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
