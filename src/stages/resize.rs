//! The kind `resize`: brings pictures to the size training works in.

use anyhow::Context as _;
use serde_json::json;

use crate::data::{decode, encode, resize};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::params::{ParamDoc, ParamValue, Params};
use crate::pipeline::reference::Reference;
use crate::pipeline::stage::{
    Content, Context, Draft, Files, Form, InputShape, InputUse, ItemStage, LoadScope, Resolved, Stage, StageKind, Work, Worker,
};
use crate::pipeline::tree::{Node, Value};
use crate::{choice, params};

pub struct ResizeKind;

params! {
    /// Scales pictures to one size with Pillow's Lanczos filter and writes them as 8-bit RGB PNG.
    ///
    /// Stable Diffusion 1.x is at home at 512 × 512, 2.x at 768 × 768.
    pub struct ResizeParams {
        /// The pictures.
        input images: Reference,
        /// Side in pixels, or `[width, height]`.
        result size: Size = Size { width: 512, height: 512 },
        /// What happens to a picture of another shape.
        result mode: Mode = Mode::Crop,
    }
}

choice! {
    /// How a picture of another shape fills the size.
    pub enum Mode {
        /// Fills it and cuts what hangs over, the same on both sides.
        Crop = "crop",
        /// Fits inside; the outermost pixels are repeated up to the border.
        Pad = "pad",
        /// Is squeezed.
        Stretch = "stretch",
    }
}

/// Width and height in pixels, 1 to 16384.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl ParamValue for Size {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        const LARGEST: i64 = 16_384;
        let side = |node: &Node| match node.value {
            Value::Integer(side @ 1..=LARGEST) => Some(side as u32),
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

impl StageKind for ResizeKind {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn version(&self) -> u32 {
        1
    }

    fn doc(&self) -> &'static str {
        ResizeParams::DOC
    }

    fn params(&self) -> Vec<ParamDoc> {
        ResizeParams::fields()
    }

    fn writes(&self) -> &'static [&'static str] {
        &["image"]
    }

    fn load(&self, node: &Node, _scope: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
        Some(Box::new(ResizeParams::decode_params(node, diagnostics)?))
    }
}

impl Stage for ResizeParams {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        Params::components(self)
    }

    fn inputs(&self) -> Vec<InputUse> {
        vec![InputUse { param: "images".into(), reference: self.images.clone(), reads: &["image"], shape: InputShape::Many }]
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for ResizeParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for ResizeParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let image = &work.inputs["image"];
        let reading = || format!("reading `{}.{}`", work.name, image.extension);
        let picture = decode::decode(&context.read(image)?).with_context(reading)?.picture;
        let Size { width, height } = self.size;
        let scaled = match self.mode {
            Mode::Crop => resize::crop(&picture, width, height),
            Mode::Pad => resize::pad(&picture, width, height),
            Mode::Stretch => resize::stretch(&picture, width, height),
        };
        let draft = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        Ok(vec![draft.field("image", Content::Bytes { bytes: encode::png(&scaled), extension: "png" })])
    }
}
