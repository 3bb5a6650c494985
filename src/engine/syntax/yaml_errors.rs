//! What is wrong with a text that is not YAML, in words that help: the parser's where they do, ours where they speak of its inner
//! workings.

use std::sync::{Arc, LazyLock};

use regex::Regex;
use serde_yaml::granit_parser::{ErrorKind, ScanError};

use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Source, Span};
use crate::syntax::yaml::{MAX_DEPTH, span};

/// Reports where the YAML of `source` breaks off, `error` counting from byte `from`.
pub fn report(source: &Arc<Source>, from: usize, error: &ScanError, diagnostics: &mut Diagnostics) {
    let at = from + error.marker().byte_offset().unwrap_or(0);
    let width = source.text[span(source, at, at).start..].chars().next().filter(|c| *c != '\n').map_or(0, char::len_utf8);
    let place = span(source, at, at + width);
    if let Some((place, written)) = unquoted(source, &place) {
        diagnostics
            .report(&place, format!("inside `{{ }}` and `[ ]`, `{written}` needs quotes"))
            .hint(format!("write \"{written}\""));
        return;
    }
    if let Some((place, written)) = goes_on_after_brackets(source, &place) {
        diagnostics
            .report(&place, format!("text that begins with `{}` needs quotes", &written[..1]))
            .hint(format!("write \"{written}\""));
        return;
    }
    let problem = diagnostics.report(&place, wording(error.kind()));
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => {
            problem.hint("YAML is indented by spaces");
        }
        ErrorKind::UnexpectedCharacter { character } if !character.is_control() => {
            problem.hint(format!("text that begins with `{character}` needs quotes"));
        }
        ErrorKind::MappingValueNotAllowed => {
            problem.hint("text that holds `: ` needs quotes; otherwise look at the indentation");
        }
        ErrorKind::UnknownQuotedScalarEscape => {
            problem.hint("between double quotes a backslash is written `\\\\`; between single quotes it stands for itself");
        }
        _ => {}
    }
}

static CUT_SHORT: LazyLock<Regex> = LazyLock::new(|| {
    let reference = r"[^\s,:{}\[\]]+(?:@\[[^\]\n]*\]|\[[^\]\n]*\](?:@[\w:]+|@\[[^\]\n]*\])?)";
    let variable = r"[^\s,\[\]{}]*\$\{[^{}\s]+\}[^\s,\[\]{}]*";
    Regex::new(&format!("{reference}|{variable}")).expect("a valid pattern")
});

/// What ends a plain scalar between brackets although it was meant as part of it: `train@[20, 30]`, `train[rank=8]`, `${name}`.
fn unquoted(source: &Arc<Source>, place: &Span) -> Option<(Span, String)> {
    let line_start = source.text[..place.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = source.text[place.start..].find('\n').map_or(source.text.len(), |at| place.start + at);
    let line = &source.text[line_start..line_end];
    CUT_SHORT
        .find_iter(line)
        .find(|found| {
            let before = &line[..found.start()];
            let is_quoted = before.matches('"').count() % 2 == 1 || before.matches('\'').count() % 2 == 1;
            !is_quoted && before.contains(['{', '['])
        })
        .map(|found| (span(source, line_start + found.start(), line_start + found.end()), found.as_str().to_string()))
}

static LIST_THEN_TEXT: LazyLock<Regex> = LazyLock::new(|| {
    // A list as the whole of a value, and then more of the line that is no comment.
    Regex::new(r#"(?:^|: |- )\s*(\[[^\[\]"'\n]*\][^\S\n]*[^\s#"'\]}][^"'\n]*?)[^\S\n]*(?: #.*)?$"#).expect("a valid pattern")
});

/// A value that was meant as text and begins like a list: `[filewords], star`.
fn goes_on_after_brackets(source: &Arc<Source>, place: &Span) -> Option<(Span, String)> {
    let start = source.text[..place.start].rfind('\n').map_or(0, |at| at + 1);
    let end = source.text[place.start..].find('\n').map_or(source.text.len(), |at| place.start + at);
    let found = LIST_THEN_TEXT.captures(source.text[start..end].trim_end_matches('\r'))?.get(1)?;
    let (from, to) = (start + found.start(), start + found.end());
    (from..to).contains(&place.start).then(|| (span(source, from, to), found.as_str().to_string()))
}

/// The parser's words for most errors; ours where theirs speak of YAML's inner workings.
fn wording(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => "a tab cannot indent".into(),
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            format!("the control character U+{:04X} cannot stand here: is this a text file?", u32::from(*character))
        }
        ErrorKind::UnexpectedCharacter { character } => format!("`{character}` cannot begin a value"),
        ErrorKind::UnclosedFlowCollection { open } => format!("`{open}` is never closed"),
        ErrorKind::UnexpectedEofFlowSequence => "`[` is never closed".into(),
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => "`{` is never closed".into(),
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => format!("`{open}` is closed by `{close}`"),
        ErrorKind::MisplacedFlowCollectionEnd => "this bracket closes nothing".into(),
        ErrorKind::UnclosedQuotedScalar => "a quote is never closed".into(),
        ErrorKind::UnknownQuotedScalarEscape => "this escape is not known between double quotes".into(),
        ErrorKind::ExpectedFlowMappingSeparator => "expected `,` or `}`".into(),
        ErrorKind::ExpectedFlowSequenceSeparator => "expected `,` or `]`".into(),
        ErrorKind::ExpectedBlockMappingKey => "expected a key here: is this line indented like those above?".into(),
        ErrorKind::ExpectedBlockSequenceEntry => "expected `- ` here: is this line indented like those above?".into(),
        ErrorKind::SimpleKeyExpected => "expected `: ` after a key".into(),
        ErrorKind::MappingValueNotAllowed => "`:` cannot stand here".into(),
        ErrorKind::InvalidIndentation => "this line is not indented like those above".into(),
        ErrorKind::RecursionLimitExceeded => format!("this is nested more than {MAX_DEPTH} deep"),
        kind => kind.to_string(),
    }
}
