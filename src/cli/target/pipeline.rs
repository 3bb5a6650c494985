//! The pipeline file that the user means, found, read and checked. Unaware of what the command does with it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::{WrongArguments, WrongFile};
use crate::engine::graph::examine::examine;
use crate::engine::graph::load::{Looks, load_parsed};
use crate::engine::graph::parsed_file::ParsedFile;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::stage_id::StageId;
use crate::engine::inputs::sources::Surroundings;
use crate::engine::syntax::diagnostic::{Diagnostic, Diagnostics};
use crate::stages::KINDS;

/// What every command takes that reads a pipeline.
#[derive(Args, Clone, Debug)]
pub struct PipelineArguments {
    /// The pipeline: a folder or its file [default: pipeline.yaml here]
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<PathBuf>,
    /// Override a value for this command: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl PipelineArguments {
    /// The arguments as if they had been written; `None` is the `pipeline.yaml` here. Nothing is opened.
    pub const fn new(pipeline: Option<PathBuf>, settings: Vec<String>) -> Self {
        Self { pipeline, settings }
    }

    /// The pipeline, if it was named.
    pub fn named(&self) -> Option<&Path> {
        self.pipeline.as_deref()
    }
}

/// The pipeline file that the user means, read once.
pub struct PipelineFile {
    parsed: ParsedFile,
    surroundings: Surroundings,
    /// What is wrong with the user's configuration.
    problems: Vec<Diagnostic>,
}

impl PipelineFile {
    /// Reads the file, and checks nothing that it names.
    ///
    /// # Errors
    /// `WrongFile` if it cannot be parsed, `WrongArguments` if there is none.
    pub fn read(arguments: &PipelineArguments) -> anyhow::Result<Self> {
        let file = pipeline_file(arguments.pipeline.as_deref())?;
        let mut diagnostics = Diagnostics::default();
        let surroundings = Surroundings::of_process(&mut diagnostics);
        let problems = diagnostics.into_sorted();
        match ParsedFile::read(&file, &arguments.settings, &surroundings) {
            Ok(parsed) => Ok(Self { parsed, surroundings, problems }),
            Err(found) => Err(WrongFile([problems, found].concat()).into()),
        }
    }

    /// The pipeline, with all that it names checked.
    ///
    /// # Errors
    /// `WrongFile` with all that is wrong.
    pub fn load(&self) -> anyhow::Result<Pipeline> {
        let found = match load_parsed(&self.parsed, &self.surroundings, KINDS, Looks::IntoFolders) {
            Ok(pipeline) if self.problems.is_empty() => return Ok(pipeline),
            Ok(_) => Vec::new(),
            Err(found) => found,
        };
        Err(WrongFile([self.problems.clone(), found].concat()).into())
    }

    /// The pipeline without a look at its photos; `None` if anything is wrong with it.
    pub fn glance(&self) -> Option<Pipeline> {
        let pipeline = load_parsed(&self.parsed, &self.surroundings, KINDS, Looks::Elsewhere).ok()?;
        self.problems.is_empty().then_some(pipeline)
    }
}

/// Reads and checks the pipeline that the user means.
///
/// # Errors
/// `WrongFile` with all that is wrong in it, `WrongArguments` if there is none.
pub fn open(arguments: &PipelineArguments) -> anyhow::Result<Pipeline> {
    PipelineFile::read(arguments)?.load()
}

/// The file of the pipeline that is given, or that of this folder.
///
/// # Errors
/// `WrongArguments` if there is no such file.
pub fn pipeline_file(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    const NAME: &str = "pipeline.yaml";
    let wrong = |message: String| Err(WrongArguments(message).into());
    let Some(given) = given else {
        let here = PathBuf::from(NAME);
        if here.exists() {
            return Ok(here);
        }
        return wrong(format!("there is no `{NAME}` here: name a pipeline, or make one with `loramill init NAME`"));
    };
    if given.is_dir() {
        let inside = given.join(NAME);
        if inside.exists() {
            return Ok(inside);
        }
        return wrong(format!("there is no `{NAME}` in `{}`", given.display()));
    }
    if given.exists() {
        return Ok(given.to_path_buf());
    }
    let among_pipelines = Path::new("pipelines").join(given);
    if among_pipelines.join(NAME).exists() {
        return wrong(format!("there is no `{}`: did you mean `{}`?", given.display(), among_pipelines.display()));
    }
    wrong(format!("there is no `{}`", given.display()))
}

/// The folder of a pipeline; `None` if there is none.
pub fn folder_of(pipeline: Option<&Path>) -> Option<PathBuf> {
    let file = pipeline_file(pipeline).ok()?;
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Some(folder.to_path_buf())
}

/// The pipeline among names that may begin with one, and the rest.
pub fn split_names(names: &[String]) -> (Option<PathBuf>, &[String]) {
    match names.split_first() {
        Some((first, rest)) if is_pipeline(first) => (Some(PathBuf::from(first)), rest),
        // Neither a pipeline here nor one named: what is named is more likely a folder than a stage.
        Some((first, rest)) if !PathBuf::from("pipeline.yaml").exists() => (Some(PathBuf::from(first)), rest),
        _ => (None, names),
    }
}

/// Whether `name` is a pipeline file or a folder that has one.
pub fn is_pipeline(name: &str) -> bool {
    let path = Path::new(name);
    path.is_file() || path.join("pipeline.yaml").is_file()
}

/// Files that are here and cannot be what stages read them as.
///
/// # Errors
/// `WrongFile` with all of them.
pub fn refuse_unusable(pipeline: &Pipeline, stages: &[StageId]) -> anyhow::Result<()> {
    let problems = examine(pipeline, stages);
    if problems.is_empty() { Ok(()) } else { Err(WrongFile(problems).into()) }
}
