//! The file of hand-drawn boxes, `crops.yaml`: a name of an item, then its box. Unaware of pictures.
//!
//! ```yaml
//! IMG_0012: [120, 80, 600, 600]                        # left, top, width, height in pixels of the upright photo
//! garden/IMG_7: { x: 0.1, y: 0.2, w: 0.5, h: 0.5 }     # or as shares of its size
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::bail;
use unicode_normalization::UnicodeNormalization;

use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::params::check_mapping;
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Source, Value};
use crate::engine::syntax::yaml;
use crate::sd::data::crop::DrawnBox;

/// At 40 bytes a box, room for 100,000 of them.
pub const MAX_BYTES: u64 = 4 << 20;

/// The boxes by the name of their item. `name` is what the user calls the file; all that is wrong in it comes at once.
pub fn parse(name: &str, bytes: &[u8]) -> anyhow::Result<BTreeMap<String, DrawnBox>> {
    let Ok(text) = std::str::from_utf8(bytes) else { bail!("`{name}` is not UTF-8 text; save it as UTF-8") };
    let text = text.trim_start_matches('\u{feff}');
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    let source = Arc::new(Source { name: name.to_string(), text: text.to_string() });
    let mut diagnostics = Diagnostics::default();
    let boxes = yaml::parse(&source, 0, &mut diagnostics).map(|root| read(&root, &mut diagnostics)).unwrap_or_default();
    if diagnostics.is_empty() {
        return Ok(boxes);
    }
    let mut problems = String::from("the boxes cannot be read");
    for problem in diagnostics.into_sorted() {
        let (line, column) = problem.span.line_column();
        let _ = write!(problems, "\n  {name}:{line}:{column}: {}", problem.message);
        if let Some(hint) = problem.hint {
            let _ = write!(problems, "; {hint}");
        }
    }
    bail!(problems)
}

fn read(root: &Node, diagnostics: &mut Diagnostics) -> BTreeMap<String, DrawnBox> {
    let Value::Map(entries) = &root.value else {
        diagnostics
            .report(&root.span, format!("expected names with boxes, found {}", root.describe()))
            .hint("write `IMG_0012: [left, top, width, height]`");
        return BTreeMap::new();
    };
    entries.iter().filter_map(|(key, node)| Some((key.name.nfc().collect(), drawn_box(node, diagnostics)?))).collect()
}

fn drawn_box(node: &Node, diagnostics: &mut Diagnostics) -> Option<DrawnBox> {
    const SIDES: [&str; 4] = ["x", "y", "w", "h"];
    let numbers: Vec<f64> = match &node.value {
        Value::List(numbers) if numbers.len() == 4 => {
            let decoded: Vec<_> = numbers.iter().map(|number| f64::decode(number, diagnostics)).collect();
            decoded.into_iter().collect::<Option<_>>()?
        }
        Value::Map(_) => {
            check_mapping(node, &SIDES, diagnostics)?;
            let decoded: Vec<_> = SIDES
                .iter()
                .map(|side| match node.get(side) {
                    Some(number) => f64::decode(number, diagnostics),
                    None => {
                        diagnostics.report(&node.span, format!("`{side}` is missing"));
                        None
                    }
                })
                .collect();
            decoded.into_iter().collect::<Option<_>>()?
        }
        _ => {
            let found = match &node.value {
                Value::List(numbers) => format!("{} numbers", numbers.len()),
                _ => node.describe().to_string(),
            };
            diagnostics
                .report(&node.span, format!("expected a box, found {found}"))
                .hint("write `[left, top, width, height]` or `{ x: …, y: …, w: …, h: … }`");
            return None;
        }
    };
    let [left, top, width, height] = numbers.try_into().expect("there are four sides");
    if !(width > 0.0 && height > 0.0) {
        diagnostics.report(&node.span, "width and height must be above 0").hint("a box is [left, top, width, height]");
        return None;
    }
    Some(DrawnBox([left, top, width, height]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_lists_or_mappings_in_pixels_or_shares() {
        let text = "# mine\nIMG_1: [1, 2, 30, 40.5]\ngarden/IMG_2: { x: 0.1, y: 0.2, w: 0.5, h: 0.5 }\n";
        let boxes = parse("crops.yaml", text.as_bytes()).unwrap();
        assert_eq!(boxes["IMG_1"], DrawnBox([1.0, 2.0, 30.0, 40.5]));
        assert_eq!(boxes["garden/IMG_2"], DrawnBox([0.1, 0.2, 0.5, 0.5]));
        assert!(parse("crops.yaml", b"\n# none yet\n").unwrap().is_empty());
    }

    #[test]
    fn all_that_is_wrong_comes_at_once_with_its_place() {
        let text = "a: [1, 2, 3]\nb: [1, 2, wide, 4]\nc: { x: 1, y: 2, w: 3, height: 4 }\nd: [5, 5, 0, 9]\ne: whole\n";
        let problem = parse("crops.yaml", text.as_bytes()).unwrap_err().to_string();
        for expected in [
            "crops.yaml:1:4: expected a box, found 3 numbers",
            "crops.yaml:2:11: expected a number",
            "`height`",
            "`h` is missing",
            "crops.yaml:4:4: width and height must be above 0",
            "crops.yaml:5:4: expected a box, found text",
        ] {
            assert!(problem.contains(expected), "{expected} is not in:\n{problem}");
        }
    }
}
