//! Whether anything changed since a run that found nothing to do. If not, there is nothing to do again, and it is known without
//! listing a photo or reading a tree. Unaware of what the files mean: the same program, the same pipeline and unchanged files
//! give the same run.
//!
//! `runs/<pipeline>.standstill` in the cache may be deleted at any time: then the next run looks at everything.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::atomic::replace_unsynced;
use crate::cache::digest::Digest;
use crate::cache::encoding::{Writer, sealed, unsealed};
use crate::cache::place::Place;
use crate::cache::stat_index::FileStat;
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::{Ask, Selection};
use crate::inputs::input::Found;
use crate::kind::item_tree::ItemTree;
use crate::lock_file::LockFile;
use crate::out::folder::{is_stage_shown, tree_to_show};
use crate::run::control::StopRequests;
use crate::run::events::{Counts, Event, Observer, StageState};
use crate::run::run_record::{RunRecord, StageReport};
use crate::run::waiting::wait_for_pipeline;
use crate::run::watched::{Watched, watched};

const HEADER: &[u8; 16] = b"loramill-still2\n";
/// Of a million files; what is larger says nothing.
const LARGEST: u64 = 256 << 20;

/// A snapshot of what a run reads, taken before the run looked at it.
pub struct InputSnapshot {
    /// Stands for all that decides a run but lies in no file: program, pipeline, stages, places.
    request: Digest,
    watched: Vec<Watched>,
}

/// What was found when nothing had to run.
#[derive(Debug, PartialEq)]
struct NoopRecord {
    request: Digest,
    watched: Vec<Watched>,
    stages: Vec<UnchangedStage>,
    /// What a run says of the texts beside photos each time.
    remarks: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct UnchangedStage {
    name: String,
    /// Its outputs, as far as `out/` shows them.
    tree: Digest,
    count: u64,
    note: Option<String>,
}

/// What is known without looking at everything.
pub enum Noop {
    /// Nothing changed since a run that found nothing to do: this is that run once more.
    Unchanged(RunRecord),
    /// Something did.
    Changed,
    Unknown,
}

/// Gives the run that found nothing to do once more, if nothing changed since. `glanced` need not know its photos.
pub fn repeat_noop(
    glanced: &Pipeline,
    cache: &Cache,
    selection: &Selection,
    observer: &dyn Observer,
    requests: &StopRequests,
) -> Result<Noop> {
    let started = Instant::now();
    let path = file_of(glanced, cache)?;
    let Some(noop) = NoopRecord::read(&path) else { return Ok(Noop::Unknown) };
    if request(glanced, cache, selection)? != Some(noop.request) {
        return Ok(Noop::Unknown);
    }
    let Some(_pipeline_lock) = wait_for_pipeline(glanced, cache, observer, requests)? else {
        let seconds = started.elapsed().as_secs_f64();
        return Ok(Noop::Unchanged(RunRecord { stages: Vec::new(), seconds, interrupted: true }));
    };
    let is_shown = |unchanged: &UnchangedStage| {
        glanced.id_of(&unchanged.name).is_some_and(|id| is_stage_shown(glanced, cache, id, &unchanged.tree))
    };
    if !noop.watched.iter().all(Watched::is_unchanged) || !noop.stages.iter().all(is_shown) {
        // The run that comes will do something; only one that does nothing sees to it that there is such a file again.
        let _ = path.remove();
        return Ok(Noop::Changed);
    }
    cache.register_root(&glanced.folder)?;
    let names = noop.stages.iter().map(|stage| stage.name.clone()).collect();
    observer.event(Event::RunStarted { pipeline: glanced.file.display().to_string(), stages: names });
    for message in noop.remarks {
        observer.event(Event::Said { stage: None, message });
    }
    let stages = noop.stages.into_iter().map(|stage| {
        let counts = Counts { total: stage.count as usize, cached: stage.count as usize, ..Counts::default() };
        observer.event(Event::StageFinished {
            stage: stage.name.clone(),
            state: StageState::Cached,
            counts,
            seconds: 0.0,
            note: stage.note.clone(),
            came_out_the_same: false,
        });
        let (name, note) = (stage.name, stage.note);
        StageReport { name, state: StageState::Cached, counts, seconds: 0.0, note, waits_for_user: false }
    });
    let stages = stages.collect();
    let seconds = started.elapsed().as_secs_f64();
    observer.event(Event::RunFinished { ok: true, seconds });
    Ok(Noop::Unchanged(RunRecord { stages, seconds, interrupted: false }))
}

impl InputSnapshot {
    /// Looks at every file that a run of `selection` will look at, before it does. `None` where that would show nothing:
    /// something is forced or left out, a path is no text, or a file is so young that it may change without its times telling.
    pub fn take(glanced: &Pipeline, cache: &Cache, selection: &Selection) -> Result<Option<Self>> {
        let Some(request) = request(glanced, cache, selection)? else { return Ok(None) };
        let clock = cache.clock()?;
        let Some(watched) = watched(glanced, cache, selection) else { return Ok(None) };
        let is_settled = watched.iter().all(|watched| watched.is_settled(&clock));
        Ok(is_settled.then_some(Self { request, watched }))
    }

    /// Writes down that a run found nothing to do, with the snapshot of what it read.
    pub fn keep(self, pipeline: &Pipeline, cache: &Cache, record: &RunRecord) -> Result<()> {
        if !record.is_ok() || !record.did_nothing() {
            return Ok(());
        }
        let lock = LockFile::read(&pipeline.lock_file())?;
        let unchanged = |stage: &StageReport| {
            let [row] = lock.stages.get(&stage.name)?.as_slice() else { return None };
            let (name, note) = (stage.name.clone(), stage.note.clone());
            let whole = ItemTree::in_cache(row.out, row.items as usize);
            let shown = tree_to_show(pipeline, cache, pipeline.id_of(&name)?, &whole).ok()?;
            Some(UnchangedStage { name, tree: shown.digest, count: row.items, note })
        };
        let Some(stages) = record.stages.iter().map(unchanged).collect() else { return Ok(()) };
        let remarks = pipeline.photo_remarks.clone();
        let noop = NoopRecord { request: self.request, watched: self.watched, stages, remarks };
        let path = file_of(pipeline, cache)?;
        path.folder().make_folder()?;
        replace_unsynced(&path, &noop.encode())
    }
}

fn file_of(pipeline: &Pipeline, cache: &Cache) -> Result<Place> {
    cache.run_file(&pipeline.folder, "standstill")
}

/// All that decides a run and lies in none of the files that are watched. `None` for a run whose outcome is not that of the file
/// as it stands.
fn request(pipeline: &Pipeline, cache: &Cache, selection: &Selection) -> Result<Option<Digest>> {
    let needed = selection.needed(pipeline);
    let is_plain = needed.iter().all(|stage| matches!(selection.ask(*stage), Ask::Complete));
    if !is_plain || !pipeline.settings.is_empty() {
        return Ok(None);
    }
    let program = FileStat::of(&std::env::current_exe()?)?;
    let mut writer = Writer::default();
    writer.text(env!("CARGO_PKG_VERSION"));
    writer.bytes.extend_from_slice(&program.to_bytes());
    writer.digest(&pipeline.source);
    for path in [&fs::canonicalize(&pipeline.folder)?, &fs::canonicalize(cache.root())?] {
        writer.text(&path.to_string_lossy());
    }
    for input in &pipeline.inputs {
        let (form, places): (u64, &[PathBuf]) = match &input.found {
            Found::Photos { folder, .. } => (0, std::slice::from_ref(folder)),
            Found::File(path) => (1, std::slice::from_ref(path)),
            Found::Absent(places) => (2, places),
        };
        writer.number(form);
        writer.number(places.len() as u64);
        places.iter().for_each(|place| writer.text(&place.to_string_lossy()));
    }
    for stage in needed {
        writer.text(&pipeline.stages[stage].name);
    }
    Ok(Some(Digest::of(&writer.bytes)))
}

impl NoopRecord {
    /// `None` if there is none, or a damaged one.
    fn read(path: &Place) -> Option<Self> {
        path.read(LARGEST).ok().and_then(|bytes| Self::decode(&bytes).ok())
    }

    fn encode(&self) -> Vec<u8> {
        sealed(HEADER, |writer| {
            writer.digest(&self.request);
            writer.number(self.stages.len() as u64);
            for stage in &self.stages {
                writer.text(&stage.name);
                writer.digest(&stage.tree);
                writer.number(stage.count);
                writer.optional_text(stage.note.as_deref());
            }
            writer.number(self.remarks.len() as u64);
            self.remarks.iter().for_each(|remark| writer.text(remark));
            writer.number(self.watched.len() as u64);
            self.watched.iter().for_each(|watched| watched.encode(writer));
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        unsealed(HEADER, bytes, |reader| {
            let request = reader.digest()?;
            let mut stages = Vec::new();
            for _ in 0..reader.count()? {
                let (name, tree, count) = (reader.text()?.to_string(), reader.digest()?, reader.number()?);
                stages.push(UnchangedStage { name, tree, count, note: reader.optional_text()?.map(str::to_string) });
            }
            let mut remarks = Vec::new();
            for _ in 0..reader.count()? {
                remarks.push(reader.text()?.to_string());
            }
            let mut watched = Vec::new();
            for _ in 0..reader.count()? {
                watched.push(Watched::decode(reader)?);
            }
            Ok(Self { request, watched, stages, remarks })
        })
    }
}

/// Passes events on and knows whether any said something that a run at rest does not say again.
pub struct Hearing<'a> {
    next: &'a dyn Observer,
    /// What it does say again.
    remarks: &'a [String],
    heard: AtomicBool,
}

impl<'a> Hearing<'a> {
    /// Has heard nothing yet. `next` gets every event.
    pub fn new(next: &'a dyn Observer, pipeline: &'a Pipeline) -> Self {
        Self { next, remarks: &pipeline.photo_remarks, heard: AtomicBool::new(false) }
    }

    /// Whether the run must not be noted as one that had nothing to do: the next would keep silent about what this one said.
    pub fn heard_something(&self) -> bool {
        self.heard.load(Ordering::SeqCst)
    }
}

impl Observer for Hearing<'_> {
    fn event(&self, event: Event) {
        let is_new = match &event {
            Event::Said { stage: None, message } => !self.remarks.contains(message),
            Event::Said { .. } | Event::Linted { .. } => true,
            _ => false,
        };
        if is_new {
            self.heard.store(true, Ordering::SeqCst);
        }
        self.next.event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::run::watched::below;

    fn noop(folder: &Path) -> NoopRecord {
        let stage = UnchangedStage { name: "crop".into(), tree: Digest::of(b"tree"), count: 3, note: Some("stopped".into()) };
        let watched = vec![below(folder).unwrap()];
        NoopRecord { request: Digest::of(b"request"), watched, stages: vec![stage], remarks: vec!["1 of 3".into()] }
    }

    #[test]
    fn what_is_cut_or_damaged_anywhere_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.png"), "a").unwrap();
        let noop = noop(folder.path());
        let bytes = noop.encode();
        assert_eq!(NoopRecord::decode(&bytes).unwrap(), noop);
        for place in 0..bytes.len() {
            assert!(NoopRecord::decode(&bytes[..place]).is_err(), "cut at {place}");
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            assert!(NoopRecord::decode(&flipped).is_err(), "flipped at {place}");
        }
    }
}
