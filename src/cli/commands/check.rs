//! `loramill check`: reads a pipeline and says what is wrong with it, without running anything.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use walkdir::WalkDir;

use crate::cli::commands::check_photos;
use crate::cli::global::Global;
use crate::cli::target::pipeline::{PipelineArguments, open, refuse_unusable};
use crate::cli::terminal::output::print;
use crate::cli::terminal::wording::counted;
use crate::engine::decide::lost_texts;
use crate::engine::graph::pipeline::{Pipeline, Producer};
use crate::engine::graph::stage_id::StageId;
use crate::engine::inputs::input::Found;
use crate::engine::inputs::sources::MODEL_DEPTH;
use crate::engine::syntax::diagnostic::nearest;
use crate::sd::checkpoint::family::{Family, Predicts};
use crate::sd::checkpoint::model_file::ModelFile;

/// Extensions of model files.
const MODELS: &[&str] = &["safetensors", "ckpt", "pt", "pth", "bin"];

/// Of the models of a folder no more are named.
const NAMED: usize = 6;

/// A folder of models that holds more entries is read no further.
const MOST_ENTRIES: usize = 10_000;

/// Check a pipeline file without running anything
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Also open every photo, and report those that cannot be read
    #[arg(long)]
    photos: bool,
}

/// Prints a summary if the pipeline can run; notes and warnings go to standard error and do not change the exit code. Opens no
/// cache.
///
/// # Errors
/// `WrongFile` with all problems of the file and of the files it names. With `--photos`, if some cannot be read: exit code 1.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    let all: Vec<StageId> = pipeline.stages.ids().collect();
    refuse_unusable(&pipeline, &all)?;
    for remark in pipeline.remarks.iter().chain(&pipeline.photo_remarks).chain(&models(&pipeline)).chain(&absent(&pipeline)) {
        global.say(&format!("note: {remark}"));
    }
    if arguments.photos {
        check_photos::check(&pipeline, global)?;
    }
    for reason in lost_texts::glance(&pipeline)? {
        global.say(&format!("warning: {reason}"));
    }
    for sentence in lost_texts::unread_folders(&pipeline)? {
        global.say(&format!("note: {sentence}"));
    }
    print(&format!("{}\n", summary(&pipeline)))?;
    Ok(ExitCode::SUCCESS)
}

/// `pipeline.yaml: 7 stages, 24 photos, fine`
fn summary(pipeline: &Pipeline) -> String {
    let written: BTreeSet<&str> =
        pipeline.stages.values().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str()).collect();
    let variants = pipeline.stages.values().filter(|stage| stage.owner.is_none()).count();
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
        let Found::Absent(folders) = &input.found else { continue };
        let places: Vec<String> = folders.iter().map(|place| format!("`{}`", place.display())).collect();
        let looked = match places.as_slice() {
            [] if input.written.starts_with("model://") => "set LORAMILL_MODELS to the folder of your models".into(),
            [] => "there is no cache of the Hugging Face hub".into(),
            places => format!("looked in {}", places.join(", ")),
        };
        let there = input.written.strip_prefix("model://").filter(|_| !folders.is_empty());
        let there = there.map(|wanted| held(wanted, folders)).unwrap_or_default();
        notes.push(format!("`{}` ({}) is not here yet: {looked}{there}", input.name, input.written));
    }
    notes
}

/// What the models are that stages read, as their headers say.
fn models(pipeline: &Pipeline) -> Vec<String> {
    let mut notes = Vec::new();
    for (index, input) in pipeline.inputs.iter().enumerate() {
        let Found::File(path) = &input.found else { continue };
        let mut edges = pipeline.stages.values().flat_map(|stage| &stage.edges);
        let is_model = edges.any(|edge| edge.from == Producer::Input(index) && edge.reads.reads.first() == Some(&"model"));
        // What cannot be read was reported before.
        let Some(file) = is_model.then(|| ModelFile::open(path).ok()).flatten() else { continue };
        let predicts = Predicts::of(&file).ok().flatten().map(|predicts| format!(", {predicts}")).unwrap_or_default();
        notes.push(format!("`{}` is {}{predicts}", input.name, Family::of(&file)));
    }
    notes
}

/// `; there are ..., did you mean ...?`: what folders of models hold in the place of one that is not there.
fn held(wanted: &str, folders: &[PathBuf]) -> String {
    let mut names = BTreeSet::new();
    for folder in folders {
        let entries = WalkDir::new(folder).max_depth(MODEL_DEPTH).follow_links(true).into_iter().flatten().take(MOST_ENTRIES);
        for path in entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path) {
            let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default();
            let below = path.strip_prefix(folder).unwrap_or(&path);
            if MODELS.contains(&extension.as_str()) {
                names.extend(below.to_str().map(str::to_string));
            }
        }
    }
    let stem = |name: &str| name.rsplit('/').next().unwrap_or(name).split('.').next().unwrap_or_default().to_lowercase();
    let same = names.iter().find(|name| stem(name) == stem(wanted)).map(String::as_str);
    let near = same.or_else(|| nearest(wanted, names.iter().map(String::as_str)));
    let meant = near.map(|near| format!("; did you mean `model://{near}`?")).unwrap_or_default();
    match names.len() {
        0 => format!(", which {} no model", if folders.len() == 1 { "holds" } else { "hold" }),
        count => {
            let named: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
            let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
            let verb = if count == 1 { "is" } else { "are" };
            format!(": {}{more} {verb} there{meant}", named.join(", "))
        }
    }
}
