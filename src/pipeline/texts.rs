//! Where an editable stage meets what people wrote: their text takes the place of the machine's in the items that consumers see, and an
//! item that a person wrote is not run. Unaware of how texts are kept; that is `edits`.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::records::Output;
use crate::edits::{Action, EditableItem, Editing, Provenance};
use crate::pipeline::decide::{Decision, Grounds, KeyedWork, Verdict, WorkState};
use crate::pipeline::graph::{LoadedStage, Pipeline};
use crate::pipeline::item::{Artifact, Fields};
use crate::pipeline::lock_file::{EditRows, LockFile};
use crate::pipeline::selection::Ask;
use crate::pipeline::stage::{Editable, Form};

/// The folder of a stage's texts: that of its kind, or for a stage of another name one of its own.
pub fn folder(pipeline: &Pipeline, stage: &LoadedStage, editable: &Editable) -> PathBuf {
    let name = if stage.name == stage.kind.name() {
        editable.folder.to_string()
    } else {
        format!("{}-{}", editable.folder, stage.name.replace('/', "-"))
    };
    pipeline.folder.join(name)
}

/// What people wrote for a stage, as it lies there now.
pub fn read<'c>(
    pipeline: &Pipeline,
    cache: &'c Cache,
    lock: &'c LockFile,
    stage: &LoadedStage,
    editable: &Editable,
) -> Result<Editing<'c>> {
    Editing::read(cache, &folder(pipeline, stage, editable), editable.field, editable.extension, rows(lock, stage))
}

/// Puts right what a killed run left in the folder of a stage's texts, if it has one; returns what the user should know. Under the lock
/// of the pipeline.
pub fn recover(pipeline: &Pipeline, cache: &Cache, lock: &LockFile, stage: &LoadedStage) -> Result<Vec<String>> {
    let Some(editable) = stage.stage.editable() else { return Ok(Vec::new()) };
    Editing::recover(cache, &folder(pipeline, stage, &editable), editable.extension, rows(lock, stage))
}

/// What the lock says of the texts of a stage.
pub fn rows<'l>(lock: &'l LockFile, stage: &LoadedStage) -> &'l EditRows {
    static NONE: EditRows = EditRows::new();
    lock.edits.get(&stage.name).unwrap_or(&NONE)
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
        _ => None,
    }
}

/// The text among the outputs of a piece of work.
pub fn text_of<'o>(editable: &Editable, outputs: &'o [Output]) -> Option<&'o Artifact> {
    outputs.first().and_then(|output| output.fields.get(editable.field))
}

/// All pieces of work of an editable stage as the machine alone would see them: which text it has made and which not, whatever people
/// wrote. `None` if they are not known before other stages have run.
pub fn machine_works(stage: &LoadedStage, decision: &Decision<'_>, grounds: &Grounds<'_>) -> Result<Option<Vec<KeyedWork>>> {
    let Form::Items(form) = stage.stage.form() else { return Ok(None) };
    let works = match &decision.verdict {
        Verdict::Works(works) => works.works.iter().map(|work| work.work.clone()).collect(),
        Verdict::Fresh { .. } => form.expand(&grounds.resolve(&decision.taken, true)?, grounds.files())?,
        Verdict::Whole(_) | Verdict::Kept { .. } | Verdict::Waits(_) => return Ok(None),
    };
    grounds.look_up(stage, &decision.identity, works, false).map(Some)
}

/// Lets what people wrote decide which pieces of work must run.
pub fn judge(editing: &Editing<'_>, editable: &Editable, works: &mut [KeyedWork], ask: Ask<'_>) {
    let known = items(&*works, |_, keyed| made(editable, keyed));
    let judgements = editing.judge(&known);
    for (keyed, judgement) in works.iter_mut().zip(judgements) {
        if keyed.state == WorkState::Unknown && judgement.provenance == Provenance::Machine {
            continue;
        }
        match judgement.action {
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
