//! A folder with a real pipeline and a real cache, brought to what the oracle's world says, and what a run does in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use loramill_engine::cache::Cache;
use loramill_engine::cache::digest::Digest;
use loramill_engine::decide::plan::{Plan, plan};
use loramill_engine::explain::text_status::text_status;
use loramill_engine::graph::load::load;
use loramill_engine::graph::pipeline::Pipeline;
use loramill_engine::graph::selection::{Force, Selection};
use loramill_engine::graph::stage_id::StageId;
use loramill_engine::inputs::sources::Surroundings;
use loramill_engine::kind::item::Fields;
use loramill_engine::kind::item_set;
use loramill_engine::lock_file::LockFile;
use loramill_engine::run::caption_edits::CaptionEdits;
use loramill_engine::run::control::StopRequests;
use loramill_engine::run::events::{Event, Observer, Silent, StageState};
use loramill_engine::run::on_demand::Directed;
use loramill_engine::run::run_context::RunOptions;
use loramill_engine::run::schedule;

use crate::folders::{Files, files_below};
use crate::oracle::kinds::{KINDS, LATER_KINDS};
use crate::oracle::model::{Wanted, World};
use crate::oracle::spec::Kind;

pub struct Place {
    folder: tempfile::TempDir,
}

/// What a run did.
#[derive(Debug)]
pub struct Ran {
    /// Stage and item.
    pub did: Vec<(String, String)>,
    pub states: BTreeMap<String, StageState>,
    pub notes: Vec<String>,
    /// What the kinds themselves wrote down, by the stage in the file.
    pub lines: BTreeMap<String, usize>,
    pub is_ok: bool,
}

/// An item of a lock's tree: name, origin, and the digests of the fields.
pub type Listed = (String, Option<String>, BTreeMap<String, Digest>);

/// Listens, and wants an end after so many events.
struct Listener {
    events: Mutex<Vec<Event>>,
    requests: StopRequests,
    interrupt_after: Option<usize>,
}

impl Observer for Listener {
    fn event(&self, event: Event) {
        let mut events = self.events.lock().expect("no test panics while it listens");
        events.push(event);
        let is_work = |event: &&Event| matches!(event, Event::ItemFinished { .. } | Event::Checkpoint { .. });
        if self.interrupt_after.is_some_and(|after| events.iter().filter(is_work).count() > after) {
            self.requests.interrupt();
        }
    }
}

impl Place {
    pub fn new() -> Self {
        // In memory where that is possible: a run waits for the disk a dozen times.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let place = Self { folder: folder.expect("a temporary folder") };
        fs::create_dir(place.at("logs")).expect("made");
        place
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn cache(&self) -> Cache {
        Cache::open(&self.at("cache")).expect("the cache opens")
    }

    /// Brings photos, texts and the pipeline file to what the world says.
    pub fn bring_to(&self, world: &World) {
        let named = |files: &BTreeMap<String, String>, extension: &str| -> Vec<(String, Vec<u8>)> {
            files.iter().map(|(name, text)| (format!("{name}.{extension}"), text.clone().into_bytes())).collect()
        };
        let images = [named(&world.photos, "png"), named(&world.sidecars, "txt")].concat().into_iter().collect();
        bring_to(&self.at("images"), &images);
        bring_to(&self.at("captions"), &named(&world.texts.files, "txt").into_iter().collect());
        match world.texts.is_gone {
            true => drop(fs::remove_dir_all(self.at("captions"))),
            false => fs::create_dir_all(self.at("captions")).expect("made"),
        }
        let base = self.at("base.safetensors");
        if fs::read(&base).ok().as_deref() != Some(world.base.as_bytes()) {
            fs::write(base, &world.base).expect("written");
        }
        let text = world.spec.to_text(&self.at("logs").display().to_string());
        fs::write(self.at("pipeline.yaml"), text).expect("written");
    }

    fn load(&self, world: &World, settings: &[String]) -> Pipeline {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let kinds = if world.spec.version == 1 { KINDS } else { LATER_KINDS };
        match load(&self.at("pipeline.yaml"), settings, &surroundings, kinds) {
            Ok(pipeline) => pipeline,
            Err(problems) => panic!("{:?}", problems.iter().map(|problem| &problem.message).collect::<Vec<_>>()),
        }
    }

    pub fn plan(&self, world: &World, wanted: &Wanted, settings: &[String]) -> Plan {
        let pipeline = self.load(world, settings);
        plan(&pipeline, &self.cache(), &selection(&pipeline, wanted)).expect("a plan")
    }

    pub fn run(&self, world: &World, wanted: &Wanted, settings: &[String], interrupt_after: Option<usize>) -> Ran {
        let before = self.lines(world);
        let pipeline = self.load(world, settings);
        let requests = StopRequests::default();
        let listener = Listener { events: Mutex::default(), requests: requests.clone(), interrupt_after };
        let selection = selection(&pipeline, wanted);
        let options = RunOptions { selection, keep_going: wanted.keep_going, jobs: 2, device: "cpu".to_string() };
        let record =
            schedule::run(&pipeline, &self.cache(), &options, &listener, &requests).expect("the run itself does not fail");
        let mut lines = self.lines(world);
        for (stage, count) in &mut lines {
            *count -= before.get(stage).copied().unwrap_or_default();
        }
        let did = |event: Event| match event {
            Event::ItemFinished { stage, item, error: None, .. } | Event::Checkpoint { stage, item, .. } => Some((stage, item)),
            _ => None,
        };
        let events = listener.events.into_inner().expect("no test panics while it listens");
        Ran {
            did: events.into_iter().filter_map(did).collect(),
            states: record.stages.iter().map(|report| (report.name.clone(), report.state)).collect(),
            notes: record.stages.iter().filter_map(|r| Some(format!("{}: {}", r.name, r.note.as_ref()?))).collect(),
            lines,
            is_ok: record.is_ok(),
        }
    }

    /// What is lost of people's texts, brought back or given up; `None` if the items are not known before other stages have run.
    pub fn settle_lost_texts(&self, world: &World, restores: bool) -> Option<BTreeSet<String>> {
        let (pipeline, cache) = (self.load(world, &[]), self.cache());
        let caption = pipeline.id_of("caption")?;
        let status = text_status(&pipeline, &cache).expect("it can be read");
        let lost = status.into_iter().find(|stage| stage.stage == "caption")?.lost;
        let options = RunOptions { selection: Selection::default(), keep_going: false, jobs: 1, device: "cpu".to_string() };
        let requests = StopRequests::default();
        let directed = Directed { options: &options, observer: &Silent, requests: &requests };
        let desk = CaptionEdits { pipeline: &pipeline, cache: &cache, directed };
        if restores {
            desk.restore(caption).expect("it can be written");
        } else {
            desk.give_up(caption).expect("the lock can be written");
        }
        Some(lost.into_iter().flat_map(|lost| lost.texts).map(|text| text.name).collect())
    }

    /// How often each stage wrote down that something was made.
    fn lines(&self, world: &World) -> BTreeMap<String, usize> {
        let count = |name: &String| {
            let log = fs::read_to_string(self.at("logs").join(name)).unwrap_or_default();
            log.lines().filter(|line| !line.starts_with("learn ")).count()
        };
        world.spec.stages.iter().map(|stage| (stage.name.clone(), count(&stage.name))).collect()
    }

    pub fn lock(&self) -> LockFile {
        LockFile::read(&self.at("pipeline.lock")).expect("the lock can be read")
    }

    /// What the lock says of a stage's items.
    pub fn items(&self, stage: &str) -> Option<Vec<Listed>> {
        let row = *self.lock().stages.get(stage)?.last()?;
        let items = item_set::decode(&self.cache().read(&row.out).ok()?).expect("a tree");
        let fields = |fields: Fields| fields.into_iter().map(|(field, artifact)| (field.to_string(), artifact.digest)).collect();
        Some(items.into_iter().map(|item| (item.name, item.origin, fields(item.fields))).collect())
    }

    /// What a person sees: `out/` and the texts, without what was put aside for them.
    pub fn shown(&self) -> Files {
        let mut files = Files::new();
        for folder in ["out", "captions"] {
            let below = files_below(&self.at(folder)).into_iter().filter(|(path, _)| !path.starts_with(".yours/"));
            files.extend(below.map(|(path, bytes)| (format!("{folder}/{path}"), bytes)));
        }
        files
    }
}

fn selection(pipeline: &Pipeline, wanted: &Wanted) -> Selection {
    let ids = |names: &BTreeSet<String>| -> Vec<StageId> {
        names.iter().map(|name| pipeline.id_of(name).unwrap_or_else(|| panic!("no stage {name}"))).collect()
    };
    let mut selection = Selection::of(wanted.targets.as_ref().map_or_else(|| pipeline.by_default(), &ids));
    if let Some(only) = &wanted.only {
        selection.leave_out_all_but(pipeline, ids(only));
    }
    if let Some((stages, prefix)) = &wanted.force {
        let force = match prefix {
            Some(prefix) => Force::items(&format!("{prefix}*")).expect("a pattern"),
            None => Force::All,
        };
        selection.force.extend(ids(stages).into_iter().map(|stage| (stage, force.clone())));
    }
    selection
}

/// Makes a folder hold these files, as a person would: moves what only has another name, and touches nothing that is right.
pub fn bring_to(folder: &Path, wanted: &Files) {
    let mut there = files_below(folder);
    let mut gone: Vec<String> = there.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
    for (path, bytes) in wanted {
        if there.get(path) == Some(bytes) {
            continue;
        }
        let target = folder.join(path);
        fs::create_dir_all(target.parent().expect("below it")).expect("made");
        match gone.iter().position(|gone| !there.contains_key(path) && there[gone] == *bytes) {
            Some(place) => {
                let from = gone.remove(place);
                fs::rename(folder.join(&from), target).expect("moved");
                there.remove(&from);
            }
            None => fs::write(target, bytes).expect("written"),
        }
    }
    for path in gone {
        fs::remove_file(folder.join(path)).expect("removed");
    }
}

/// How a field lies below `out/`, if it does.
pub fn shown_field(kind: Kind) -> Option<&'static str> {
    if kind == Kind::Caption { None } else { Some(kind.written()) }
}
