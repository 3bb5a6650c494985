//! `loramill check`: reads a pipeline and says what is wrong with it, without running anything.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;

use crate::cli::terminal::print;
use crate::cli::{Global, PipelineArguments, check_photos, counted, open};
use crate::pipeline::graph::{Found, Pipeline};

/// Check a pipeline file without running anything
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Open every photo too, and say which cannot be read
    #[arg(long)]
    photos: bool,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    for remark in pipeline.remarks.iter().chain(&absent(&pipeline)) {
        global.say(&format!("note: {remark}"));
    }
    if arguments.photos {
        check_photos::check(&pipeline, global)?;
    }
    print(&format!("{}\n", summary(&pipeline)))?;
    Ok(ExitCode::SUCCESS)
}

/// `pipeline.yaml: 7 stages, 24 photos, fine`
fn summary(pipeline: &Pipeline) -> String {
    let written: BTreeSet<&str> =
        pipeline.stages.iter().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str()).collect();
    let variants = pipeline.stages.iter().filter(|stage| stage.owner.is_none()).count();
    let mut photos = 0;
    let mut skipped = 0;
    let mut files = 0;
    for input in &pipeline.inputs {
        match &input.found {
            Found::Photos { files, skipped: left_out, .. } => {
                photos += files.len();
                skipped += left_out.len();
            }
            Found::File(_) => files += 1,
            Found::Absent(_) => {}
        }
    }
    let mut parts = vec![counted(written.len(), "stage")];
    parts.extend((variants > written.len()).then(|| format!("{variants} with all variants")));
    parts.extend((photos > 0).then(|| counted(photos, "photo")));
    parts.extend((skipped > 0).then(|| format!("{skipped} skipped")));
    parts.extend((files > 0).then(|| counted(files, "file")));
    format!("{}: {}, fine", pipeline.file.display(), parts.join(", "))
}

/// Models that are not here are no error of the file.
fn absent(pipeline: &Pipeline) -> Vec<String> {
    let mut notes = Vec::new();
    for input in &pipeline.inputs {
        let Found::Absent(places) = &input.found else { continue };
        let places: Vec<String> = places.iter().map(|place| format!("`{}`", place.display())).collect();
        let looked = match places.as_slice() {
            [] if input.written.starts_with("model://") => "set LORAMILL_MODELS to the folder of your models".into(),
            [] => "there is no cache of the Hugging Face hub".into(),
            places => format!("looked in {}", places.join(", ")),
        };
        notes.push(format!("`{}` ({}) is not here yet: {looked}", input.name, input.written));
    }
    notes
}
