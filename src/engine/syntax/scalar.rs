//! What one scalar means and the one way to spell it: YAML 1.2's core schema in, one spelling out. `1e-4` is a number, `yes` is
//! text. Unaware of trees and of what a value is for.

use crate::syntax::tree::Value;

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

/// The spelling that all ways to write a scalar have in common: `1e-4` and `0.0001` give `0.0001`, `4.0` gives `4`. Text that
/// could be taken for something else is quoted. `None` for lists and mappings.
pub fn spelling(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("null".to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(spelled_number(*number)),
        Value::Text(text) if is_plain(text) => Some(text.clone()),
        Value::Text(text) => Some(serde_json::Value::from(text.as_str()).to_string()),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// The spelling of what a person wrote, quoted or not; `None` if a quote is not closed or a number is too large.
pub fn respelled(written: &str) -> Option<String> {
    let written = written.trim();
    let value =
        if written.starts_with('"') { Value::Text(serde_json::from_str(written).ok()?) } else { plain_scalar(written).ok()? };
    spelling(&value)
}

fn spelled_number(number: f64) -> String {
    // Whole numbers up to here are exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let size = number.abs();
    if number.fract() == 0.0 && size < EXACT {
        format!("{}", number as i64)
    } else if (1e-9..EXACT).contains(&size) {
        number.to_string()
    } else {
        format!("{number:e}")
    }
}

/// Whether a text needs no quotes where values stand in a list, after `=`.
fn is_plain(text: &str) -> bool {
    let has_meaning =
        |letter: char| letter.is_control() || matches!(letter, '[' | ']' | '{' | '}' | ',' | '=' | '"' | '\\' | '@' | '*');
    text.trim() == text && !text.contains(has_meaning) && matches!(plain_scalar(text), Ok(Value::Text(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::syntax::diagnostic::Diagnostics;
    use crate::syntax::tree::Source;
    use crate::syntax::yaml;

    #[test]
    fn scalars_follow_the_core_schema() {
        let value = |text: &str| {
            let source = Arc::new(Source { name: "test.yaml".into(), text: format!("v: {text}") });
            let root = yaml::parse(&source, 0, &mut Diagnostics::default()).expect("a tree");
            root.get("v").expect("there").value.clone()
        };
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
    fn every_way_to_write_a_value_has_one_spelling() {
        for (written, expected) in [
            ("1e-4", "0.0001"),
            ("0.0001", "0.0001"),
            ("0.00010", "0.0001"),
            ("4.0", "4"),
            ("+4", "4"),
            ("0x10", "16"),
            ("-0.5", "-0.5"),
            ("1e-12", "1e-12"),
            ("1e300", "1e300"),
            ("TRUE", "true"),
            ("~", "null"),
            ("cosine", "cosine"),
            (" photo of a star ", "photo of a star"),
            ("\"photo\"", "photo"),
            ("\"8\"", "\"8\""),
            ("\"a, b\"", "\"a, b\""),
        ] {
            assert_eq!(respelled(written).as_deref(), Some(expected), "{written}");
            assert_eq!(respelled(expected).as_deref(), Some(expected), "a spelling spells itself");
        }
        assert_eq!(respelled("\"open"), None);
        assert_eq!(respelled("99999999999999999999"), None);
        assert_eq!(spelling(&Value::List(Vec::new())), None);
    }
}
