//! `loramill explain`: what decides a stage or an item and who changed it, or what made a file.

mod file;
mod key;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::target::pipeline::{PipelineArguments, open};
use crate::cli::target::selection::stage_named;
use crate::cli::walls::Reach;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::named;
use crate::engine::graph::stage_id::StageId;

/// Show why a stage or item is stale, or what produced a file
#[derive(Args)]
pub struct Arguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then a stage, an item (`resize/IMG_0012` or `resize IMG_0012`),
    /// or any file: an output, a caption, a LoRA that lies anywhere
    #[arg(value_name = "PIPELINE|STAGE[/ITEM]|FILE", required = true, num_args = 1..=3)]
    names: Vec<String>,
    /// Override a value for this command: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// What the command may write.
    pub fn reach(&self, global: &Global) -> Reach {
        let (given, names) = pipeline_among(&self.names);
        let is_of_file = names.iter().any(|name| is_file(name, given.as_deref()).is_some());
        // To look at a file must not make a cache.
        let around = given.as_deref().unwrap_or(Path::new("."));
        let of_pipeline =
            if is_of_file { Reach::cache_around(around, global) } else { Reach::cache_of(given.as_deref(), global) };
        of_pipeline.and(names.iter().flat_map(|name| file::caches_around(Path::new(name))))
    }
}

/// Runs nothing. A file is explained without its pipeline if that cannot be read, with a note on standard error.
///
/// # Errors
/// `WrongArguments` if a name is no stage, item or file, or may be several stages.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (given, names) = pipeline_among(&arguments.names);
    let open_it = || open(&PipelineArguments::new(given.clone(), arguments.settings.clone()));
    if let [one] = names
        && is_file(one, given.as_deref()).is_some()
        && !(given.is_some() || Path::new(NAME).exists())
    {
        // No pipeline is at hand that could have a stage of this name.
        return file::explain_file(Path::new(one), None, arguments.json, global);
    }
    let pipeline = match (open_it(), names) {
        (Ok(pipeline), _) => pipeline,
        // What made a file can be explained without the pipeline file.
        (Err(error), [one]) if given.is_none() && is_file(one, None).is_some() => {
            global.say(&format!("note: the pipeline here cannot be read ({}): nothing is compared with it", first_line(&error)));
            return file::explain_file(Path::new(one), None, arguments.json, global);
        }
        (Err(error), _) => return Err(error),
    };
    let (id, item) = match names {
        [] => return Err(WrongArguments("name a stage, an item or a file".to_string()).into()),
        [one] => match stage_and_item(&pipeline, one) {
            Some((id, item)) => (id, item),
            None => {
                if let Some(path) = is_file(one, given.as_deref().map(|_| pipeline.folder.as_path())) {
                    return file::explain_file(&path, given.is_some().then_some(pipeline), arguments.json, global);
                }
                let stage = one.split('/').next().unwrap_or(one);
                let Err(error) = stage_named(&pipeline, stage) else { unreachable!("it is no stage, or several") };
                let is_path = one.contains('/') || Path::new(one).extension().is_some();
                return Err(if is_path && named(&pipeline, stage).is_empty() {
                    WrongArguments(format!("{error}; and there is no file `{one}`")).into()
                } else {
                    error
                });
            }
        },
        [stage, item] => (stage_named(&pipeline, stage)?, Some(item.as_str())),
        _ => return Err(WrongArguments("one stage, item or file at a time".to_string()).into()),
    };
    key::explain_key(&pipeline, id, item, arguments.json, global)
}

const NAME: &str = "pipeline.yaml";

/// The pipeline that the first of several names may be, and the rest.
fn pipeline_among(names: &[String]) -> (Option<PathBuf>, &[String]) {
    let is_pipeline = |name: &str| {
        let path = Path::new(name);
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        path.join(NAME).is_file() || (is_yaml && path.is_file())
    };
    match names.split_first() {
        Some((first, rest)) if is_pipeline(first) => (Some(PathBuf::from(first)), rest),
        // Neither a pipeline here nor one named: what is named is more likely a folder than a stage.
        Some((first, rest)) if !rest.is_empty() && !Path::new(NAME).exists() => (Some(PathBuf::from(first)), rest),
        _ => (None, names),
    }
}

/// A file under this path, as it is or below `folder`.
fn is_file(name: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let candidates = [Some(PathBuf::from(name)), folder.map(|folder| folder.join(name))];
    candidates.into_iter().flatten().find(|path| path.is_file())
}

/// A sub-stage has a `/` of its own: the longest name of a stage wins.
fn stage_and_item<'n>(pipeline: &Pipeline, name: &'n str) -> Option<(StageId, Option<&'n str>)> {
    let known = |stage: &str| match named(pipeline, stage).as_slice() {
        [id] => Some((*id, stage.len())),
        _ => None,
    };
    let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
    let (id, length) = ends.filter_map(|end| known(&name[..end])).next_back()?;
    Some((id, name.get(length + 1..)))
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().trim_start_matches("error: ").to_string()
}
