//! A pipeline with an editable stage in a folder of its own, run by the engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::Cache;
use crate::edits::{Decision, Settled};
use crate::explain::text_status::text_status;
use crate::graph::load::load;
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::{Force, Selection};
use crate::graph::stage_id::StageId;
use crate::inputs::sources::Surroundings;
use crate::kind::reference::Reference;
use crate::kind::stage::{Content, Context, Draft, Editable, Files, Form, ItemStage, Resolved, Stage, Work, Worker};
use crate::kind::stage_kind::StageKind;
use crate::params;
use crate::run::caption_edits::CaptionEdits;
use crate::run::control::StopRequests;
use crate::run::events::Silent;
use crate::run::on_demand::Directed;
use crate::run::run_context::RunOptions;
use crate::run::run_record::RunRecord;
use crate::run::schedule;

params! {
    /// Says what a photo shows, which is a text here.
    pub struct Say {
        /// The photos.
        input images: Reference => Many["image"],
        /// Comes before what it sees.
        result prefix: String = "a ".to_string(),
    }
}

const SAY: StageKind = StageKind { name: "caption", version: 1, writes: &["caption"], ..StageKind::of::<Say>() };

impl Stage for Say {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
    fn editable(&self) -> Option<Editable> {
        Some(Editable { field: "caption", folder: "captions", extension: "txt", is_quick: false })
    }
}

impl ItemStage for Say {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for Say {
    fn run(&self, work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        let seen = String::from_utf8(context.read(&work.inputs["image"])?)?;
        let bytes = format!("{}{seen}", self.prefix).into_bytes();
        Ok(vec![Draft::new(&work.name).field("caption", Content::Bytes { bytes, extension: "txt" })])
    }
}

const KINDS: &[&StageKind] = &[&SAY];

/// Photos, captions and cache in one folder.
pub(super) struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// With the photos `one`, `two` and `three`.
    pub(super) fn new() -> Self {
        // In memory, where there is such a place: thousands of these are made, and no disk has to spin for them.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let project = Self { folder: folder.unwrap() };
        for name in ["one", "two", "three"] {
            project.write(&format!("images/{name}.png"), &format!("photo {name}"));
        }
        project.captioner("a ");
        project
    }

    pub(super) fn copy(&self) -> Self {
        let copy = Self { folder: tempfile::tempdir_in(self.folder.path().parent().unwrap()).unwrap() };
        for entry in walkdir::WalkDir::new(self.folder.path()).min_depth(1) {
            let entry = entry.unwrap();
            let target = copy.at(entry.path().strip_prefix(self.folder.path()).unwrap().to_str().unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(target).unwrap();
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
        copy
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Another captioner: what it says begins with `prefix`.
    pub(super) fn captioner(&self, prefix: &str) {
        let text = format!(
            "concept: test\ninputs: {{ photos: images/ }}\nstages:\n  caption: {{ images: photos, prefix: \"{prefix}\" }}\n"
        );
        self.write("pipeline.yaml", &text);
    }

    fn load(&self) -> Pipeline {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        load(&self.at("pipeline.yaml"), &[], &surroundings, KINDS).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn options(caption: StageId, force: bool) -> RunOptions {
        let force = if force { BTreeMap::from([(caption, Force::All)]) } else { BTreeMap::new() };
        RunOptions {
            selection: Selection { force, ..Selection::of([caption]) },
            keep_going: false,
            jobs: 1,
            device: "cpu".to_string(),
        }
    }

    /// Each call is a process of its own: nothing is kept in memory from one to the next.
    pub(super) fn run(&self, force: bool) -> Result<RunRecord> {
        let cache = Cache::open(&self.at("cache"))?;
        let pipeline = self.load();
        let options = Self::options(caption(&pipeline), force);
        schedule::run(&pipeline, &cache, &options, &Silent, &StopRequests::default())
    }

    /// Decides about all texts.
    pub(super) fn settle(&self, decision: Decision) -> Result<Settled> {
        let (pipeline, cache) = (self.load(), Cache::open(&self.at("cache"))?);
        let caption = caption(&pipeline);
        let (options, requests) = (Self::options(caption, false), StopRequests::default());
        let directed = Directed { options: &options, observer: &Silent, requests: &requests };
        let names: Vec<String> =
            text_status(&pipeline, &cache)?.iter().flat_map(|stage| &stage.texts).map(|text| text.name.clone()).collect();
        CaptionEdits { pipeline: &pipeline, cache: &cache, directed }.settle(caption, &names, decision)
    }

    /// Every file below a folder with what it holds, hidden ones too.
    pub(super) fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let folder = self.at(folder);
        let files = walkdir::WalkDir::new(&folder).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
        files
            .map(|entry| {
                let below = entry.path().strip_prefix(&folder).unwrap();
                (below.to_str().unwrap().to_string(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

/// The one stage of each of these projects.
fn caption(pipeline: &Pipeline) -> StageId {
    pipeline.id_of("caption").unwrap()
}
