//! `loramill restore`: `out/` as the lock file says it was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::target::cache_folder;
use crate::cli::target::pipeline::{PipelineArguments, open, pipeline_file};
use crate::cli::terminal::wording::{counted, shown};
use crate::cli::walls::Reach;
use crate::engine::gc::git::Repository;
use crate::engine::inputs::project_bounds;
use crate::engine::lock_file::LockFile;
use crate::engine::out::restore::{RestoredStage, restore};
use crate::stages::KINDS;

const LOCK: &str = "pipeline.lock";

/// Rebuild `out/` from the lock file, the current one or that of an earlier commit, without running anything
///
/// Texts beside the pipeline and the lock file itself stay as they are: `git checkout` is for these.
#[derive(Args)]
pub struct Arguments {
    /// A commit, branch or tag [default: the lock file as it is], then the pipeline, a folder or its file [default: pipeline.yaml here]
    #[arg(value_name = "REV|PIPELINE", num_args = 0..=2)]
    names: Vec<String>,
}

impl Arguments {
    /// The commit and the pipeline, as far as they are named.
    fn split(&self) -> (Option<&String>, Option<&String>) {
        let is_pipeline = |name: &String| Path::new(name).is_file() || Path::new(name).join("pipeline.yaml").is_file();
        match self.names.as_slice() {
            [] => (None, None),
            [one] if is_pipeline(one) => (None, Some(one)),
            [one] => (Some(one), None),
            [revision, pipeline, ..] => (Some(revision), Some(pipeline)),
        }
    }

    /// What the command may write.
    pub fn reach(&self, global: &Global) -> Reach {
        Reach::project(self.split().1.map(Path::new), global)
    }
}

/// Takes the lock of the pipeline, and waits for a run that holds it. Prints to standard error only.
///
/// # Errors
/// If the lock file names no results, or not all of them can be shown; the others are then restored. Items that were not kept do
/// not count.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (revision, given) = arguments.split();
    let given = given.map(PathBuf::from);
    let file = pipeline_file(given.as_deref())?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let lock = match revision {
        None => LockFile::read(&folder.join(LOCK))?,
        Some(revision) => lock_of(folder, revision)?,
    };
    if lock.stages.is_empty() {
        let remedy = if revision.is_some() { "name a later commit" } else { "`loramill run` writes one" };
        bail!("the lock file of `{}` names no results: {remedy}", shown(&file));
    }
    // A file that is wrong today does not stand in the way of what was made before.
    let pipeline = open(&PipelineArguments::new(given, Vec::new())).ok();

    project_bounds::check(folder)?;
    let cache = cache_folder::open_for(folder, global)?;
    let mut told = false;
    let waiting = cache.lock_pipeline(folder, &mut |holder| {
        if let (false, Some(holder)) = (told, holder) {
            global.say(&format!("waiting for process {} on {}, which runs this pipeline", holder.process, holder.host));
            told = true;
        }
        true
    })?;
    let _lock = waiting.context("interrupted while waiting for another run of this pipeline")?;
    cache.register_root(folder)?;
    let restored = restore(&cache, &folder.join("out"), &lock, pipeline.as_ref(), KINDS)?;

    for stage in &restored {
        stage.report.notes.iter().for_each(|note| global.say(&format!("{}: {note}", stage.name)));
        global.say(&line(stage));
    }
    let is_whole = restored.iter().all(RestoredStage::is_whole);
    if is_whole {
        let of = revision.map(|revision| format!(" as of {revision}")).unwrap_or_default();
        global.say(&format!("`{}` shows the results{of}", shown(&folder.join("out"))));
        return Ok(ExitCode::SUCCESS);
    }
    match revision {
        None => bail!("not all of it is in the cache any more: `loramill run` makes the rest again"),
        Some(revision) => {
            bail!("not all of it is in the cache any more: `git checkout {revision}` and `loramill run` make the rest again")
        }
    }
}

/// The lock of a pipeline as a commit has it.
fn lock_of(folder: &Path, revision: &str) -> anyhow::Result<LockFile> {
    let repository = Repository(folder);
    let commit = repository.commit(revision).map_err(|error| {
        let remedy = "name a commit, a branch or a tag, and then the pipeline";
        anyhow::Error::new(WrongArguments(format!("{error:#}: {remedy}")))
    })?;
    let text = repository.show(&commit, LOCK);
    let text = text.with_context(|| format!("`{revision}` has no `{LOCK}` for `{}`", folder.display()))?;
    Ok(LockFile::parse(&String::from_utf8_lossy(&text)))
}

fn line(stage: &RestoredStage) -> String {
    let name = &stage.name;
    let shown = stage.total.saturating_sub(stage.missing.len() + stage.not_kept.len());
    if let Some(reason) = &stage.left_out {
        return format!("{name}: not shown, because {reason}");
    }
    if stage.missing.is_empty() && shown == 0 && !stage.not_kept.is_empty() {
        return format!("{name}: {} not kept", counted(stage.total, "item"));
    }
    if stage.is_lost || (shown == 0 && stage.total > 0) {
        return format!("{name}: nothing of its {} is in the cache any more", counted(stage.total, "item"));
    }
    let changed = match (stage.report.written, stage.report.removed) {
        (0, 0) => "as it was".to_string(),
        (written, 0) => format!("{} written", counted(written, "file")),
        (written, removed) => format!("{} written, {removed} removed", counted(written, "file")),
    };
    let (missing, why) = match stage.missing.as_slice() {
        [] => (stage.not_kept.as_slice(), "not kept"),
        missing => (missing, "not in the cache any more"),
    };
    if missing.is_empty() {
        return format!("{name}: {}, {changed}", counted(stage.total, "item"));
    }
    const LISTED: usize = 5;
    let mut names = missing[..missing.len().min(LISTED)].join(", ");
    if missing.len() > LISTED {
        names.push_str(", …");
    }
    format!("{name}: {shown} of {}, {changed}; {why}: {names}", counted(stage.total, "item"))
}
