//! Where an editable stage meets what people wrote: their text takes the place of the machine's in the items that consumers see,
//! and an item that a person wrote is not run. Unaware of how texts are kept; that is `edits`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use walkdir::{DirEntry, WalkDir};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::cache::regular_file::{self, Links};
use crate::decide::lost_texts::{self, LostTexts};
use crate::decide::taken;
use crate::decide::verdict::{Decision, KeyedWork, Verdict, WorkState};
use crate::decide::view::View;
use crate::decide::works;
use crate::edits::text::{self, normalise};
use crate::edits::{Action, EditableItem, Editing, Provenance};
use crate::graph::pipeline::{LoadedStage, Pipeline};
use crate::graph::selection::Ask;
use crate::inputs::listing::item_name;
use crate::kind::item::{Artifact, Fields};
use crate::kind::item_set;
use crate::kind::stage::{Editable, Form};
use crate::lock_file::LockFile;

/// The folder of a stage's texts: that of its kind, or for a stage of another name one of its own.
pub fn folder(pipeline: &Pipeline, stage: &LoadedStage, editable: &Editable) -> PathBuf {
    pipeline.folder.join(folder_name(&stage.name, stage.kind.name, editable))
}

/// The folder of the texts of a stage with this name and of this kind, as it is called beside the pipeline.
pub fn folder_name(stage: &str, kind: &str, editable: &Editable) -> String {
    if stage == kind { editable.folder.to_string() } else { format!("{}-{}", editable.folder, stage.replace('/', "-")) }
}

/// What people wrote for a stage, as it lies there now.
pub fn read<'c>(
    pipeline: &Pipeline,
    cache: &'c Cache,
    lock: &'c LockFile,
    stage: &LoadedStage,
    editable: &Editable,
) -> Result<Editing<'c>> {
    let editing = Editing::read(
        cache,
        &folder(pipeline, stage, editable),
        editable.field,
        editable.extension,
        lock.edit_rows(&stage.name),
    )?;
    Ok(editing.setting_aside(pipeline.skipped_photos()))
}

/// Puts right what a killed run left in the folder of a stage's texts, if it has one; returns what the user should know. Under
/// the lock of the pipeline.
pub fn recover(pipeline: &Pipeline, cache: &Cache, lock: &LockFile, stage: &LoadedStage) -> Result<Vec<String>> {
    let Some(editable) = stage.stage.editable() else { return Ok(Vec::new()) };
    Editing::recover(cache, &folder(pipeline, stage, &editable), editable.extension, lock.edit_rows(&stage.name))
}

/// What the last runs took from the folders of texts: tells an edit from what a run wrote.
#[derive(Debug, Default)]
pub struct TakenTexts {
    /// Folder, extension and texts by the name of their file without that.
    folders: Vec<(PathBuf, &'static str, HashMap<String, Digest>)>,
}

impl TakenTexts {
    /// By the lock and the trees that it names.
    ///
    /// # Errors
    /// If the lock cannot be read.
    pub fn read(pipeline: &Pipeline, cache: &Cache) -> Result<Self> {
        let lock = LockFile::read(&pipeline.lock_file())?;
        let mut taken = Self::default();
        for stage in pipeline.stages.values() {
            let Some(editable) = stage.stage.editable() else { continue };
            let mut texts = HashMap::new();
            let row = lock.stages.get(&stage.name).and_then(|rows| rows.last());
            let tree = row.and_then(|row| cache.read_list(&row.out).ok()).and_then(|tree| item_set::decode(&tree).ok());
            for item in tree.unwrap_or_default() {
                for (field, artifact) in &item.fields {
                    // A text for the mirror of a picture is a field of its own: `caption-flip`.
                    if let Some(suffix) =
                        field.strip_prefix(editable.field).filter(|rest| rest.is_empty() || rest.starts_with('-'))
                    {
                        texts.insert(format!("{}{suffix}", item.name), artifact.digest);
                    }
                }
            }
            taken.folders.push((folder(pipeline, stage, &editable), editable.extension, texts));
        }
        Ok(taken)
    }

    /// Whether the file of a text says what was taken from it, whoever wrote it; of a folder, whether all its files do. Of a file
    /// that is gone it is true if there is nothing that it would say. `None` if it lies in no folder of texts. Folders are
    /// compared as `absolute` gives them.
    pub fn is_as_taken(&self, path: &Path, absolute: &dyn Fn(&Path) -> PathBuf) -> Option<bool> {
        for (folder, extension, texts) in &self.folders {
            let folder = absolute(folder);
            let Ok(below) = path.strip_prefix(&folder) else { continue };
            if path.is_dir() {
                // Hidden files are nobody's texts.
                let is_shown = |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
                let files = WalkDir::new(path).into_iter().filter_entry(is_shown).filter_map(std::result::Result::ok);
                let mut files = files.filter(|entry| entry.file_type().is_file());
                return Some(files.all(|entry| self.is_as_taken(entry.path(), absolute).unwrap_or(false)));
            }
            let Some(name) = item_name(Path::new(""), below).filter(|_| below.extension().is_some_and(|e| e == *extension))
            else {
                // A folder that is gone is as it was if nothing was in it.
                return Some(below.extension().is_some_and(|e| e != *extension) || texts.is_empty());
            };
            let says = regular_file::read(path, Links::Followed, text::LARGEST)
                .ok()
                .and_then(|bytes| normalise(&bytes).ok())
                .map(|text| Digest::of(text.as_bytes()));
            return Some(says.as_ref() == texts.get(&name));
        }
        None
    }
}

/// The pieces of work as `edits` knows them. `made` gives the machine's text where it is known.
pub fn items<'w>(
    works: impl IntoIterator<Item = &'w KeyedWork>,
    made: impl Fn(usize, &KeyedWork) -> Option<Artifact>,
) -> Vec<EditableItem> {
    works
        .into_iter()
        .enumerate()
        .map(|(place, keyed)| {
            let work = &keyed.work;
            let descends_from = work.carry.get("photo").or_else(|| work.inputs.get("photo"));
            let photo = descends_from.or_else(|| work.inputs.values().next()).map_or(keyed.key, |artifact| artifact.digest);
            let key = (keyed.state != WorkState::Unknown).then_some(keyed.key);
            EditableItem { name: work.name.clone(), key, photo, machine: made(place, keyed) }
        })
        .collect()
}

/// The text that the machine has made already for a piece of work.
pub fn made(editable: &Editable, work: &KeyedWork) -> Option<Artifact> {
    match &work.state {
        WorkState::Fresh(outputs) => text_of(editable, outputs).cloned(),
        WorkState::Dirty | WorkState::Unknown | WorkState::Edited(_) | WorkState::Broken(_) => None,
    }
}

/// The text among the outputs of a piece of work.
pub fn text_of<'o>(editable: &Editable, outputs: &'o [Output]) -> Option<&'o Artifact> {
    outputs.first().and_then(|output| output.fields.get(editable.field))
}

/// All pieces of work of an editable stage as the machine alone would see them: which text it has made and which not, whatever
/// people wrote. `None` if they are not known before other stages have run.
pub fn machine_works(stage: &LoadedStage, decision: &Decision<'_>, view: &View<'_>) -> Result<Option<Vec<KeyedWork>>> {
    let Form::Items(form) = stage.stage.form() else { return Ok(None) };
    let works = match &decision.verdict {
        Verdict::Items(works) => works.works.iter().map(|work| work.work.clone()).collect(),
        Verdict::Fresh { .. } => form.expand(&taken::resolve(view, &decision.basis.taken, true)?, view.files)?,
        Verdict::Whole(_) | Verdict::Kept { .. } | Verdict::Waits(_) => return Ok(None),
    };
    works::look_up(view, stage, &decision.basis.identity, works, false).map(Some)
}

/// What is lost of the texts of a stage.
pub fn lost(
    view: &View<'_>,
    stage: &LoadedStage,
    editable: &Editable,
    own: &Editing<'_>,
    works: &[KeyedWork],
) -> Result<Option<LostTexts>> {
    let items = || items(works, |_, keyed| made(editable, keyed));
    lost_texts::find((view.pipeline, view.cache, view.lock), stage, editable, own, &items)
}

/// Lets what people wrote decide which pieces of work must run. `compares`: texts of which nothing tells who wrote them are
/// compared with what the machine says, where that costs next to nothing.
pub fn judge(editing: &Editing<'_>, editable: &Editable, works: &mut [KeyedWork], ask: Ask<'_>, compares: bool) {
    let known = items(&*works, |_, keyed| made(editable, keyed));
    let judgements = editing.judge(&known);
    for (keyed, judgement) in works.iter_mut().zip(judgements) {
        if keyed.state == WorkState::Unknown && judgement.provenance == Provenance::Machine {
            continue;
        }
        let stays = matches!(keyed.state, WorkState::Dirty | WorkState::Unknown);
        match judgement.action {
            Action::Keep(_) if compares && editable.is_quick && !judgement.is_compared && stays => {}
            Action::Keep(text) if judgement.provenance != Provenance::Machine => {
                let mut fields: Fields = judgement.companions;
                fields.insert(editable.field.into(), text);
                keyed.state = WorkState::Edited(fields);
            }
            Action::Fail(message) => keyed.state = WorkState::Broken(message),
            Action::Keep(_) | Action::Write { .. } if ask.forces(&keyed.work.name) => keyed.state = WorkState::Dirty,
            Action::Keep(_) | Action::Write { .. } => add_companions(&mut keyed.state, judgement.companions),
            Action::Run => keyed.state = WorkState::Dirty,
        }
    }
}

fn add_companions(state: &mut WorkState, companions: Fields) {
    if let WorkState::Fresh(outputs) = state
        && let Some(output) = outputs.first_mut()
    {
        output.fields.extend(companions);
    }
}
