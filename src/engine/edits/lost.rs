//! Texts of people that runs used and that are gone all at once, with their folder or with most of what lay in it. A single text
//! that is deleted is none of them: that means to write it again. Unaware of what a run makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::digest::Digest;
use crate::edits::folder::{self, Contents};
use crate::edits::judge::{Action, Provenance, companion_of};
use crate::edits::moves::Moves;
use crate::edits::replace::{self, Outcome, Replacement};
use crate::edits::settle::SettledText;
use crate::edits::{EditableItem, Editing};
use crate::lock_file::EditRow;

/// A text of a person that does not lie where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostText {
    /// Of the item, or of its mirror: `IMG_1-flip`.
    pub name: String,
    /// What it says, normalised; `None` of a file that is no usable text.
    pub text: Option<Digest>,
}

/// Whether `missing` of the texts that the lock knows are more than somebody deletes one by one.
pub fn are_gone_at_once(folder: &Path, known: usize, missing: usize) -> bool {
    missing > 0 && (!folder.is_dir() || (missing > 1 && missing * 2 > known))
}

/// The texts in a folder by their names, read without a cache; `None` for a file that is no usable text.
pub fn texts_in(folder: &Path, extension: &str) -> Result<BTreeMap<String, Option<Digest>>> {
    let digest = |path: &Path| -> Result<Option<Digest>> {
        let text = folder::read_text(path)?.and_then(std::result::Result::ok);
        Ok(text.map(|text| Digest::of(text.as_bytes())))
    };
    folder::names(folder, extension)?.into_iter().map(|(name, path)| Ok((name, digest(&path)?))).collect()
}

/// How many texts lie in a folder.
pub fn count_in(folder: &Path, extension: &str) -> Result<usize> {
    Ok(folder::names(folder, extension)?.len())
}

impl Editing<'_> {
    /// Whether a file lies under just this name, be it usable or not.
    pub fn has_text(&self, name: &str) -> bool {
        self.found.texts.contains_key(name)
    }

    /// Whether any text that the lock knows does not lie under its name: else none is lost.
    pub fn lacks_any(&self) -> bool {
        self.rows.keys().any(|name| !self.has_text(name))
    }

    /// The texts of people that are gone all at once.
    pub fn lost(&self, items: &[EditableItem]) -> Vec<LostText> {
        let moves = Moves::find(self, items);
        let known: Vec<&EditableItem> = items.iter().filter(|item| !self.rows_of(item, &moves).is_empty()).collect();
        let missing: Vec<&EditableItem> =
            known.iter().copied().filter(|item| moves.file_of(self, &item.name).is_none()).collect();
        // Texts of photos that are left out now are nobody's to lose either.
        let set_aside: Vec<(&String, &Vec<EditRow>)> =
            self.rows.iter().filter(|(name, _)| self.set_aside.contains(*name) && !moves.is_item(name)).collect();
        let without_text: Vec<_> = set_aside.iter().filter(|(name, _)| !self.has_text(name)).collect();
        if !are_gone_at_once(&self.folder, known.len() + set_aside.len(), missing.len() + without_text.len()) {
            return Vec::new();
        }
        let of_items = missing.into_iter().map(|item| (&item.name, self.rows_of(item, &moves)));
        let mut lost = Vec::new();
        for (name, rows) in of_items.chain(without_text.into_iter().map(|(name, rows)| (*name, rows.as_slice()))) {
            let person = rows.iter().find_map(|row| row.person);
            lost.extend(person.map(|text| LostText { name: name.clone(), text: Some(text) }));
            for suffix in Self::companion_suffixes() {
                let name = format!("{name}{suffix}");
                let mirror = rows.iter().find_map(|row| row.mirror).filter(|_| !self.has_text(&name) && !moves.is_item(&name));
                lost.extend(mirror.map(|text| LostText { name, text: Some(text) }));
            }
        }
        lost
    }

    /// The texts of people that lie here.
    pub fn of_people(&self, items: &[EditableItem]) -> Vec<LostText> {
        let moves = Moves::find(self, items);
        let own = items.iter().filter_map(|item| match self.judge_text(item, &moves) {
            (Provenance::Machine | Provenance::Orphan, _) => None,
            (_, Action::Keep(text)) => Some(LostText { name: item.name.clone(), text: Some(text.digest) }),
            (Provenance::Edited | Provenance::Stale, Action::Write { .. } | Action::Run | Action::Fail(_)) => {
                Some(LostText { name: item.name.clone(), text: None })
            }
        });
        let mirrors = self.found.texts.iter().filter(|(name, _)| companion_of(name, &moves).is_some());
        let mirrors = mirrors.map(|(name, found)| match found.contents {
            Contents::Text(digest, _) => LostText { name: name.clone(), text: Some(digest) },
            Contents::Unusable(_) => LostText { name: name.clone(), text: None },
        });
        own.chain(mirrors).collect()
    }

    /// Writes lost texts again. Under the lock of the pipeline, after `recover`. What became of each, in their order.
    pub fn write_again(&self, lost: &[LostText]) -> Result<Vec<(String, SettledText)>> {
        let mut outcomes = Vec::with_capacity(lost.len());
        let mut replacements = Vec::new();
        for LostText { name, text } in lost {
            let said = text.and_then(|text| self.cache.read(&text).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
            let Some(text) = said else {
                let why = "its text is no longer in the cache: put a copy of yours there, or the next run writes the machine's";
                outcomes.push((name.clone(), SettledText::Refused(why.to_string())));
                continue;
            };
            let target = self.path_for(name)?;
            outcomes.push((name.clone(), SettledText::Restored { file: target.clone() }));
            replacements.push(Replacement { target, text, expected: None });
        }
        let mut written = replace::replace_all(self.cache, &replacements)?.into_iter();
        for (_, outcome) in outcomes.iter_mut().filter(|(_, outcome)| matches!(outcome, SettledText::Restored { .. })) {
            if written.next() == Some(Outcome::Theirs) {
                *outcome = SettledText::Refused("another text lies there by now, and stays".to_string());
            }
        }
        Ok(outcomes)
    }

    /// Moves the texts of `former`, a stage that is no more, into this folder. Under the lock of the pipeline. What became of
    /// those of people, and of those that could not be moved; rows of the lock follow by the same names.
    pub fn take_over(&self, former: &Editing<'_>) -> Result<Vec<(String, SettledText)>> {
        let mut outcomes = Vec::new();
        let mut files = Vec::new();
        let mut left = BTreeSet::new();
        for (name, found) in &former.found.texts {
            let target = self.path_for(name)?;
            let is_machines = match found.contents {
                Contents::Text(digest, _) => {
                    former.rows.get(name).is_some_and(|rows| rows.iter().any(|row| row.text == Some(digest)))
                }
                Contents::Unusable(_) => false,
            };
            files.extend([found.path.clone(), target.clone()]);
            if !replace::move_text(&found.path, &target)? {
                let why = format!("`{}` is there already: see which of the two counts, and remove the other", target.display());
                outcomes.push((name.clone(), SettledText::Refused(why)));
                continue;
            }
            left.extend(found.path.ancestors().skip(1).take_while(|folder| folder.starts_with(&former.folder)));
            if !is_machines {
                outcomes.push((name.clone(), SettledText::Restored { file: target }));
            }
        }
        replace::sync_folders(files.iter().map(PathBuf::as_path))?;
        // The deeper one comes first.
        for folder in left.into_iter().rev() {
            // One that holds something else stays.
            let _ = fs::remove_dir(folder);
        }
        Ok(outcomes)
    }
}
