//! `loramill edits`: what people wrote over the machine's texts, and what they decide about it.

mod decide;
mod lost;
pub mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::device::signals::listen_to_signals;
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::{PipelineArguments, open, split_names};
use crate::cli::terminal::console::Console;
use crate::cli::walls::Reach;
use crate::engine::cache::Cache;
use crate::engine::edits::SurveyedText;
use crate::engine::explain::text_status::{StageTexts, text_status};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::graph::stage_id::StageId;
use crate::engine::run::caption_edits::CaptionEdits;
use crate::engine::run::control::StopRequests;
use crate::engine::run::on_demand::Directed;
use crate::engine::run::run_context::RunOptions;
use crate::engine::syntax::diagnostic::nearest;

/// Show how people edited the machine's texts, and resolve conflicts
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    List(show::ListArguments),
    Show(show::ShowArguments),
    Diff(show::DiffArguments),
    Accept(decide::AcceptArguments),
    Merge(decide::MergeArguments),
    Drop(decide::DropArguments),
    Prune(decide::PruneArguments),
    Restore(lost::RestoreArguments),
}

impl Arguments {
    /// What the command may write.
    pub fn reach(&self, global: &Global) -> Reach {
        let (names, device) = match &self.what {
            What::List(arguments) => return Reach::project(arguments.pipeline(), global),
            What::Show(arguments) => arguments.names_and_device(),
            What::Diff(arguments) => (arguments.names(), CPU),
            What::Accept(arguments) => (arguments.names(), CPU),
            What::Merge(arguments) => arguments.names_and_device(),
            What::Drop(arguments) => (arguments.names(), CPU),
            What::Prune(arguments) => (arguments.names(), CPU),
            What::Restore(arguments) => (arguments.names(), CPU),
        };
        Reach::project(split_items(names).0.as_deref(), global).unless_on_card(device)
    }
}

/// Decisions take the lock of the pipeline, and wait for a run that holds it. Exit code 1 if a text was refused; the others are
/// settled all the same.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    match &arguments.what {
        What::List(arguments) => show::list(arguments, global),
        What::Show(arguments) => show::show(arguments, global),
        What::Diff(arguments) => show::diff(arguments, global),
        What::Accept(arguments) => decide::accept(arguments, global),
        What::Merge(arguments) => decide::merge(arguments, global),
        What::Drop(arguments) => decide::drop(arguments, global),
        What::Prune(arguments) => decide::prune(arguments, global),
        What::Restore(arguments) => lost::restore(arguments, global),
    }
}

/// A pipeline, and texts of it by name.
#[derive(Args, Clone, Debug)]
struct ItemArguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then items: `IMG_0012`, `caption/IMG_0012` or
    /// `captions/IMG_0012.txt`
    #[arg(value_name = "PIPELINE|ITEM")]
    names: Vec<String>,
}

/// A device that no decision needs, and no card.
const CPU: &str = "cpu";

/// The pipeline among names that may begin with one, and the items.
fn split_items(names: &[String]) -> (Option<PathBuf>, &[String]) {
    let is_text = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "txt");
    if names.first().is_some_and(is_text) { (None, names) } else { split_names(names) }
}

/// The texts of a pipeline, as they lie there.
struct Texts {
    pipeline: Pipeline,
    cache: Cache,
    stages: Vec<StageTexts>,
}

impl Texts {
    /// Of the pipeline that the arguments name, and the items that they name.
    fn open(names: &[String], global: &Global) -> anyhow::Result<(Self, Vec<String>)> {
        let (pipeline, items) = split_items(names);
        let pipeline = open(&PipelineArguments::new(pipeline, Vec::new()))?;
        let cache = open_cache(&pipeline, global)?;
        let stages = text_status(&pipeline, &cache)?;
        if stages.is_empty() {
            let why = match pipeline.stages.values().find(|stage| stage.stage.editable().is_some()) {
                Some(stage) => format!("the items of `{}` are not known before the stages that it reads have run", stage.name),
                None => "no stage of this pipeline writes texts that people edit".to_string(),
            };
            return Err(WrongArguments(why).into());
        }
        let is_known = |name: &str| stages.iter().any(|known| known.stage == name);
        for stage in pipeline.stages.values().filter(|stage| stage.stage.editable().is_some() && !is_known(&stage.name)) {
            global.say(&format!("the items of `{}` are not known before the stages that it reads have run", stage.name));
        }
        Ok((Self { pipeline, cache, stages }, items.to_vec()))
    }

    /// The text that is meant: the place of its stage in `stages`, and the text.
    fn find(&self, asked: &str) -> anyhow::Result<(usize, &SurveyedText)> {
        let mut found = Vec::new();
        for (place, stage) in self.stages.iter().enumerate() {
            let names = names_meant(asked, stage);
            found.extend(stage.texts.iter().filter(|text| names.contains(&text.name.as_str())).map(|text| (place, text)));
        }
        match found.as_slice() {
            [one] => Ok(*one),
            [] => {
                let known = self.stages.iter().flat_map(|stage| &stage.texts).map(|text| text.name.as_str());
                let hint = nearest(asked, known).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
                Err(WrongArguments(format!("no text is called `{asked}`{hint}")).into())
            }
            several => {
                let names: Vec<String> =
                    several.iter().map(|(place, text)| format!("`{}/{}`", self.stages[*place].stage, text.name)).collect();
                Err(WrongArguments(format!("`{asked}` may be {}: say which", names.join(" or "))).into())
            }
        }
    }

    /// Takes decisions about the texts, with runs of single items on `device` where these are needed.
    fn at_desk<T>(
        &self,
        device: &str,
        global: &Global,
        work: impl FnOnce(&CaptionEdits<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let requests = StopRequests::default();
        listen_to_signals(&requests)?;
        let console = Console::new(None, global.is_quiet());
        let options = RunOptions { selection: Selection::default(), keep_going: false, jobs: 0, device: device.to_string() };
        let directed = Directed { options: &options, observer: &console, requests: &requests };
        let outcome = work(&CaptionEdits { pipeline: &self.pipeline, cache: &self.cache, directed });
        console.close();
        outcome
    }

    /// The stage of the pipeline whose texts lie at `place` in `stages`.
    fn stage_id(&self, place: usize) -> StageId {
        self.pipeline.id_of(&self.stages[place].stage).expect("its texts were read from the pipeline")
    }
}

/// The names that `asked` may stand for among the texts of a stage: as it is, after the stage, or as the path of a file.
fn names_meant<'a>(asked: &'a str, stage: &StageTexts) -> Vec<&'a str> {
    let mut names = vec![asked];
    names.extend(asked.strip_prefix(stage.stage.as_str()).and_then(|rest| rest.strip_prefix('/')));
    if let Some(path) = asked.strip_suffix(".txt") {
        let path = path.strip_prefix("./").unwrap_or(path);
        let shown = stage.folder.to_string_lossy();
        let folders = [Some(shown.strip_prefix("./").unwrap_or(&shown)), stage.folder.file_name().and_then(|name| name.to_str())];
        names.extend(folders.into_iter().flatten().filter_map(|folder| path.strip_prefix(folder)?.strip_prefix('/')));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_meant_by_its_name_its_stage_or_its_path() {
        let stage = StageTexts {
            stage: "caption".into(),
            folder: "./pipelines/cat/captions".into(),
            is_quick: true,
            texts: Vec::new(),
            lost: None,
        };
        for asked in ["a/b", "caption/a/b", "captions/a/b.txt", "./captions/a/b.txt", "pipelines/cat/captions/a/b.txt"] {
            assert!(names_meant(asked, &stage).contains(&"a/b"), "{asked}");
        }
        for asked in ["captions/a/b", "other/a/b.txt", "a/b.txt"] {
            assert!(!names_meant(asked, &stage).contains(&"a/b"), "{asked}");
        }
    }
}
