//! Whose the texts of editable stages are, item by item. Reads only.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::edits::{Action, EditableItem, Provenance};
use crate::pipeline::decide::{KeyedWork, Verdict, WorkState};
use crate::pipeline::graph::Pipeline;
use crate::pipeline::plan::walk;
use crate::pipeline::selection::Selection;
use crate::pipeline::stage::Form;
use crate::pipeline::texts;

/// The texts of one editable stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextStatus {
    pub stage: String,
    pub folder: PathBuf,
    /// How many are the machine's.
    pub machine: usize,
    /// Names of items whose text a person wrote.
    pub edited: Vec<String>,
    /// As `edited`, and the machine would say something else today.
    pub stale: Vec<String>,
    /// Texts whose photo is gone.
    pub orphans: Vec<String>,
    /// What is wrong with files that cannot be used.
    pub unusable: Vec<String>,
}

/// One entry for each editable stage whose items are known.
pub fn text_status(pipeline: &Pipeline, cache: &Cache) -> Result<Vec<TextStatus>> {
    let editable: Vec<usize> = (0..pipeline.stages.len()).filter(|&i| pipeline.stages[i].stage.editable().is_some()).collect();
    let mut all = Vec::new();
    if editable.is_empty() {
        return Ok(all);
    }
    walk(pipeline, cache, &Selection::of(editable), &mut |index, decision, _, grounds| {
        let stage = &pipeline.stages[index];
        let (Some(editable), Form::Items(form)) = (stage.stage.editable(), stage.stage.form()) else { return Ok(()) };
        let works = match &decision.verdict {
            Verdict::Works(works) => works.works.iter().map(|work| work.work.clone()).collect(),
            Verdict::Fresh { .. } => form.expand(&grounds.resolve(&decision.taken, true)?, grounds.files())?,
            Verdict::Whole(_) | Verdict::Kept { .. } | Verdict::Waits(_) => return Ok(()),
        };
        let works = grounds.look_up(stage, &decision.identity, works, false)?;
        let made = |_: usize, work: &KeyedWork| match &work.state {
            WorkState::Fresh(outputs) => outputs.first().and_then(|output| output.fields.get(editable.field)).cloned(),
            _ => None,
        };
        let items: Vec<EditableItem> = texts::items(&works, made);
        let editing = texts::read(pipeline, cache, grounds.lock, stage, &editable)?;
        let mut status = TextStatus {
            stage: stage.name.clone(),
            folder: texts::folder(pipeline, stage, &editable),
            orphans: editing.orphans(&items),
            ..TextStatus::default()
        };
        for (item, judgement) in items.iter().zip(editing.judge(&items)) {
            match (judgement.action, judgement.provenance) {
                (Action::Fail(message), _) => status.unusable.push(message),
                (_, Provenance::Edited) => status.edited.push(item.name.clone()),
                (_, Provenance::Stale) => status.stale.push(item.name.clone()),
                (_, Provenance::Machine | Provenance::Orphan) => status.machine += 1,
            }
        }
        all.push(status);
        Ok(())
    })?;
    Ok(all)
}
