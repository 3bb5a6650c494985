//! The size of a picture as a param: `512`, or `[512, 768]`.

use serde_json::json;

use crate::engine::kind::params::ParamValue;
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};

/// Pixels of the longest side of a picture.
pub const LARGEST: u32 = 16_384;

/// Width and height in pixels, 1 to 16384.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl ParamValue for Size {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let side = |node: &Node| match node.value {
            Value::Integer(side) if (1..=i64::from(LARGEST)).contains(&side) => Some(side as u32),
            _ => None,
        };
        let size = match &node.value {
            Value::List(sides) => match sides.as_slice() {
                [width, height] => side(width).zip(side(height)),
                _ => None,
            },
            _ => side(node).map(|side| (side, side)),
        };
        if size.is_none() {
            diagnostics
                .report(&node.span, format!("expected a size in pixels from 1 to {LARGEST}"))
                .hint("write `512`, or `[width, height]` as in `[512, 768]`");
        }
        size.map(|(width, height)| Self { width, height })
    }

    /// Always both sides: `512` is `[512, 512]`.
    fn canonical(&self) -> serde_json::Value {
        json!([self.width, self.height])
    }

    fn schema() -> serde_json::Value {
        let side = json!({ "type": "integer", "minimum": 1, "maximum": 16_384 });
        json!({ "anyOf": [side, { "type": "array", "items": side, "minItems": 2, "maxItems": 2 }] })
    }
}
