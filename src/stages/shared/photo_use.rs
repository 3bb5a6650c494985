//! How stages read pictures: with a limit, with a colour behind transparent parts, and with what a key must say of a photo.
//! Unaware of what becomes of them.

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::engine::inputs::picture_files::MOST_BYTES;
use crate::engine::kind::item::{Artifact, Item};
use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::stage::{Context, Work};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::data::decode::{self, Background, Decoded};
use crate::sd::data::named_colours::Colours;

/// The picture of a piece of work, decoded; says what the user should know of its colours.
pub fn read(work: &Work, background: Background, context: &dyn Context) -> anyhow::Result<Decoded> {
    let image = &work.inputs["image"];
    let file = format!("{}.{}", work.name, image.extension);
    let decoded = decode_within(image, background, context).with_context(|| format!("reading `{file}`"))?;
    if let Colours::NotUnderstood(why) = &decoded.colours {
        context.say(&format!("the colour profile of `{file}` cannot be used, and its colours are taken as sRGB: {why}"));
    }
    Ok(decoded)
}

fn decode_within(image: &Artifact, background: Background, context: &dyn Context) -> anyhow::Result<Decoded> {
    // Before a byte of it is in memory.
    ensure!(image.size <= MOST_BYTES, "the file has {} MB; at most {} MB are read", image.size >> 20, MOST_BYTES >> 20);
    decode::decode_over(&context.read(image)?, background)
}

/// What of a photo's file is worth a word before a run.
pub struct Seen {
    /// Its colours are not sRGB.
    pub is_converted: bool,
    pub was_transparent: bool,
    /// Why its colours are taken as sRGB although it names others.
    pub unusable_profile: Option<String>,
}

/// Decodes a photo only to see what is in it.
///
/// # Errors
/// If it cannot be read.
pub fn look(bytes: &[u8]) -> anyhow::Result<Seen> {
    let Decoded { was_transparent, colours, .. } = decode::decode(bytes)?;
    let is_converted = colours == Colours::Converted;
    let unusable_profile = match colours {
        Colours::NotUnderstood(why) => Some(why),
        Colours::Srgb | Colours::Converted => None,
    };
    Ok(Seen { is_converted, was_transparent, unusable_profile })
}

/// Puts into the key of a piece of work what its picture may need beside its contents: the colours it is brought to, and what
/// lies behind transparent parts. Only a photo as it came may need either; pictures that stages made are opaque and sRGB, and
/// their keys stay as they were when neither was known.
pub fn cover_photo(work: &mut Work, item: &Item, background: Background) {
    let digest = |field: &str| item.fields.get(field).map(|artifact| artifact.digest);
    if digest("image").is_some() && digest("image") == digest("photo") {
        work.values.insert("colours".into(), json!("srgb"));
        if background != Background::Stored {
            work.values.insert("background".into(), background.canonical());
        }
    }
}

/// Names of colours, and the numbers they stand for.
const NAMES: [(&str, [u8; 3]); 3] = [("white", [255; 3]), ("grey", [128; 3]), ("black", [0; 3])];

impl ParamValue for Background {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let found = match &node.value {
            Value::Text(text) if text == "stored" => Some(Self::Stored),
            Value::Text(text) => named(text).or_else(|| numbered(text)).map(Self::Colour),
            _ => None,
        };
        if found.is_none() {
            diagnostics
                .report(&node.span, "expected a colour")
                .hint("write `white`, `grey`, `black`, `\"#rrggbb\"`, or `stored`");
        }
        found
    }

    /// `#ffffff`, also of a colour that was named.
    fn canonical(&self) -> serde_json::Value {
        match self {
            Self::Colour([red, green, blue]) => json!(format!("#{red:02x}{green:02x}{blue:02x}")),
            Self::Stored => json!("stored"),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^(white|grey|black|stored|#[0-9A-Fa-f]{6}|\$\{[^}]+\})$" })
    }
}

fn named(text: &str) -> Option<[u8; 3]> {
    NAMES.iter().find(|(name, _)| *name == text).map(|(_, colour)| *colour)
}

fn numbered(text: &str) -> Option<[u8; 3]> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
    let [_, red, green, blue] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some([red, green, blue])
}
