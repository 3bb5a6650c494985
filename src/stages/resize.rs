//! The kind `resize`: brings pictures to the size, or the sizes, that training works in.

use serde_json::json;

use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::params::{Declared, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Files, Form, ItemSize, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::{LoadScope, StageKind};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::data::buckets::Buckets;
use crate::sd::data::decode::Background;
use crate::sd::data::{encode, resize};
use crate::stages::shared::photo_use::{self, cover_photo};
use crate::stages::shared::size::{LARGEST, Size};
use crate::{choice, params};

/// An item stage on the CPU, one piece of work per picture. Every output is encoded again, also where the size was right.
pub const KIND: StageKind = StageKind { name: "resize", version: 1, writes: &["image"], load, ..StageKind::of::<ResizeParams>() };

params! {
    /// Scales pictures to one size, or each to the nearest of several, with Pillow's Lanczos filter and writes them as 8-bit RGB PNG.
    ///
    /// Stable Diffusion 1.x is at home at 512 × 512, 2.x at 768 × 768. With `buckets:` photos that `crop: { aspect: keep }` left in their
    /// shapes lose little at the edges; `train` puts pictures of one size into a batch together.
    pub struct ResizeParams {
        /// The pictures.
        input images: Reference => Many["image"],
        /// Side in pixels, or `[width, height]`.
        result size: Size = Size { width: 512, height: 512 },
        /// Instead of `size`: the side of a square, or `{ size: 512, min: 256, max: 1024, step: 64 }`. Each picture gets the size of about
        /// this area whose shape is nearest to its own, as kohya's scripts choose it.
        result buckets: Option<BucketUse> = None,
        /// What happens to a picture of another shape.
        result mode: Mode = Mode::Crop,
        /// What lies behind transparent parts of photos: `white`, `grey`, `black`, `"#rrggbb"`, or `stored` for the colour that the file has
        /// there. What comes from `crop` is opaque.
        result background: Background = Background::WHITE,
    }
}

/// The defaults of kohya's scripts.
const SIDE: u64 = 512;
const MIN: u64 = 256;
const MAX: u64 = 1024;
const STEP: u64 = 64;

params! {
    /// Sizes of about equal area for pictures of many shapes, in pixels.
    pub struct BucketSettings {
        /// No size has more pixels than a square of this side.
        result size: u64 = SIDE,
        /// The shortest side.
        result min: u64 = MIN,
        /// The longest side.
        result max: u64 = MAX,
        /// Every side is a multiple of this, which is itself one of 8.
        result step: u64 = STEP,
    }
}

/// The side of a square, or all settings.
#[derive(Clone, Copy, Debug)]
pub struct BucketUse(pub Buckets);

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

impl ParamValue for BucketUse {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let BucketSettings { size, min, max, step } = match &node.value {
            Value::Map(_) => BucketSettings::decode_params(node, diagnostics)?,
            _ => BucketSettings { size: u64::decode(node, diagnostics)?, min: MIN, max: MAX, step: STEP },
        };
        let whole = |side: u64| side.is_multiple_of(step);
        let problem = if step == 0 || !step.is_multiple_of(8) {
            Some(("step", "`step` must be a multiple of 8, the pixels of a latent's side".to_owned()))
        } else if !whole(min) || min == 0 {
            Some(("min", format!("`min` must be a multiple of `step`, which is {step}")))
        } else if !whole(max) || max > u64::from(LARGEST) {
            Some(("max", format!("`max` must be a multiple of `step`, which is {step}, and at most {LARGEST}")))
        } else if size < min || size > max {
            Some(("size", format!("the square's side {size} must lie between `min` and `max`, {min} and {max}")))
        } else {
            None
        };
        if let Some((key, problem)) = problem {
            let found = diagnostics.report(&node.get(key).unwrap_or(node).span, problem);
            // Sides for which there are settings at all.
            if key == "size" && (8..=u64::from(LARGEST / 2)).contains(&size) {
                let step = if size >= 2 * STEP { STEP } else { 8 };
                let (min, max) = ((size / 2 / step * step).max(step), (2 * size).next_multiple_of(step));
                found.hint(format!("write them all, as in `{{ size: {size}, min: {min}, max: {max}, step: {step} }}`"));
            }
            return None;
        }
        let [side, min, max, step] = [size, min, max, step].map(|length| length as u32);
        Some(Self(Buckets { side, min, max, step }))
    }

    /// Always all settings.
    fn canonical(&self) -> serde_json::Value {
        let Buckets { side, min, max, step } = self.0;
        json!({ "size": side, "min": min, "max": max, "step": step })
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": LARGEST }, BucketSettings::schema()] })
    }
}

/// `size` and `buckets` exclude each other.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = ResizeParams::decode_params(node, diagnostics)?;
    if params.buckets.is_some()
        && let Some(size) = node.get("size")
    {
        diagnostics.report(&size.span, "`size` and `buckets` both say how large pictures become").hint("take one of them out");
        return None;
    }
    Some(Box::new(params))
}

impl Stage for ResizeParams {
    /// Without the one of `size` and `buckets` that nothing depends on, and without what `cover_photo` puts into the keys that it
    /// concerns.
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        let unused = if self.buckets.is_some() { "size" } else { "buckets" };
        let mut components = self.results();
        components.retain(|(name, _)| name != unused && name != "background");
        components
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    /// In pixels.
    fn item_size(&self) -> ItemSize {
        match self.buckets {
            None => ItemSize::Fixed(f64::from(self.size.width) * f64::from(self.size.height)),
            // Buckets are of about equal area.
            Some(BucketUse(buckets)) => ItemSize::Fixed(f64::from(buckets.side).powi(2)),
        }
    }
}

impl ItemStage for ResizeParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        let work = inputs.items("images").iter().map(|item| {
            let mut work = Work::of_item(item, &["image"]);
            cover_photo(&mut work, item, self.background);
            work
        });
        Ok(work.collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for ResizeParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let picture = photo_use::read(work, self.background, context)?.picture;
        let (width, height) = match &self.buckets {
            Some(BucketUse(buckets)) => buckets.of(picture.width(), picture.height()),
            None => (self.size.width, self.size.height),
        };
        let scaled = match self.mode {
            Mode::Crop => resize::crop(&picture, width, height),
            Mode::Pad => resize::pad(&picture, width, height),
            Mode::Stretch => resize::stretch(&picture, width, height),
        };
        let draft = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        Ok(vec![draft.field("image", Content::Bytes { bytes: encode::png(&scaled), extension: "png" })])
    }
}
