//! A pipeline, and what of it a command builds. Unaware of what is done with it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::WrongFile;
use crate::cli::target::pipeline::{PipelineArguments, PipelineFile, pipeline_file, split_names};
use crate::cli::target::selection::{SelectionArguments, stages_named};
use crate::engine::graph::pipeline::{Pipeline, Producer};
use crate::engine::graph::selection::Selection;
use crate::engine::inputs::input::Found;
use crate::engine::inputs::picture_files::READ;
use crate::engine::syntax::diagnostic::Diagnostics;

/// What every command takes that builds a pipeline, or says what building it would do.
#[derive(Args, Clone, Debug)]
pub struct TargetArguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then stages to build with all they need [default: all that
    /// are not `default: false`]
    #[arg(value_name = "PIPELINE|STAGE")]
    names: Vec<String>,
    /// Override a value for this command: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    selection: SelectionArguments,
}

impl TargetArguments {
    /// The pipeline, if one is named.
    pub fn pipeline(&self) -> Option<PathBuf> {
        split_names(&self.names).0
    }

    /// Reads the pipeline file.
    ///
    /// # Errors
    /// As `PipelineFile::read`.
    pub fn read(&self) -> anyhow::Result<Target<'_>> {
        let (pipeline, stages) = split_names(&self.names);
        self.read_file(pipeline, stages)
    }

    /// The file of the pipeline, and the names of stages: split once, for a caller that opens the pipeline again and again.
    ///
    /// # Errors
    /// `WrongArguments` if there is no such file.
    pub fn split(&self) -> anyhow::Result<(PathBuf, &[String])> {
        let (pipeline, targets) = split_names(&self.names);
        Ok((pipeline_file(pipeline.as_deref())?, targets))
    }

    /// As `read`, with what `split` gave.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_again<'a>(&'a self, file: &Path, stages: &'a [String]) -> anyhow::Result<Target<'a>> {
        self.read_file(Some(file.to_path_buf()), stages)
    }

    /// The same without what is forced: for further runs after one that has done it.
    pub fn without_force(&self) -> Self {
        Self { selection: self.selection.without_force(), ..self.clone() }
    }

    /// As on a command line; names come last, since one may begin with a dash.
    pub fn written(&self) -> Vec<String> {
        let settings = self.settings.iter().map(|setting| format!("--set={setting}"));
        let options = self.selection.written().into_iter().chain(settings);
        options.chain(["--".to_string()]).chain(self.names.iter().cloned()).collect()
    }

    fn read_file<'a>(&'a self, pipeline: Option<PathBuf>, stages: &'a [String]) -> anyhow::Result<Target<'a>> {
        let file = PipelineFile::read(&PipelineArguments::new(pipeline, self.settings.clone()))?;
        Ok(Target { file, stages, selection: &self.selection })
    }
}

/// A pipeline file that was read, with what of it is asked for.
pub struct Target<'a> {
    file: PipelineFile,
    stages: &'a [String],
    selection: &'a SelectionArguments,
}

impl Target<'_> {
    /// The pipeline, and what of it is asked for.
    ///
    /// # Errors
    /// `WrongFile`, or `WrongArguments` for a name that is no stage and for options that leave nothing to do.
    pub fn load(&self) -> anyhow::Result<(Pipeline, Selection)> {
        let pipeline = self.file.load()?;
        refuse_empty_folders(&pipeline)?;
        let selection = self.selection.of(&pipeline, stages_named(&pipeline, self.stages)?)?;
        Ok((pipeline, selection))
    }

    /// As `load`, without a look at its photos; `None` if anything is wrong.
    pub fn glance(&self) -> Option<(Pipeline, Selection)> {
        let pipeline = self.file.glance()?;
        let selection = self.selection.of(&pipeline, stages_named(&pipeline, self.stages).ok()?).ok()?;
        Some((pipeline, selection))
    }
}

/// A file may be sound before its photos are there; there is nothing to run then.
fn refuse_empty_folders(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut diagnostics = Diagnostics::default();
    for (index, input) in pipeline.inputs.iter().enumerate() {
        let is_read = pipeline.stages.values().flat_map(|stage| &stage.edges).any(|edge| edge.from == Producer::Input(index));
        if let (true, Found::Photos { folder, files, skipped, .. }) = (is_read, &input.found)
            && files.is_empty()
            && skipped.is_empty()
        {
            let hint = format!("{READ} are read; looked in `{}`", folder.display());
            diagnostics.report(&input.span, format!("`{}` holds no photos", input.written)).hint(hint);
        }
    }
    if diagnostics.is_empty() { Ok(()) } else { Err(WrongFile(diagnostics.into_sorted()).into()) }
}
