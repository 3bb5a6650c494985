//! Text by text: whose it is, where it lies, what the machine said before and says now. Writes nothing.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::edits::apply::known_row;
use crate::edits::folder::{Contents, read_text};
use crate::edits::judge::{Provenance, companion_of};
use crate::edits::moves::Moves;
use crate::edits::{EditableItem, Editing};

/// A text that lies in the folder, or that an item is still to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyedText {
    /// Of the item; of a text without an item its path in the folder, without extension.
    pub name: String,
    pub provenance: Provenance,
    /// `None` if there is no file. A text whose photo was renamed still has its old name.
    pub file: Option<PathBuf>,
    /// Why the file cannot be used.
    pub unusable: Option<String>,
    /// The item for whose mirror a person wrote this text. The machine writes none of these.
    pub mirror_of: Option<String>,
    /// The text that the machine had written, or would have, when the person wrote; `None` if nobody knows one.
    pub before: Option<Digest>,
    /// What the machine says under the item's present key, if that has been made.
    pub now: Option<Artifact>,
    /// Something tells who wrote it. Otherwise it counts as a person's.
    pub is_compared: bool,
}

impl SurveyedText {
    /// What the file says, normalised; `None` if there is none that can be used.
    pub fn read(&self) -> Result<Option<String>> {
        Ok(match &self.file {
            Some(file) => read_text(file)?.and_then(std::result::Result::ok),
            None => None,
        })
    }

    /// What the machine said before, if the cache still has it.
    pub fn machine_before(&self, cache: &Cache) -> Option<String> {
        self.before.and_then(|digest| said(cache, &digest))
    }

    /// What the machine says now, if it was asked.
    pub fn machine_now(&self, cache: &Cache) -> Option<String> {
        self.now.as_ref().and_then(|now| said(cache, &now.digest))
    }
}

fn said(cache: &Cache, digest: &Digest) -> Option<String> {
    cache.read(digest).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl Editing<'_> {
    /// Every text, in the order of the names.
    pub fn survey(&self, items: &[EditableItem]) -> Vec<SurveyedText> {
        self.survey_after(&Moves::find(self, items), items)
    }

    /// As `survey`, where the moves of these items have been found already.
    pub(crate) fn survey_after(&self, moves: &Moves<'_>, items: &[EditableItem]) -> Vec<SurveyedText> {
        let mut texts: Vec<SurveyedText> = items.iter().map(|item| self.survey_item(item, moves)).collect();
        let orphans = self.orphans(moves).into_iter().map(|name| self.survey_other(name, Provenance::Orphan, None));
        texts.extend(orphans);
        let companions = self.found.texts.keys().filter_map(|name| Some((name, companion_of(name, moves)?)));
        texts.extend(companions.map(|(name, item)| self.survey_other(name.clone(), Provenance::Edited, Some(item.to_string()))));
        texts.sort_by(|a, b| a.name.cmp(&b.name));
        texts
    }

    fn survey_item(&self, item: &EditableItem, moves: &Moves<'_>) -> SurveyedText {
        let found = moves.file_of(self, &item.name);
        let unusable = match found.map(|found| &found.contents) {
            Some(Contents::Unusable(message)) => Some(message.clone()),
            _ => None,
        };
        SurveyedText {
            name: item.name.clone(),
            provenance: self.judge_text(item, moves).0,
            file: found.map(|found| found.path.clone()),
            unusable,
            mirror_of: None,
            before: known_row(self.rows_of(item, moves), item.key).and_then(|row| row.text),
            now: item.machine.clone(),
            is_compared: self.is_compared(item, moves),
        }
    }

    /// A text that is no item's own.
    fn survey_other(&self, name: String, provenance: Provenance, mirror_of: Option<String>) -> SurveyedText {
        let found = &self.found.texts[&name];
        let unusable = match &found.contents {
            Contents::Unusable(message) => Some(message.clone()),
            Contents::Text(..) => None,
        };
        let before = self.rows.get(&name).and_then(|rows| rows.first()).and_then(|row| row.text);
        SurveyedText {
            name,
            provenance,
            file: Some(found.path.clone()),
            unusable,
            mirror_of,
            before,
            now: None,
            is_compared: true,
        }
    }
}
