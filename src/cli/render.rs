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

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::tree::Span;

/// Problems beyond these are only counted.
const SHOWN: usize = 50;

/// Columns of a quoted line; of a longer one the part around the place is shown.
const WIDTH: usize = 120;

/// Characters of a message or hint.
const LONGEST: usize = 1000;

/// A tab goes to the next multiple of this.
const TAB: usize = 4;

/// All problems, with a line that counts them if there are several.
pub fn problems(problems: &[Diagnostic], colours: bool) -> String {
    let paint = Paint { colours };
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        let _ = writeln!(text, "{}: {}", paint.red("error"), paint.bold(&printable(&problem.message)));
        text.push_str(&place(&problem.span, "^", &paint));
        if let Some((span, why)) = &problem.also {
            let _ = writeln!(text, "{}: {}", paint.blue("note"), printable(why));
            text.push_str(&place(span, "-", &paint));
        }
        if let Some(hint) = &problem.hint {
            let _ = writeln!(text, "{}: {}", paint.blue("hint"), printable(hint));
        }
        text.push('\n');
    }
    if problems.len() > 1 {
        let rest = if problems.len() > SHOWN { format!(", the first {SHOWN} are shown") } else { String::new() };
        let _ = writeln!(text, "{} problems{rest}", problems.len());
    } else if text.ends_with("\n\n") {
        text.pop();
    }
    text
}

/// Source, line and column, then the line with `mark` below what is meant.
fn place(span: &Span, mark: &str, paint: &Paint) -> String {
    let name = printable(&span.source.name);
    if span.source.text.is_empty() {
        return format!("  {} {name}\n", paint.blue("-->"));
    }
    let (line_number, column) = span.line_column();
    let number = line_number.to_string();
    let margin = " ".repeat(number.len());
    let line = Line::around(span);
    let arrow = paint.blue("-->");
    let bar = paint.blue("|");
    let marks = mark.repeat(line.width);
    let marks = if mark == "^" { paint.red(&marks) } else { paint.blue(&marks) };
    let quoted = format!("{} {bar} {}", paint.blue(&number), line.text);
    let before = " ".repeat(line.before);
    format!(
        "{margin} {arrow} {name}:{line_number}:{column}\n{margin} {bar}\n{}\n{margin} {bar} {before}{marks}\n",
        quoted.trim_end()
    )
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
        c if is_unprintable(c) => {
            into.push('\u{fffd}');
            1
        }
        c => {
            into.push(c);
            c.width().unwrap_or(0)
        }
    }
}

/// Control characters, and those that turn the direction of what follows: a file must not write to the terminal.
fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a message may quote, cut to `LONGEST`.
pub fn printable(text: &str) -> String {
    let shown = text.chars().map(|c| if is_unprintable(c) && c != '\n' { '\u{fffd}' } else { c });
    let rest = text.chars().nth(LONGEST).map(|_| '\u{2026}');
    shown.take(LONGEST).chain(rest).collect()
}

struct Paint {
    colours: bool,
}

impl Paint {
    fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn blue(&self, text: &str) -> String {
        self.paint("1;34", text)
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::diagnostic::Diagnostics;
    use crate::pipeline::spec::span;
    use crate::pipeline::tree::Source;

    fn rendered(text: &str, start: usize, end: usize) -> String {
        let source = Arc::new(Source { name: "p.yaml".into(), text: text.into() });
        let mut diagnostics = Diagnostics::default();
        diagnostics.report(&span(&source, start, end), "wrong").hint("do better");
        problems(&diagnostics.into_sorted(), false)
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
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
    }
}
