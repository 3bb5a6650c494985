//! Whose the texts of editable stages are, text by text. Reads only.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::decide::lost_texts::LostTexts;
use crate::decide::plan::walk;
use crate::decide::texts;
use crate::edits::{Provenance, SurveyedText};
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::Selection;
use crate::graph::stage_id::StageId;

/// The texts of one editable stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTexts {
    pub stage: String,
    pub folder: PathBuf,
    /// What the machine says costs next to nothing, so that the next run compares what nobody has told apart yet.
    pub is_quick: bool,
    /// In the order of the names. Items that have no text yet are among them.
    pub texts: Vec<SurveyedText>,
    /// Texts of people that no longer count although nobody decided so.
    pub lost: Option<LostTexts>,
}

impl StageTexts {
    /// Those that can be used and are whose it says.
    pub fn of(&self, provenance: Provenance) -> impl Iterator<Item = &SurveyedText> {
        self.texts.iter().filter(move |text| text.provenance == provenance && text.unusable.is_none())
    }

    /// Whether the next run will tell who wrote a text.
    pub fn is_uncompared(&self, text: &SurveyedText) -> bool {
        self.is_quick && !text.is_compared && text.provenance == Provenance::Edited && text.unusable.is_none()
    }

    /// Those that people wrote, as far as that is known.
    pub fn edited(&self) -> impl Iterator<Item = &SurveyedText> {
        self.of(Provenance::Edited).filter(|text| !self.is_uncompared(text))
    }

    /// Those that the next run compares with the machine's.
    pub fn uncompared(&self) -> impl Iterator<Item = &SurveyedText> {
        self.texts.iter().filter(|text| self.is_uncompared(text))
    }

    /// Those that cannot be used.
    pub fn unusable(&self) -> impl Iterator<Item = &SurveyedText> {
        self.texts.iter().filter(|text| text.unusable.is_some())
    }

    /// How many texts the machine wrote, or will write.
    pub fn by_machine(&self) -> usize {
        let lost: BTreeSet<&str> = self.lost.iter().flat_map(|lost| &lost.texts).map(|text| text.name.as_str()).collect();
        self.of(Provenance::Machine).filter(|text| !lost.contains(text.name.as_str())).count()
    }
}

/// One entry for each editable stage whose items are known.
pub fn text_status(pipeline: &Pipeline, cache: &Cache) -> Result<Vec<StageTexts>> {
    let editable: Vec<StageId> = pipeline.stages.ids().filter(|&id| pipeline.stages[id].stage.editable().is_some()).collect();
    let mut all = Vec::new();
    if editable.is_empty() {
        return Ok(all);
    }
    walk(pipeline, cache, &Selection::of(editable), &mut |id, decision, _, view| {
        let stage = &pipeline.stages[id];
        let Some(editable) = stage.stage.editable() else { return Ok(()) };
        let Some(works) = texts::machine_works(stage, decision, view)? else { return Ok(()) };
        let items = texts::items(&works, |_, work| texts::made(&editable, work));
        let editing = texts::read(pipeline, cache, view.lock, stage, &editable)?;
        let folder = texts::folder(pipeline, stage, &editable);
        let lost = texts::lost(view, stage, &editable, &editing, &works)?;
        let (is_quick, texts) = (editable.is_quick, editing.survey(&items));
        all.push(StageTexts { stage: stage.name.clone(), folder, is_quick, texts, lost });
        Ok(())
    })?;
    Ok(all)
}
