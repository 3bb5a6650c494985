//! Decides whose text a file is and what is to be done with it. Reads nothing and writes nothing.

use crate::cache::artifact::{Artifact, Fields};
use crate::cache::digest::Digest;
use crate::edits::folder::{Contents, Found};
use crate::edits::moves::Moves;
use crate::edits::{EditableItem, Editing};
use crate::lock_file::EditRow;

/// A text of a person under the name of an item with this after it belongs to the mirror of that item: `IMG_1-flip.txt`.
const COMPANIONS: [&str; 1] = ["-flip"];

/// Whose text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The machine's, or none yet.
    Machine,
    /// A person's.
    Edited,
    /// A person's, and what the machine would say today has another key than when the person wrote.
    Stale,
    /// A text without an item: its photo is gone.
    Orphan,
}

impl Provenance {
    /// As tables and JSON write it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Edited => "edited",
            Self::Stale => "stale",
            Self::Orphan => "orphan",
        }
    }
}

/// What is to be done for one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The file stays; it holds this text.
    Keep(Artifact),
    /// The machine's text is known and will be written.
    Write {
        text: Artifact,
        /// The machine's older text that is in the file.
        replaces: Option<Digest>,
    },
    /// The machine has to make its text first.
    Run,
    /// The file cannot be used: says why.
    Fail(String),
}

/// Whose text an item has, and what a run does about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub provenance: Provenance,
    pub action: Action,
    /// Texts of people for fields beside the stage's own: `caption-flip`.
    pub companions: Fields,
    /// Something tells who wrote the text: the machine's text of today, or a row of the lock. Otherwise it counts as a person's.
    pub is_compared: bool,
}

impl Judgement {
    /// The text that consumers see once the stage is done, if it is known already.
    pub fn text(&self) -> Option<&Artifact> {
        match &self.action {
            Action::Keep(text) | Action::Write { text, .. } => Some(text),
            Action::Run | Action::Fail(_) => None,
        }
    }
}

impl Editing<'_> {
    /// One judgement per item, in their order.
    pub fn judge(&self, items: &[EditableItem]) -> Vec<Judgement> {
        self.judge_after(&Moves::find(self, items), items)
    }

    /// As `judge`, where the moves of these items have been found already.
    pub(crate) fn judge_after(&self, moves: &Moves<'_>, items: &[EditableItem]) -> Vec<Judgement> {
        let any_companion = self.found.texts.keys().any(|name| COMPANIONS.iter().any(|suffix| name.ends_with(suffix)));
        let judge_item = |item| {
            let (companions, unusable) = match any_companion {
                true => self.companions(item, moves),
                false => (Fields::new(), None),
            };
            let (provenance, action) = match unusable {
                Some(message) => (Provenance::Edited, Action::Fail(message)),
                None => self.judge_text(item, moves),
            };
            let is_compared = self.is_compared(item, moves);
            Judgement { provenance, action, companions, is_compared }
        };
        items.iter().map(judge_item).collect()
    }

    /// Whether anything tells who wrote the text of an item.
    pub(crate) fn is_compared(&self, item: &EditableItem, moves: &Moves<'_>) -> bool {
        item.machine.is_some() || self.rows_about(item, moves).next().is_some()
    }

    /// The names of texts that belong to no item.
    pub(crate) fn orphans(&self, moves: &Moves<'_>) -> Vec<String> {
        let is_set_aside = |name: &str| {
            let stems = COMPANIONS.iter().filter_map(|suffix| name.strip_suffix(suffix));
            stems.chain([name]).any(|stem| self.set_aside.contains(stem))
        };
        let belongs =
            |name: &str| moves.is_item(name) || moves.leaves(name) || companion_of(name, moves).is_some() || is_set_aside(name);
        self.found.texts.keys().filter(|name| !belongs(name)).cloned().collect()
    }

    /// Judges the text of the stage's own field alone, not those for further fields.
    pub(crate) fn judge_text(&self, item: &EditableItem, moves: &Moves<'_>) -> (Provenance, Action) {
        let make = |replaces: Option<Digest>| match &item.machine {
            Some(text) => Action::Write { text: text.clone(), replaces },
            None => Action::Run,
        };
        match moves.file_of(self, &item.name).map(|found| &found.contents) {
            None => (Provenance::Machine, make(None)),
            Some(Contents::Unusable(message)) => (Provenance::Edited, Action::Fail(message.clone())),
            Some(Contents::Text(digest, size)) => {
                if let Some(text) = item.machine.as_ref().filter(|text| text.digest == *digest) {
                    return (Provenance::Machine, Action::Keep(text.clone()));
                }
                if self.rows_about(item, moves).any(|row| row.text == Some(*digest)) {
                    return (Provenance::Machine, make(Some(*digest)));
                }
                let text = Artifact { digest: *digest, size: *size, extension: self.extension.as_str().into() };
                let rows = self.rows_of(item, moves);
                let stale = !rows.is_empty() && item.key.is_some_and(|key| rows.iter().all(|row| row.key != key));
                (if stale { Provenance::Stale } else { Provenance::Edited }, Action::Keep(text))
            }
        }
    }

    /// The rows of the photo of `item`, under the name it had, else those of its name.
    pub(crate) fn rows_of(&self, item: &EditableItem, moves: &Moves<'_>) -> &[EditRow] {
        let name = moves.source_of(&item.name).unwrap_or(&item.name);
        self.rows.get(name).map_or(&[], Vec::as_slice)
    }

    /// All rows that may name a text of the machine in the file of `item`.
    fn rows_about(&self, item: &EditableItem, moves: &Moves<'_>) -> impl Iterator<Item = &EditRow> {
        let own = self.rows.get(&item.name).map_or(&[][..], Vec::as_slice);
        self.rows_of(item, moves).iter().chain(own)
    }

    /// The texts for further fields, and what is wrong with one of them.
    fn companions(&self, item: &EditableItem, moves: &Moves<'_>) -> (Fields, Option<String>) {
        let mut companions = Fields::new();
        for suffix in COMPANIONS {
            if moves.is_item(&format!("{}{suffix}", item.name)) {
                continue;
            }
            match self.companion_file(item, suffix, moves).map(|found| &found.contents) {
                None => {}
                Some(Contents::Unusable(message)) => return (companions, Some(message.clone())),
                Some(Contents::Text(digest, size)) => {
                    let text = Artifact { digest: *digest, size: *size, extension: self.extension.as_str().into() };
                    companions.insert(format!("{}{suffix}", self.field).into(), text);
                }
            }
        }
        (companions, None)
    }

    fn companion_file(&self, item: &EditableItem, suffix: &str, moves: &Moves<'_>) -> Option<&Found> {
        let name = format!("{}{suffix}", item.name);
        match self.found.texts.get(&name) {
            Some(found) => Some(found),
            None => moves.moved_from(&item.name).and_then(|source| self.found.texts.get(&format!("{source}{suffix}"))),
        }
    }

    /// The endings by which a text is about the mirror of an item: `-flip`.
    pub(crate) fn companion_suffixes() -> &'static [&'static str] {
        &COMPANIONS
    }
}

/// The name of the item whose mirror the text `name` is about; the item may have another name now.
pub(crate) fn companion_of<'n>(name: &'n str, moves: &Moves<'_>) -> Option<&'n str> {
    let mut stems = COMPANIONS.iter().filter_map(|suffix| name.strip_suffix(suffix));
    stems.find(|stem| !moves.is_item(name) && (moves.is_item(stem) || moves.leaves(stem)))
}
