//! Brings the folder and the items together: writes the machine's texts, and tells each item's text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cache::Cache;
use crate::cache::artifact::{Artifact, Fields};
use crate::cache::batch::Batch;
use crate::cache::digest::Digest;
use crate::edits::folder::{self, Contents, Found, read_text};
use crate::edits::judge::{Action, Judgement, Provenance};
use crate::edits::moves::Moves;
use crate::edits::replace::{self, Outcome, Replacement};
use crate::edits::{EditableItem, Editing, text};
use crate::lock_file::{EditRow, EditRows};

/// A person who saves the same file at the same moment this often has to stop first.
const ROUNDS: usize = 8;

/// In bytes, of a name in most file systems.
const LONGEST_NAME: usize = 255;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// In the order of the items.
    pub items: Vec<AppliedItem>,
    /// For the lock, all of this stage.
    pub rows: EditRows,
    /// The texts without an item.
    pub orphans: Vec<String>,
    /// Sentences for the user.
    pub notes: Vec<String>,
    /// Stands for all texts in the folder and their names, as they were when the items got theirs.
    pub contents: Digest,
}

/// Which text of one item counts in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedItem {
    pub provenance: Provenance,
    /// The effective texts: that of the stage's field, and those of people for further fields. Empty if there is no text.
    pub fields: Fields,
    /// Why the file cannot be used.
    pub failure: Option<String>,
}

impl Editing<'_> {
    /// Puts right what a killed run left in the folder, and returns what the user should know. For runs only, under the lock of
    /// the pipeline, before `read`.
    pub fn recover(cache: &Cache, folder: &Path, extension: &str, rows: &EditRows) -> Result<Vec<String>> {
        let left_behind = folder::left_behind(folder, extension)?;
        if left_behind.is_empty() {
            return Ok(Vec::new());
        }
        let machines: BTreeSet<Digest> = rows.values().flatten().filter_map(|row| row.text).collect();
        replace::recover(cache, &left_behind, |digest| machines.contains(digest))
    }

    /// Moves texts, writes those of the machine and puts those of people into `batch`. For runs only, under the lock of the
    /// pipeline, after the records of the items are durable. Items whose machine text is missing keep what they have.
    pub fn apply(mut self, items: &[EditableItem], batch: &Batch<'_>) -> Result<Applied> {
        let (moves, mut notes) = self.move_texts(items)?;
        for _ in 0..ROUNDS {
            let judgements = self.judge_after(&moves, items);
            if self.write_texts(items, &judgements)? || self.store_texts(items, &judgements, batch)? {
                continue;
            }
            let orphans = self.orphans(&moves);
            let rows = self.next_rows(items, &judgements, &moves);
            notes.extend(self.blocked_moves(items, &moves));
            let items = judgements.into_iter().map(|judgement| self.applied(judgement)).collect();
            return Ok(Applied { items, rows, orphans, notes, contents: self.contents_digest() });
        }
        anyhow::bail!("the files in `{}` change all the time: run again when they are quiet", self.folder.display())
    }

    /// Puts texts of people into `batch` and leaves their files alone: for a run that does not own the folder and reads them all
    /// the same.
    ///
    /// # Errors
    /// If one of them has changed since it was read.
    pub fn keep(&self, texts: &BTreeSet<Digest>, batch: &Batch<'_>) -> Result<()> {
        for (digest, path) in self.files_by_text().into_iter().filter(|(digest, _)| texts.contains(digest)) {
            match read_text(path)? {
                Some(Ok(text)) if Digest::of(text.as_bytes()) == digest => drop(batch.put_bytes(text.as_bytes())?),
                _ => anyhow::bail!("`{}` changed while it was read: run again", path.display()),
            }
        }
        Ok(())
    }

    fn applied(&self, judgement: Judgement) -> AppliedItem {
        let text = judgement.text().cloned();
        let failure = match judgement.action {
            Action::Fail(message) => Some(message),
            Action::Keep(_) | Action::Write { .. } | Action::Run => None,
        };
        let mut fields = Fields::new();
        if let Some(text) = text {
            fields = judgement.companions;
            fields.insert(self.field.as_str().into(), text);
        }
        AppliedItem { provenance: judgement.provenance, fields, failure }
    }

    /// Writes what the machine says where it is to be written; true if there was something.
    fn write_texts(&mut self, items: &[EditableItem], judgements: &[Judgement]) -> Result<bool> {
        let mut names = Vec::new();
        let mut replacements = Vec::new();
        for (item, judgement) in items.iter().zip(judgements) {
            let Action::Write { text: artifact, replaces } = &judgement.action else { continue };
            let text = self.machine_text(artifact)?;
            let target = match self.found.texts.get(&item.name) {
                Some(found) => found.path.clone(),
                None => self.path_for(&item.name)?,
            };
            names.push(&item.name);
            replacements.push(Replacement { target, text, expected: *replaces });
        }
        if replacements.is_empty() {
            return Ok(false);
        }
        let outcomes = replace::replace_all(self.cache, &replacements)?;
        for ((name, replacement), outcome) in names.into_iter().zip(replacements).zip(outcomes) {
            let Replacement { target, text, .. } = replacement;
            match outcome {
                Outcome::Written(_) => {
                    let contents = Contents::Text(Digest::of(text.as_bytes()), text.len() as u64);
                    self.found.texts.insert(name.clone(), Found { path: target, contents });
                }
                Outcome::Theirs => self.look_again(name, target)?,
            }
        }
        Ok(true)
    }

    /// The text that a stage recorded. An error if the cache does not have it, or if the stage did not normalise it.
    pub(crate) fn machine_text(&self, artifact: &Artifact) -> Result<String> {
        let bytes = self.cache.read(&artifact.digest)?;
        let text = text::normalise(&bytes).map_err(|unusable| anyhow::anyhow!("a text of the machine {unusable}"))?;
        ensure!(text.as_bytes() == bytes, "a text of the machine was recorded with a byte order mark or space at an end");
        Ok(text)
    }

    /// Puts the texts of people into the store; true if one of them has changed since it was read.
    fn store_texts(&mut self, items: &[EditableItem], judgements: &[Judgement], batch: &Batch<'_>) -> Result<bool> {
        let mut changed = Vec::new();
        for (item, judgement) in items.iter().zip(judgements) {
            let own = match (&judgement.action, judgement.provenance) {
                (Action::Keep(text), Provenance::Edited | Provenance::Stale) => Some((item.name.clone(), text)),
                (Action::Keep(_), Provenance::Machine | Provenance::Orphan)
                | (Action::Write { .. } | Action::Run | Action::Fail(_), _) => None,
            };
            let companions = judgement.companions.iter().map(|(field, text)| {
                let suffix = field.strip_prefix(&self.field).expect("it was put together from both");
                (format!("{}{suffix}", item.name), text)
            });
            for (name, artifact) in own.into_iter().chain(companions) {
                if self.cache.holds(&artifact.digest, artifact.size)? {
                    continue;
                }
                let path = &self.found.texts.get(&name).context("a text that was judged has a file")?.path;
                match read_text(path)? {
                    Some(Ok(text)) if Digest::of(text.as_bytes()) == artifact.digest => {
                        batch.put_bytes(text.as_bytes())?;
                    }
                    _ => changed.push((name, path.clone())),
                }
            }
        }
        let any = !changed.is_empty();
        for (name, path) in changed {
            self.look_again(&name, path)?;
        }
        Ok(any)
    }

    fn look_again(&mut self, name: &str, path: PathBuf) -> Result<()> {
        let contents = match read_text(&path)? {
            None => {
                self.found.texts.remove(name);
                return Ok(());
            }
            Some(Ok(text)) => Contents::Text(Digest::of(text.as_bytes()), text.len() as u64),
            Some(Err(message)) => Contents::Unusable(message),
        };
        self.found.texts.insert(name.to_string(), Found { path, contents });
        Ok(())
    }

    fn next_rows(&self, items: &[EditableItem], judgements: &[Judgement], moves: &Moves<'_>) -> EditRows {
        // Texts without an item keep their rows: their photo may come back.
        let orphaned = self.rows.iter().filter(|(name, _)| !moves.is_item(name));
        let mut rows: EditRows = orphaned
            .filter(|(name, _)| self.found.texts.contains_key(*name))
            .map(|(name, rows)| (name.clone(), rows.clone()))
            .collect();
        for (item, judgement) in items.iter().zip(judgements) {
            let known = self.rows_of(item, moves);
            let mirror = judgement.companions.values().next().map(|text| text.digest);
            let next = match (&judgement.action, judgement.provenance, item.key) {
                (Action::Keep(text), Provenance::Machine, Some(key)) => {
                    vec![EditRow { photo: item.photo, key, text: Some(text.digest), person: None, mirror }]
                }
                (Action::Keep(text), Provenance::Edited | Provenance::Stale, _) => {
                    let person = Some(text.digest);
                    let row = known_row(known, item.key).map(|row| EditRow { photo: item.photo, person, mirror, ..*row });
                    // A text that was there before the machine was asked.
                    let first = || item.key.map(|key| EditRow { photo: item.photo, key, text: None, person, mirror });
                    row.or_else(first).into_iter().collect()
                }
                (Action::Keep(_), Provenance::Machine, None)
                | (Action::Keep(_), Provenance::Orphan, _)
                | (Action::Write { .. } | Action::Run | Action::Fail(_), ..) => known.to_vec(),
            };
            if !next.is_empty() {
                rows.insert(item.name.clone(), next);
            }
        }
        rows
    }

    /// Where a text that has no file yet will lie. An error if the name of the item cannot be that of a file.
    pub(crate) fn path_for(&self, name: &str) -> Result<PathBuf> {
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        ensure!(
            name.split('/').all(is_plain),
            "`{name}` cannot be the name of a file: a part of it is empty or starts with a dot"
        );
        let file = format!("{name}.{}", self.extension);
        let is_too_long = file.rsplit('/').next().is_some_and(|last| last.len() > LONGEST_NAME);
        ensure!(!is_too_long, "`{name}` is too long for the name of a file of its text: rename the photo");
        Ok(self.folder.join(file))
    }
}

/// Of the rows of a text, several after a merge, the one that says what the machine knew when the person wrote.
pub(crate) fn known_row(rows: &[EditRow], key: Option<Digest>) -> Option<&EditRow> {
    rows.iter().find(|row| Some(row.key) == key).or(rows.first())
}
