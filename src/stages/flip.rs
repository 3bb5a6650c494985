//! The kind `flip`: twice the pictures, by their mirrors.

use std::collections::BTreeSet;

use anyhow::ensure;
use image::imageops;
use rayon::prelude::*;

use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Files, Form, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::StageKind;
use crate::params;
use crate::sd::data::decode::Background;
use crate::sd::data::{captions, encode};
use crate::stages::shared::photo_use::{self, cover_photo};

/// An item stage on the CPU, one piece of work per picture. Each piece has two outputs: the picture as it was and its mirror.
pub const KIND: StageKind = StageKind { name: "flip", version: 1, writes: &["image"], ..StageKind::of::<FlipParams>() };

/// What the mirror of `IMG_1` adds to its name.
const SUFFIX: &str = "-flip";

params! {
    /// Adds a mirrored copy of each picture, `<name>-flip`, and keeps the original.
    ///
    /// The mirror of a photo with transparent parts is laid over white. After `caption` both share one text, unless there is a text for the mirror alone (`captions/<name>-flip.txt`). A caption that says
    /// *left* or *right* is wrong of a mirror, and the program says so. Leave the stage out where sides matter: writing, a parting, a scar.
    pub struct FlipParams {
        /// The pictures, with or without captions.
        input images: Reference => Many["image", "caption-flip"],
    }
}

impl Stage for FlipParams {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn lint(&self, inputs: &Resolved, files: &dyn Files) -> Vec<String> {
        let shared = inputs.items("images").par_iter().filter(|item| !item.fields.contains_key("caption-flip"));
        let lines = shared.filter_map(|item| {
            // A caption that is not made yet says nothing.
            let text = item.fields.get("caption").and_then(|caption| files.read(caption).ok())?;
            let side = captions::side_named(&String::from_utf8_lossy(&text))?;
            Some(format!(
                "the caption of `{0}` says `{side}`, and its mirror shares it: write `{0}{SUFFIX}.txt` for the mirror, or leave the side out",
                item.name
            ))
        });
        lines.collect()
    }
}

impl ItemStage for FlipParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        let items = inputs.items("images");
        let names: BTreeSet<&str> = items.iter().map(|item| item.name.as_str()).collect();
        for name in &names {
            let mirror = format!("{name}{SUFFIX}");
            ensure!(
                !names.contains(mirror.as_str()),
                "the mirror of `{name}` would be called `{mirror}`, and there is a picture of that name; rename one of them"
            );
        }
        let work = items.iter().map(|item| {
            let mut work = Work::of_item(item, &["image", "caption-flip"]);
            cover_photo(&mut work, item, Background::WHITE);
            work
        });
        Ok(work.collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for FlipParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let image = &work.inputs["image"];
        let mut picture = photo_use::read(work, Background::WHITE, context)?.picture;
        imageops::flip_horizontal_in_place(&mut picture);
        let original = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        let origin = work.origin.clone().unwrap_or_else(|| work.name.clone());
        let mirror = Draft { origin: Some(origin), ..Draft::new(format!("{}{SUFFIX}", work.name)) };
        let mirror = mirror.field("image", Content::Bytes { bytes: encode::png(&picture), extension: "png" });
        let mirror = match work.inputs.get("caption-flip") {
            Some(own) => mirror.field("caption", Content::Same(own.clone())),
            None => mirror,
        };
        Ok(vec![original.field("image", Content::Same(image.clone())), mirror])
    }
}
