//! `loramill check --photos`: opens every photo and says which cannot be read, and which are not used as they are stored. Unaware
//! of stages.

use std::path::Path;

use anyhow::{Context as _, bail};
use rayon::prelude::*;

use crate::cli::global::Global;
use crate::cli::terminal::wording::counted;
use crate::engine::cache::regular_file::{self, Links};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::inputs::input::Found;
use crate::engine::inputs::listing::InputFile;
use crate::engine::inputs::picture_files::MOST_BYTES;
use crate::stages::shared::photo_use::{self, Seen};

/// So many names stand in a line.
const LISTED: usize = 5;

/// Opens the photos that are not skipped, and says what of them is worth a word.
///
/// # Errors
/// If some cannot be read; names each, and why.
pub fn check(pipeline: &Pipeline, global: &Global) -> anyhow::Result<()> {
    let mut files: Vec<&InputFile> = Vec::new();
    for input in &pipeline.inputs {
        if let Found::Photos { files: found, .. } = &input.found {
            files.extend(found);
        }
    }
    let opened: Vec<(&InputFile, anyhow::Result<Seen>)> = files.into_par_iter().map(|file| (file, open(&file.image))).collect();
    for (file, seen) in &opened {
        if let Ok(Seen { unusable_profile: Some(why), .. }) = seen {
            let path = file.image.display();
            global.say(&format!("note: the colour profile of `{path}` cannot be used, and its colours are taken as sRGB: {why}"));
        }
    }
    let named = |is_so: &dyn Fn(&Seen) -> bool| -> Vec<&str> {
        opened.iter().filter(|(_, seen)| seen.as_ref().is_ok_and(is_so)).map(|(file, _)| file.name.as_str()).collect()
    };
    say_of(&named(&|seen| seen.is_converted), "not in sRGB, and converted by the first stage", global);
    say_of(
        &named(&|seen| seen.was_transparent),
        "transparent in parts, which `background:` of `crop` and `resize` fills",
        global,
    );

    let mut problems = String::new();
    let mut broken = opened.iter().filter_map(|(file, seen)| Some((file, seen.as_ref().err()?)));
    let Some((first, _)) = broken.clone().next() else { return Ok(()) };
    let count = broken.clone().count();
    broken.by_ref().for_each(|(file, error)| problems.push_str(&format!("\n  `{}`: {error:#}", file.image.display())));
    let many = counted(opened.len(), "photo");
    bail!("{count} of {many} cannot be read; `loramill skip '{}'` leaves one out{problems}", first.name)
}

fn open(path: &Path) -> anyhow::Result<Seen> {
    let bytes = regular_file::read(path, Links::Followed, MOST_BYTES).context("it cannot be opened")?;
    photo_use::look(&bytes)
}

/// `note: 2 photos are not in sRGB, and converted by the first stage: a, b`
fn say_of(names: &[&str], what: &str, global: &Global) {
    if names.is_empty() {
        return;
    }
    let more = match names.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let are = if names.len() == 1 { "photo is" } else { "photos are" };
    global.say(&format!("note: {} {are} {what}: {}{more}", names.len(), names[..names.len().min(LISTED)].join(", ")));
}
