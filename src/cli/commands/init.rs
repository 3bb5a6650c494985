//! `loramill init`: a folder for a new concept with a pipeline to begin with. Never writes over a file.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::output::print;
use crate::engine::graph::schema;
use crate::stages::KINDS;

const TEMPLATE: &str = include_str!("template.yaml");

/// Create a folder for a new concept, with a pipeline to start from
#[derive(Args)]
pub struct Arguments {
    /// The concept to teach; its folder is `pipelines/CONCEPT`
    concept: String,
}

/// Keeps files that are there already. Prints the commands to run next.
///
/// # Errors
/// `WrongArguments` if the concept cannot name a folder.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let concept = arguments.concept.as_str();
    let is_usable = concept.starts_with(|c: char| c.is_alphanumeric())
        && concept.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
        && concept.trim() == concept;
    if !is_usable {
        let message = format!("`{concept}` cannot name a concept: letters, digits, `_` and `-`, and a letter or digit first");
        return Err(WrongArguments(message).into());
    }
    let folder = Path::new("pipelines").join(concept);
    // A name that YAML would read as a number or as `true` needs its quotes; others do no harm.
    let pipeline = TEMPLATE.replace("CONCEPT", &format!("\"{concept}\""));
    let files: [(PathBuf, &str); 4] = [
        (folder.join("pipeline.yaml"), &pipeline),
        (folder.join(".gitignore"), "out/\n"),
        // A merge never stops on the lock; the next run heals it.
        (folder.join(".gitattributes"), "pipeline.lock merge=union\n"),
        (Path::new("pipelines").join("schema.json"), &schema::text(KINDS)),
    ];
    for name in ["images", "captions"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making the folder `{}`", path.display()))?;
    }
    for (path, text) in &files {
        let done = if write_new(path, text)? { "wrote" } else { "kept" };
        global.say(&format!("{done} {}", path.display()));
    }
    let folder = folder.display();
    print(&format!(
        "Put the photos into `{folder}/images`, look through `{folder}/pipeline.yaml`, then:\n\n  loramill check {folder}\n  loramill run {folder}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// False if there is such a file already.
fn write_new(path: &Path, text: &str) -> anyhow::Result<bool> {
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("writing `{}`", path.display())),
    }
}
