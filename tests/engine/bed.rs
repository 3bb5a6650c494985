//! A pipeline in a folder of its own, with a cache beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use loramill_engine::cache::Cache;
use loramill_engine::cache::digest::Digest;
use loramill_engine::cache::fsck::{Depth, Problem};
use loramill_engine::decide::plan::{Plan, plan};
use loramill_engine::decide::recorded::TREE_FIELD;
use loramill_engine::gc::collect::{CollectOptions, Collected, collect};
use loramill_engine::graph::load::load;
use loramill_engine::graph::pipeline::Pipeline;
use loramill_engine::graph::selection::{Force, Selection, named};
use loramill_engine::graph::stage_id::StageId;
use loramill_engine::inputs::sources::Surroundings;
use loramill_engine::kind::item::ItemSet;
use loramill_engine::kind::item_set;
use loramill_engine::kind::stage_kind::{StageKind, Worth};
use loramill_engine::lock_file::LockFile;
use loramill_engine::run::control::StopRequests;
use loramill_engine::run::events::{Event, Observer};
use loramill_engine::run::run_context::RunOptions;
use loramill_engine::run::run_record::RunRecord;
use loramill_engine::run::schedule;

use crate::git::git;
use crate::kinds::KINDS;

pub struct Bed {
    folder: tempfile::TempDir,
    pub kinds: &'static [&'static StageKind],
    pub keep_going: bool,
    /// Stage and pattern of items; an empty pattern forces all.
    pub force: Vec<(&'static str, &'static str)>,
    /// The only stages that may run; empty for all.
    pub only: Vec<&'static str>,
    pub targets: Vec<&'static str>,
    pub settings: Vec<String>,
    pub requests: StopRequests,
    pub device: String,
    pub jobs: usize,
}

#[derive(Default)]
pub struct Heard(Mutex<Vec<Event>>);

impl Heard {
    pub fn into_events(self) -> Vec<Event> {
        self.0.into_inner().expect("no test panics while it listens")
    }
}

impl Observer for Heard {
    fn event(&self, event: Event) {
        self.0.lock().expect("no test panics while it listens").push(event);
    }
}

impl Bed {
    /// With three photos, and `stages` as the stages of the pipeline; `LOG` in them becomes the path of the log.
    pub fn new(stages: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bed = Self {
            folder,
            kinds: KINDS,
            keep_going: false,
            force: Vec::new(),
            only: Vec::new(),
            targets: Vec::new(),
            settings: Vec::new(),
            requests: StopRequests::default(),
            device: "cpu".to_string(),
            jobs: 2,
        };
        for name in ["one", "two", "three"] {
            bed.write(&format!("images/{name}.png"), &format!("text {name}"));
        }
        bed.write("base.safetensors", "base");
        bed.stages(stages);
        bed
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Writes the pipeline file.
    pub fn stages(&self, stages: &str) {
        self.file("", stages);
    }

    /// With further keys at the top.
    pub fn file(&self, top: &str, stages: &str) {
        let stages = stages.replace("LOG", &self.at("log").display().to_string());
        let text = format!("concept: test\n{top}\ninputs: {{ photos: images/, base: base.safetensors }}\nstages:\n{stages}\n");
        self.write("pipeline.yaml", &text);
    }

    pub fn load(&self) -> Pipeline {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        match load(&self.at("pipeline.yaml"), &self.settings, &surroundings, self.kinds) {
            Ok(pipeline) => pipeline,
            Err(problems) => panic!("{:?}", problems.iter().map(|problem| &problem.message).collect::<Vec<_>>()),
        }
    }

    /// What is wrong with the pipeline file.
    pub fn problems(&self) -> Vec<String> {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let found = load(&self.at("pipeline.yaml"), &self.settings, &surroundings, self.kinds).err().expect("a problem");
        found.into_iter().map(|problem| problem.message).collect()
    }

    pub fn cache(&self) -> Cache {
        Cache::open(&self.at("cache")).expect("the cache opens")
    }

    fn ids(&self, pipeline: &Pipeline, names: &[&str]) -> Vec<StageId> {
        names.iter().flat_map(|name| named(pipeline, name)).collect()
    }

    /// What the fields ask for.
    fn selection(&self, pipeline: &Pipeline) -> Selection {
        let targets = if self.targets.is_empty() { pipeline.asked_by_default() } else { self.ids(pipeline, &self.targets) };
        let mut selection = Selection::of(targets);
        for (name, pattern) in &self.force {
            let force = if pattern.is_empty() { Force::All } else { Force::items(pattern).expect("a pattern") };
            selection.force.extend(self.ids(pipeline, &[*name]).into_iter().map(|stage| (stage, force.clone())));
        }
        if !self.only.is_empty() {
            selection.leave_out_all_but(pipeline, self.ids(pipeline, &self.only));
        }
        selection
    }

    /// Runs the pipeline in a folder that another process has made.
    pub fn run_in(folder: &Path) -> anyhow::Result<RunRecord> {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let file = folder.join("pipeline.yaml");
        let pipeline = load(&file, &[], &surroundings, KINDS).unwrap_or_else(|problems| panic!("{problems:?}"));
        let options = RunOptions {
            selection: Selection::of(pipeline.asked_by_default()),
            keep_going: false,
            jobs: 2,
            device: "cpu".to_string(),
        };
        let cache = Cache::open(&folder.join("cache"))?;
        schedule::run(&pipeline, &cache, &options, &Heard::default(), &StopRequests::default())
    }

    pub fn try_run(&self, heard: &dyn Observer) -> anyhow::Result<RunRecord> {
        let pipeline = self.load();
        let (jobs, device) = (self.jobs, self.device.clone());
        let options = RunOptions { selection: self.selection(&pipeline), keep_going: self.keep_going, jobs, device };
        schedule::run(&pipeline, &self.cache(), &options, heard, &self.requests)
    }

    /// Runs, and gives what was written down, sorted, and the record.
    pub fn run_all(&self) -> (Vec<String>, RunRecord, Vec<Event>) {
        let before = self.log().len();
        let heard = Heard::default();
        let record = self.try_run(&heard).expect("the run itself does not fail");
        let mut did: Vec<String> = self.log().split_off(before);
        did.sort();
        (did, record, heard.into_events())
    }

    /// Runs, expects that all goes well, and gives what was written down, sorted. A plan beforehand must have said the same stages.
    pub fn run(&self) -> Vec<String> {
        let planned: BTreeSet<String> =
            self.plan().stages.iter().filter(|s| !s.dirty.is_empty()).map(|s| s.name.clone()).collect();
        let (did, record, events) = self.run_all();
        assert!(record.is_ok(), "{record:?}");
        let started: BTreeSet<String> = events
            .iter()
            .filter_map(|event| match event {
                Event::StageStarted { stage, .. } => Some(stage.clone()),
                _ => None,
            })
            .collect();
        assert!(planned.is_subset(&started), "planned {planned:?}, started {started:?}");
        did
    }

    pub fn plan(&self) -> Plan {
        let pipeline = self.load();
        plan(&pipeline, &self.cache(), &self.selection(&pipeline)).expect("a plan")
    }

    /// The reasons that a plan gives for a stage.
    pub fn reasons(&self, stage: &str) -> Vec<String> {
        self.plan().stage(stage).expect("a stage of the plan").reasons.iter().map(ToString::to_string).collect()
    }

    /// Deletes what nothing needs, or only looks.
    pub fn collect(&self, options: CollectOptions<'_>) -> Collected {
        // Kinds that no test changes: the worth of their results is as their names say.
        let worth = |kind: &str| match kind {
            "echo" => Worth::Bulky,
            "learn" | "caption" => Worth::Precious,
            _ => Worth::Usual,
        };
        collect(&self.cache(), self.path(), &options, &worth).expect("what there is can be read")
    }

    /// What is wrong in the cache, every byte read.
    pub fn damage(&self) -> Vec<Problem> {
        self.cache().check(Depth::Full, &[(TREE_FIELD, item_set::check)]).expect("the cache can be read").problems
    }

    /// Runs git in the folder.
    pub fn git(&self, arguments: &[&str]) {
        git(self.path(), arguments);
    }

    /// What was written down, in order.
    pub fn log(&self) -> Vec<String> {
        fs::read_to_string(self.at("log")).unwrap_or_default().lines().map(str::to_string).collect()
    }

    pub fn lock(&self) -> LockFile {
        LockFile::read(&self.at("pipeline.lock")).expect("the lock can be read")
    }

    /// The items of a stage as the lock names them.
    pub fn items(&self, stage: &str) -> ItemSet {
        let lock = self.lock();
        let row = lock.stages[stage].last().expect("a row");
        item_set::decode(&self.cache().read(&row.out).expect("the tree is here")).expect("a tree")
    }

    /// The digests of a stage's outputs by item and field.
    pub fn digests(&self, stage: &str) -> BTreeMap<(String, String), Digest> {
        self.items(stage)
            .into_iter()
            .flat_map(|item| item.fields.into_iter().map(move |(field, a)| ((item.name.clone(), field.to_string()), a.digest)))
            .collect()
    }

    /// What a text output says.
    pub fn says(&self, stage: &str, item: &str) -> String {
        let items = self.items(stage);
        let item = items.iter().find(|i| i.name == item).expect("an item of the stage");
        let artifact = item.fields.get("image").or_else(|| item.fields.get("lora")).expect("a text");
        String::from_utf8(self.cache().read(&artifact.digest).expect("the object is here")).expect("a text")
    }
}
