//! stable-diffusion-webui's prompt grammar: `(more)`, `[less]`, `(so much:1.3)`, `BREAK`. Unaware of tokens.
//!
//! The grammar is that of `modules/prompt_parser.py` in version 1.8. What webui knows beyond it (prompt editing, `AND`, `<lora:…>`) is
//! refused, since drawing another picture in silence would be worse.

use std::sync::LazyLock;

use anyhow::{Context as _, bail};
use regex::Regex;

/// What a pair of round brackets multiplies by; square brackets divide by it.
const STEP: f64 = 1.1;

/// Text and its weight of a break between rows.
const BREAK: (&str, f64) = ("BREAK", -1.0);

static TOKEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\[()\[\]\\]?|\(|\[|:\s*([+-]?[.0-9]+)\s*\)|\)|\]|[^\\()\[\]:]+|:"));
static BREAKS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s*\bBREAK\b\s*"));
static EDITING: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|[^\\])\[[^\[\]]*[:|][^\[\]]*[^\[\]\\]?\]"));
static COMPOSED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bAND\b"));
static NETWORK: LazyLock<Regex> = LazyLock::new(|| pattern(r"<\w+:[^>]+>"));

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text, and how strongly it counts: 1 is plain.
    Text(String, f64),
    /// What follows goes into a new row.
    Break,
}

/// The parts of a prompt, neighbours of equal weight joined.
///
/// # Errors
/// On a weight that is no number, and on what of webui's grammar is not known here.
pub fn parse(prompt: &str) -> anyhow::Result<Vec<Part>> {
    refuse_unknown(prompt)?;
    let mut parts: Vec<(String, f64)> = Vec::new();
    let (mut round, mut square) = (Vec::new(), Vec::new());
    for found in TOKEN.captures_iter(prompt) {
        let token = &found[0];
        let weight = found.get(1).map(|weight| weight.as_str());
        match (token, weight) {
            ("(", _) => round.push(parts.len()),
            ("[", _) => square.push(parts.len()),
            (_, Some(weight)) if !round.is_empty() => {
                let weight = weight.parse().with_context(|| format!("`{weight}` in a prompt is no weight: expected a number"))?;
                multiply(&mut parts, round.pop(), weight);
            }
            (")", _) if !round.is_empty() => multiply(&mut parts, round.pop(), STEP),
            ("]", _) if !square.is_empty() => multiply(&mut parts, square.pop(), 1.0 / STEP),
            _ => match token.strip_prefix('\\') {
                Some(literal) => parts.push((literal.to_string(), 1.0)),
                None => {
                    for (i, text) in BREAKS.split(token).enumerate() {
                        if i > 0 {
                            parts.push((BREAK.0.to_string(), BREAK.1));
                        }
                        parts.push((text.to_string(), 1.0));
                    }
                }
            },
        }
    }
    // Brackets that were never closed count to the end.
    for from in round {
        multiply(&mut parts, Some(from), STEP);
    }
    for from in square {
        multiply(&mut parts, Some(from), 1.0 / STEP);
    }
    Ok(joined(parts))
}

fn refuse_unknown(prompt: &str) -> anyhow::Result<()> {
    if let Some(found) = NETWORK.find(prompt) {
        bail!("`{}` in a prompt is not read: name the LoRA in `lora:` and its strength in `strengths:`", found.as_str());
    }
    if COMPOSED.is_match(prompt) {
        bail!("`AND` in a prompt is not supported: write `and`, or one prompt for each");
    }
    if let Some(found) = EDITING.find(prompt) {
        bail!("prompt editing is not supported: `{}`; write `\\[` for a bracket", found.as_str().trim());
    }
    Ok(())
}

fn multiply(parts: &mut [(String, f64)], from: Option<usize>, factor: f64) {
    for (_, weight) in parts.iter_mut().skip(from.unwrap_or(0)) {
        *weight *= factor;
    }
}

fn joined(parts: Vec<(String, f64)>) -> Vec<Part> {
    let mut joined: Vec<(String, f64)> = Vec::new();
    for (text, weight) in parts {
        match joined.last_mut() {
            Some((before, same)) if *same == weight => before.push_str(&text),
            _ => joined.push((text, weight)),
        }
    }
    // A break whose weight was multiplied by brackets is none: webui takes it for the word.
    let part =
        |(text, weight): (String, f64)| if (text.as_str(), weight) == BREAK { Part::Break } else { Part::Text(text, weight) };
    if joined.is_empty() { vec![Part::Text(String::new(), 1.0)] } else { joined.into_iter().map(part).collect() }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_parses(prompt: &str, expected: &[(&str, f64)]) {
        let found = parse(prompt).unwrap();
        assert_eq!(found.len(), expected.len(), "{prompt}: {found:?}");
        for (found, (text, weight)) in found.iter().zip(expected) {
            match found {
                Part::Break => assert_eq!(*text, "BREAK", "{prompt}"),
                Part::Text(t, w) => {
                    assert!(t == text && (w - weight).abs() < 1e-4, "{prompt}: {found:?} is not {text:?}, {weight}")
                }
            }
        }
    }

    #[test]
    fn webuis_own_examples_parse_as_there() {
        assert_parses("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        assert_parses("(unbalanced", &[("unbalanced", 1.1)]);
        assert_parses("\\(literal\\]", &[("(literal]", 1.0)]);
        assert_parses("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        let house = "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).";
        let parts = [
            ("a ", 1.0),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641),
            (".", 1.1),
        ];
        assert_parses(house, &parts);
    }

    #[test]
    fn brackets_multiply_and_unmatched_ones_are_text() {
        assert_parses("[a]", &[("a", 0.909_090_9)]);
        assert_parses("[[a]]", &[("a", 0.826_446_3)]);
        assert_parses("((a))", &[("a", 1.21)]);
        assert_parses("a:1.5)", &[("a:1.5)", 1.0)]);
        assert_parses("(a:)", &[("a:", 1.1)]);
        assert_parses("(a:b:1.2)", &[("a:b", 1.2)]);
        assert_parses("(a]", &[("a]", 1.1)]);
        assert_parses("(a:.5)", &[("a", 0.5)]);
        assert_parses("(a:-1)", &[("a", -1.0)]);
        assert_parses("(a: 1.5)", &[("a", 1.5)]);
        assert_parses("()", &[("", 1.0)]);
        assert_parses("", &[("", 1.0)]);
        assert_parses("(a (b:2) c:0.5)", &[("a ", 0.5), ("b", 1.0), (" c", 0.5)]);
        assert_parses("a \\ b", &[("a  b", 1.0)]);
    }

    #[test]
    fn break_stands_alone_and_outside_brackets() {
        assert_parses("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
        assert_parses("aBREAKb", &[("aBREAKb", 1.0)]);
        assert_parses("BREAK a", &[("", 1.0), ("BREAK", -1.0), ("a", 1.0)]);
        assert_eq!(parse("(a BREAK b:1.3)").unwrap()[1], Part::Text("BREAK".into(), -1.3));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for prompt in
            ["(a:1.2.3)", "a <lora:cc_shrug_1880:1>", "a cat AND a dog", "a [b:c:0.5]", "[cow|horse] in a field", "[to:10]"]
        {
            assert!(parse(prompt).is_err(), "{prompt}");
        }
        for prompt in ["shrug, [filewords]", "\\[a:b\\]", "<b>", "BRAND", "a [b] : [c]"] {
            assert!(parse(prompt).is_ok(), "{prompt}");
        }
    }
}
