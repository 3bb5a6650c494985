//! The kind `crop`: selects the part of each photo that training will see.

pub mod boxes;

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::json;

use crate::engine::kind::item::Artifact;
use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::params::{Declared, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Files, Form, ItemSize, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::{LoadScope, StageKind};
use crate::engine::syntax::diagnostic::{Diagnostics, nearest};
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::data::crop::{self, Aspect, DrawnBox};
use crate::sd::data::decode::Background;
use crate::sd::data::encode;
use crate::stages::shared::photo_use;
use crate::{choice, params};

/// An item stage on the CPU, one piece of work per photo.
pub const KIND: StageKind = StageKind { name: "crop", version: 2, writes: &["image"], load, ..StageKind::of::<CropParams>() };

params! {
    /// Cuts each photo to one shape: the largest box of the aspect, in the middle or around a box you drew.
    ///
    /// Photos are turned upright first, as their EXIF orientation says, and brought to sRGB from the colour profile that they carry. Only
    /// selects pixels; `resize` scales them. A photo that is upright, sRGB and opaque and needs no cut passes as it is; the others come out as
    /// 8-bit RGB PNG.
    pub struct CropParams {
        /// The photos: a folder (JPEG, PNG, WebP, TIFF, BMP) or a stage.
        input images: Reference => Many["image"],
        /// Width to height as `w:h`, or `keep` for the shape the photo or the drawn box has.
        result aspect: Aspect = Aspect::Ratio(1, 1),
        /// Where the box lies for photos without a drawn one.
        result focus: Focus = Focus::Center,
        /// A YAML file of drawn boxes, `crops.yaml`: `IMG_0012: [left, top, width, height]` or `IMG_0012: { x: …, y: …, w: …, h: … }`, by
        /// the photo's name without its ending, in pixels of the upright photo; four numbers of at most 1 are shares of its size. A box
        /// may be rough: it grows to the aspect inside the photo and never cuts what you drew. Changing one box redoes one photo.
        input boxes: Option<Reference> = None => One["file"],
        /// What lies behind transparent parts: `white`, `grey`, `black` or `"#rrggbb"`; `stored` for the colour that the file has there, which
        /// nobody has seen and most programs leave black.
        result background: Background = Background::WHITE,
    }
}

choice! {
    /// What the middle of the box is.
    pub enum Focus {
        /// The middle of the photo.
        Center = "center",
    }
}

impl ParamValue for Aspect {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let side = |text: &str| text.trim().parse::<u32>().ok().filter(|side| (1..=65_535).contains(side));
        let aspect = match &node.value {
            Value::Text(text) if text == "keep" => Some(Self::Keep),
            Value::Text(text) => text.split_once(':').and_then(|(w, h)| Some(Self::Ratio(side(w)?, side(h)?))),
            _ => None,
        };
        if aspect.is_none() {
            diagnostics.report(&node.span, "expected an aspect").hint("write `1:1`, `2:3` or another `width:height`, or `keep`");
        }
        aspect
    }

    /// In lowest terms: `2:4` is `1:2`.
    fn canonical(&self) -> serde_json::Value {
        match *self {
            Self::Keep => json!("keep"),
            Self::Ratio(width, height) => {
                let (mut divisor, mut rest) = (width, height);
                while rest > 0 {
                    (divisor, rest) = (rest, divisor % rest);
                }
                json!(format!("{}:{}", width / divisor, height / divisor))
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^(keep|[0-9]+:[0-9]+)$" })
    }
}

/// Names the finder of focal points that is not here yet.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    if let Some(Node { value: Value::Text(focus), span, .. }) = node.get("focus")
        && focus == "auto"
    {
        diagnostics
            .report(span, "`focus: auto` comes with the focal-point finder, not in this version")
            .hint("draw boxes (`boxes:`) for the photos whose middle is wrong");
        return None;
    }
    Some(Box::new(CropParams::decode_params(node, diagnostics)?))
}

impl Stage for CropParams {
    /// Without a background at the value that stands for what was done when there was none.
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        let mut components = self.results();
        components.retain(|(name, _)| name != "background" || self.background != Background::Stored);
        components
    }

    fn most_bytes(&self, param: &str) -> Option<u64> {
        (param == "boxes").then_some(boxes::MAX_BYTES)
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn item_size(&self) -> ItemSize {
        ItemSize::Varying
    }

    fn lint(&self, inputs: &Resolved, files: &dyn Files) -> Vec<String> {
        // A file that cannot be read is an error of `expand`.
        let boxes = self.drawn_boxes(inputs, files).unwrap_or_default();
        let names: Vec<&str> = inputs.items("images").iter().map(|item| item.name.as_str()).collect();
        let unknown = boxes.keys().filter(|name| !names.contains(&name.as_str()) && !files.is_left_out(name));
        unknown
            .map(|name| match nearest(name, names.iter().copied()) {
                Some(near) => format!("there is a box for `{name}`, but no photo; did you mean `{near}`?"),
                None => format!("there is a box for `{name}`, but no photo of that name"),
            })
            .collect()
    }
}

impl CropParams {
    fn drawn_boxes(&self, inputs: &Resolved, files: &dyn Files) -> anyhow::Result<BTreeMap<String, DrawnBox>> {
        let Some(reference) = &self.boxes else { return Ok(BTreeMap::new()) };
        let file = inputs.one("boxes", "file")?;
        boxes::parse(&reference.name, &files.read(file)?)
    }
}

impl ItemStage for CropParams {
    fn expand(&self, inputs: &Resolved, files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        let boxes = self.drawn_boxes(inputs, files)?;
        let work = inputs.items("images").iter().map(|item| {
            let mut work = Work::of_item(item, &["image"]);
            if let Some(DrawnBox(numbers)) = boxes.get(&item.name) {
                work.values.insert("box".into(), json!(numbers));
            }
            work
        });
        Ok(work.collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for CropParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let photo = &work.inputs["image"];
        let file = format!("{}.{}", work.name, photo.extension);
        let decoded = photo_use::read(work, self.background, context)?;
        if decoded.was_transparent {
            let shown = match self.background {
                Background::Stored => "they show the colour stored there".to_string(),
                Background::Colour(_) => format!("they are laid over {}", self.background.canonical()),
            };
            context.say(&format!("`{file}` has transparent parts: {shown}"));
        }
        let (width, height) = decoded.picture.dimensions();
        let area = match work.values.get("box") {
            None => crop::centred(width, height, self.aspect),
            Some(numbers) => {
                let drawn = DrawnBox(serde_json::from_value(numbers.clone()).expect("`expand` gives four numbers"));
                let area = crop::grown(drawn, width, height, self.aspect).with_context(|| format!("cropping `{file}`"))?;
                if !crop::has_aspect(area, self.aspect) {
                    context.say(&format!("the box of `{file}` cannot grow to the aspect inside the photo and keeps its own"));
                }
                area
            }
        };
        let image = if decoded.is_as_stored() && (area.width, area.height) == (width, height) {
            Content::Same(Artifact { extension: decoded.format.extension().into(), ..photo.clone() })
        } else {
            Content::Bytes { bytes: encode::png_between_stages(&crop::cut(&decoded.picture, area)), extension: "png" }
        };
        let draft = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        Ok(vec![draft.field("image", image)])
    }
}
