//! Where an editable stage meets what people wrote: their text takes the place of the machine's in the items that consumers see, and an
//! item that a person wrote is not run. Unaware of how texts are kept; that is `edits`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::edits::{Action, EditableItem, Editing, Provenance};
use crate::pipeline::decide::{KeyedWork, WorkState};
use crate::pipeline::graph::{LoadedStage, Pipeline};
use crate::pipeline::item::Artifact;
use crate::pipeline::lock_file::{EditRows, LockFile};
use crate::pipeline::selection::Ask;
use crate::pipeline::stage::Editable;

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
    lock: &LockFile,
    stage: &LoadedStage,
    editable: &Editable,
) -> Result<Editing<'c>> {
    let none = EditRows::new();
    let rows = lock.edits.get(&stage.name).unwrap_or(&none);
    Editing::read(cache, &folder(pipeline, stage, editable), editable.field, editable.extension, rows)
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
            EditableItem { name: work.name.clone(), key: keyed.key, photo, machine: made(place, keyed) }
        })
        .collect()
}

/// Lets what people wrote decide which pieces of work must run.
pub fn judge(editing: &Editing<'_>, editable: &Editable, works: &mut [KeyedWork], ask: Ask<'_>) {
    let known = items(&*works, |_, keyed| match &keyed.state {
        WorkState::Fresh(outputs) => outputs.first().and_then(|output| output.fields.get(editable.field)).cloned(),
        _ => None,
    });
    let judgements = editing.judge(&known);
    for (keyed, judgement) in works.iter_mut().zip(judgements) {
        if keyed.state == WorkState::Unknown && judgement.provenance == Provenance::Machine {
            continue;
        }
        match judgement.action {
            Action::Keep(text) if judgement.provenance != Provenance::Machine => {
                let mut fields: BTreeMap<String, Artifact> = judgement.companions;
                fields.insert(editable.field.to_string(), text);
                keyed.state = WorkState::Edited(fields);
            }
            Action::Fail(message) => keyed.state = WorkState::Broken(message),
            Action::Keep(_) | Action::Write { .. } if ask.forces(&keyed.work.name) => keyed.state = WorkState::Dirty,
            Action::Keep(_) | Action::Write { .. } => add_companions(&mut keyed.state, judgement.companions),
            Action::Run => keyed.state = WorkState::Dirty,
        }
    }
}

fn add_companions(state: &mut WorkState, companions: BTreeMap<String, Artifact>) {
    if let WorkState::Fresh(outputs) = state
        && let Some(output) = outputs.first_mut()
    {
        output.fields.extend(companions);
    }
}
