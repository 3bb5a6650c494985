//! Problems as text: what is wrong, the line it stands in, a caret below it, and what to do.
//!
//! ```text
//! error: unknown parameter `ranks`
//!   --> pipelines/cat/pipeline.yaml:14:7
//!    |
//! 14 |       ranks: 8
//!    |       ^^^^^
//! hint: did you mean `rank`?
//! ```

use unicode_width::UnicodeWidthChar;

use crate::cli::terminal::output::{Paint, Painted, escaped};
use crate::engine::syntax::diagnostic::Diagnostic;
use crate::engine::syntax::tree::Span;

/// Problems beyond these are only counted.
const SHOWN: usize = 50;

/// Columns of a quoted line; of a longer one the part around the place is shown.
const WIDTH: usize = 120;

/// Characters of a message or hint.
const LONGEST: usize = 1000;

/// A tab goes to the next multiple of this.
const TAB: usize = 4;

/// All problems, with a line that counts them if there are several.
pub fn problems(problems: &[Diagnostic], colours: bool) -> Painted {
    let mut text = Painted::new(colours);
    for problem in problems.iter().take(SHOWN) {
        text.paint(Paint::BoldRed, "error");
        text.add(": ");
        text.paint(Paint::Bold, &printable(&problem.message));
        text.add("\n");
        place(&mut text, &problem.span, "^", Paint::BoldRed);
        if let Some((span, why)) = &problem.also {
            remark(&mut text, "note", why);
            place(&mut text, span, "-", Paint::BoldBlue);
        }
        if let Some(hint) = &problem.hint {
            remark(&mut text, "hint", hint);
        }
        text.add("\n");
    }
    if problems.len() > 1 {
        let rest = if problems.len() > SHOWN { format!(", the first {SHOWN} are shown") } else { String::new() };
        text.add(&format!("{} problems{rest}\n", problems.len()));
        return text;
    }
    text.without_empty_end()
}

fn remark(text: &mut Painted, label: &str, remark: &str) {
    text.paint(Paint::BoldBlue, label);
    text.add(&format!(": {}\n", printable(remark)));
}

/// Source, line and column, then the line with `mark` below what is meant.
fn place(text: &mut Painted, span: &Span, mark: &str, paint: Paint) {
    let name = printable(&span.source.name);
    if span.source.text.is_empty() {
        text.add("  ");
        text.paint(Paint::BoldBlue, "-->");
        return text.add(&format!(" {name}\n"));
    }
    let (line_number, column) = span.line_column();
    let number = line_number.to_string();
    let margin = " ".repeat(number.len());
    let line = Line::around(span);
    let quoted = line.text.trim_end();
    text.add(&format!("{margin} "));
    text.paint(Paint::BoldBlue, "-->");
    text.add(&format!(" {name}:{line_number}:{column}\n{margin} "));
    text.paint(Paint::BoldBlue, "|");
    text.add("\n");
    text.paint(Paint::BoldBlue, &number);
    text.add(" ");
    text.paint(Paint::BoldBlue, "|");
    text.add(&format!("{}{quoted}\n{margin} ", if quoted.is_empty() { "" } else { " " }));
    text.paint(Paint::BoldBlue, "|");
    text.add(&format!(" {}", " ".repeat(line.before)));
    text.paint(paint, &mark.repeat(line.width));
    text.add("\n");
}

/// A source line as a terminal shows it.
struct Line {
    text: String,
    /// Columns before the marks.
    before: usize,
    /// Columns of the marks, at least one.
    width: usize,
}

impl Line {
    /// The first line of a span, cut to `WIDTH` columns around its start.
    fn around(span: &Span) -> Self {
        let text = &span.source.text;
        let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[span.start..].find(['\n', '\r']).map_or(text.len(), |at| span.start + at);
        // Long lines are cut by characters first: a line of many megabytes is not laid out.
        let cut_start = text[start..span.start].char_indices().rev().nth(WIDTH / 2).map_or(start, |(at, _)| start + at);
        let cut_end = text[span.start..end].char_indices().nth(WIDTH / 2).map_or(end, |(at, _)| span.start + at);
        let mut shown = String::new();
        let mut columns = 0;
        if cut_start > start {
            shown.push('\u{2026}');
            columns += 1;
        }
        let (mut before, mut after) = (columns, None);
        for (at, character) in text[cut_start..cut_end].char_indices().map(|(at, c)| (cut_start + at, c)) {
            if at == span.start {
                before = columns;
            }
            if at == span.end && at > span.start {
                after = Some(columns);
            }
            columns += lay_out(character, columns, &mut shown);
        }
        if span.start >= cut_end {
            before = columns;
        }
        let after = after.unwrap_or(columns).max(before);
        if cut_end < end {
            shown.push('\u{2026}');
        }
        let width = if span.end == span.start { 1 } else { (after - before).max(1) };
        Self { text: shown, before, width }
    }
}

/// Appends a character as it can be shown and returns its columns.
fn lay_out(character: char, column: usize, into: &mut String) -> usize {
    match character {
        '\t' => {
            let width = TAB - column % TAB;
            into.push_str(&" ".repeat(width));
            width
        }
        c => {
            let mut bytes = [0; 4];
            let shown = escaped(c.encode_utf8(&mut bytes));
            into.push_str(&shown);
            shown.chars().map(|c| c.width().unwrap_or(0)).sum()
        }
    }
}

/// What a message may quote, cut to `LONGEST`.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    let mut length = 0;
    for character in text.chars() {
        let mut bytes = [0; 4];
        let piece = escaped(character.encode_utf8(&mut bytes));
        length += piece.chars().count();
        if length > LONGEST {
            shown.push('\u{2026}');
            break;
        }
        shown.push_str(&piece);
    }
    shown
}
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::syntax::diagnostic::Diagnostics;
    use crate::engine::syntax::tree::Source;
    use crate::engine::syntax::yaml::span;

    fn rendered(text: &str, start: usize, end: usize) -> String {
        let source = Arc::new(Source { name: "p.yaml".into(), text: text.into() });
        let mut diagnostics = Diagnostics::default();
        diagnostics.report(&span(&source, start, end), "wrong").hint("do better");
        problems(&diagnostics.into_sorted(), false).to_string()
    }

    #[test]
    fn a_problem_shows_its_line_with_a_caret_below() {
        let text = "a: 1\nb:\n  ranks: 8\n";
        let expected = "error: wrong\n  --> p.yaml:3:3\n  |\n3 |   ranks: 8\n  |   ^^^^^\nhint: do better\n";
        assert_eq!(rendered(text, 10, 15), expected);
    }

    #[test]
    fn carets_stand_below_their_text_after_tabs_and_wide_characters() {
        let text = "\u{732b}\u{732b}\tkey: v";
        let shown = rendered(text, 7, 10);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[3], "1 | \u{732b}\u{732b}    key: v");
        // Two wide characters take four columns, the tab four more.
        assert_eq!(lines[4], format!("  | {}^^^", " ".repeat(8)));
    }

    #[test]
    fn a_place_of_no_length_and_the_end_of_a_file_get_one_caret() {
        assert!(rendered("a: 1", 4, 4).contains("1 | a: 1\n  |     ^\n"));
        assert!(rendered("a: 1\n", 5, 5).contains("\n2 |\n  | ^\n"));
    }

    #[test]
    fn a_line_of_a_megabyte_is_cut_around_the_place() {
        let text = format!("{}wrong{}", "x".repeat(1 << 20), "y".repeat(1 << 20));
        let shown = rendered(&text, 1 << 20, (1 << 20) + 5);
        assert!(shown.len() < 1000, "{}", shown.len());
        assert!(shown.contains("xwrongy") && shown.contains("^^^^^\n"), "{shown}");
    }

    #[test]
    fn escape_sequences_of_a_file_do_not_reach_the_terminal() {
        let shown = rendered("a: \u{1b}[31mred\u{202e}\n", 0, 1);
        assert!(shown.contains(r"1 | a: \u{1b}[31mred\u{202e}") && shown.contains("\n  | ^\n"), "{shown:?}");
        let shown = rendered("\u{1b}: wrong\n", 3, 8);
        assert!(shown.contains(&format!("\n  | {}^^^^^\n", " ".repeat(r"\u{1b}: ".len()))), "{shown}");
    }
}
