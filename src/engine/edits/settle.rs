//! Carries out what a person decides about texts: to keep their own, to take the machine's, to bring both together, to put one
//! away that has no photo any more. Unaware of how the person says so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cache::digest::Digest;
use crate::edits::folder::read_text;
use crate::edits::judge::Provenance;
use crate::edits::merge::{self, Form};
use crate::edits::replace::{self, Outcome, Replacement, TakenAway, identity};
use crate::edits::survey::SurveyedText;
use crate::edits::text;
use crate::edits::{EditableItem, Editing};
use crate::lock_file::{EditRow, EditRows};

/// What a person decides about a text of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// My text stays, and is up to date with what the machine says now.
    Accept,
    /// The machine's text takes the place of mine.
    Drop,
    /// What the machine says now that it did not say before goes into my text.
    Merge(Form),
    /// A text without a photo goes.
    Prune,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// By the name of the text, in the order that was asked for.
    pub texts: Vec<(String, SettledText)>,
    /// For the lock, all of this stage.
    pub rows: EditRows,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// What became of one text. "Mine" is the text of the person who decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettledText {
    /// It is no longer stale.
    Accepted,
    /// The machine's text is in the file; mine is kept where it says, unless somebody had just removed it.
    Replaced { kept: Option<PathBuf> },
    /// There is no file any more; it is kept where it says.
    TakenAway { kept: PathBuf },
    /// The file holds `text`; mine is kept where it says, unless somebody had just removed it.
    Merged { text: String, kept: Option<PathBuf> },
    /// It was so already: says how.
    Nothing(&'static str),
    /// It lies again where it says.
    Restored { file: PathBuf },
    /// Nothing was done: says why, and what to do.
    Refused(String),
}

/// A text that is about to be written, and what becomes of its row.
struct Change {
    name: String,
    replacement: Replacement,
    row: EditRow,
    merged: Option<String>,
}

impl Editing<'_> {
    /// Decides about the texts that are named. Under the lock of the pipeline, after `recover`; the lock file is written after
    /// it. Texts of renamed photos move to them first, as in a run.
    pub fn settle(mut self, items: &[EditableItem], names: &[String], decision: Decision) -> Result<Settled> {
        let (moves, notes) = self.move_texts(items)?;
        let survey: BTreeMap<String, SurveyedText> =
            self.survey_after(&moves, items).into_iter().map(|text| (text.name.clone(), text)).collect();
        let by_name: BTreeMap<&str, &EditableItem> = items.iter().map(|item| (item.name.as_str(), item)).collect();
        let mut rows = self.rows.clone().into_owned();
        let mut told: Vec<(String, Option<SettledText>)> = Vec::with_capacity(names.len());
        let mut changes = Vec::new();
        for name in names {
            let Some(surveyed) = survey.get(name) else {
                told.push((name.clone(), Some(SettledText::Refused("there is no such text".to_string()))));
                continue;
            };
            let item = by_name.get(name.as_str()).copied();
            let outcome = match self.settle_text(surveyed, item, decision, &mut rows)? {
                Step::Done(outcome) => Some(outcome),
                Step::Write(change) => {
                    changes.push(*change);
                    None
                }
            };
            told.push((name.clone(), outcome));
        }

        let taken_away = told.iter().filter(|(_, outcome)| matches!(outcome, Some(SettledText::TakenAway { .. })));
        replace::sync_folders(taken_away.filter_map(|(name, _)| survey[name].file.as_deref()))?;
        let mut written = self.write_changes(changes, &mut rows)?.into_iter();
        let texts = told
            .into_iter()
            .map(|(name, outcome)| {
                let outcome = outcome.or_else(|| written.next()).expect("each text is either done or among the changes");
                (name, outcome)
            })
            .collect();
        Ok(Settled { texts, rows, notes })
    }

    fn settle_text(
        &self,
        text: &SurveyedText,
        item: Option<&EditableItem>,
        decision: Decision,
        rows: &mut EditRows,
    ) -> Result<Step> {
        let refused = |why: String| Ok(Step::Done(SettledText::Refused(why)));
        let nothing = |how| Ok(Step::Done(SettledText::Nothing(how)));
        if let Some(item) = &text.mirror_of {
            return self.settle_mirror(text, item, decision, rows);
        }
        let Some(item) = item else {
            return match decision {
                Decision::Prune => {
                    let step = self.take_away(text)?;
                    if step.is_away() {
                        rows.remove(&text.name);
                    }
                    Ok(step)
                }
                Decision::Accept | Decision::Drop | Decision::Merge(_) => {
                    refused("its photo is gone: `prune` puts it away".to_string())
                }
            };
        };
        match (decision, text.provenance) {
            (Decision::Prune, _) => refused("its photo is there: `drop` takes the machine's text".to_string()),
            (_, Provenance::Machine) => nothing("is the machine's text"),
            (Decision::Accept | Decision::Merge(_), _) if text.unusable.is_some() => {
                refused(text.unusable.clone().unwrap_or_default())
            }
            (Decision::Accept | Decision::Merge(_), _) if item.key.is_none() => {
                refused("what the machine would look at is not made yet: run the stages before it".to_string())
            }
            (Decision::Accept | Decision::Merge(_), Provenance::Edited) => nothing("is not stale"),
            (Decision::Accept, _) => {
                rows.insert(item.name.clone(), vec![self.accepted_row(text, item)?]);
                Ok(Step::Done(SettledText::Accepted))
            }
            (Decision::Drop, _) => {
                let step = self.drop_text(text, item)?;
                if step.is_away() {
                    rows.get_mut(&item.name).into_iter().flatten().for_each(|row| row.person = None);
                }
                Ok(step)
            }
            (Decision::Merge(form), _) => self.merge_text(text, item, form, rows),
        }
    }

    /// A text for the mirror of `item`.
    fn settle_mirror(&self, text: &SurveyedText, item: &str, decision: Decision, rows: &mut EditRows) -> Result<Step> {
        match decision {
            Decision::Drop => {
                let step = self.take_away(text)?;
                if step.is_away() {
                    rows.get_mut(item).into_iter().flatten().for_each(|row| row.mirror = None);
                }
                Ok(step)
            }
            Decision::Accept | Decision::Merge(_) | Decision::Prune => Ok(Step::Done(SettledText::Refused(format!(
                "it is for the mirror of `{item}`, where the machine writes nothing: `drop` puts it away"
            )))),
        }
    }

    fn accepted_row(&self, text: &SurveyedText, item: &EditableItem) -> Result<EditRow> {
        let key = item.key.context("a stale text has a key to be stale against")?;
        // Where the machine was not asked, what it said last is the best that is known.
        let said = text.now.as_ref().map(|now| now.digest).or(text.before);
        let (person, mirror) = self.used(&item.name);
        Ok(EditRow { photo: item.photo, key, text: said, person, mirror })
    }

    /// The texts of people that the last run used for an item: its own, and that for its mirror.
    fn used(&self, name: &str) -> (Option<Digest>, Option<Digest>) {
        let rows = self.rows.get(name).map_or(&[][..], Vec::as_slice);
        (rows.iter().find_map(|row| row.person), rows.iter().find_map(|row| row.mirror))
    }

    fn drop_text(&self, text: &SurveyedText, item: &EditableItem) -> Result<Step> {
        let (Some(machine), Some(key)) = (&text.now, item.key) else {
            // Deleting a text means to write it again: the next run does.
            return self.take_away(text);
        };
        let target = text.file.clone().context("a person's text has a file")?;
        let replacement = Replacement { expected: identity(&target)?, target, text: self.machine_text(machine)? };
        let (_, mirror) = self.used(&item.name);
        let row = EditRow { photo: item.photo, key, text: Some(machine.digest), person: None, mirror };
        Ok(Step::Write(Box::new(Change { name: item.name.clone(), replacement, row, merged: None })))
    }

    fn merge_text(&self, text: &SurveyedText, item: &EditableItem, form: Form, rows: &mut EditRows) -> Result<Step> {
        let refused = |why: String| Ok(Step::Done(SettledText::Refused(why)));
        let Some(machine) = &text.now else {
            return refused("what the machine says now is not known: `show --new` asks it".to_string());
        };
        let before = match text.before {
            None => String::new(),
            Some(digest) => match self.cache.read(&digest) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(_) => {
                    return refused("what the machine said before is no longer in the cache: `accept` or `drop`".to_string());
                }
            },
        };
        let target = text.file.clone().context("a person's text has a file")?;
        let mine = match read_text(&target)? {
            Some(Ok(mine)) => mine,
            _ => return refused(CHANGED.to_string()),
        };
        let merged = match merge::merge(&before, &mine, &self.machine_text(machine)?, form) {
            // Parts of two texts that were normalised may meet in one that is not.
            Ok(merged) => text::normalise(merged.as_bytes()).map_err(|unusable| anyhow::anyhow!("the merged text {unusable}"))?,
            Err(conflict) => return refused(format!("{conflict}: edit the file, then `accept`")),
        };
        let row = self.accepted_row(text, item)?;
        if merged == mine {
            rows.insert(item.name.clone(), vec![row]);
            return Ok(Step::Done(SettledText::Accepted));
        }
        let expected = Some(Digest::of(mine.as_bytes()));
        let replacement = Replacement { target, text: merged.clone(), expected };
        Ok(Step::Write(Box::new(Change { name: item.name.clone(), replacement, row, merged: Some(merged) })))
    }

    fn take_away(&self, text: &SurveyedText) -> Result<Step> {
        let path = text.file.as_ref().context("a text that is taken away has a file")?;
        let Some(expected) = identity(path)? else { return Ok(Step::Done(SettledText::Nothing("is gone already"))) };
        Ok(Step::Done(match replace::take_away(self.cache, path, &expected)? {
            TakenAway::Kept(kept) => SettledText::TakenAway { kept },
            TakenAway::Gone => SettledText::Nothing("is gone already"),
            TakenAway::Theirs => SettledText::Refused(CHANGED.to_string()),
        }))
    }

    /// Writes all texts at once; what became of each, in their order.
    fn write_changes(&self, changes: Vec<Change>, rows: &mut EditRows) -> Result<Vec<SettledText>> {
        let mut about = Vec::with_capacity(changes.len());
        let mut replacements = Vec::with_capacity(changes.len());
        for change in changes {
            about.push((change.name, change.row, change.merged));
            replacements.push(change.replacement);
        }
        let outcomes = replace::replace_all(self.cache, &replacements)?;
        let mut texts = Vec::with_capacity(about.len());
        for ((name, row, merged), outcome) in about.into_iter().zip(outcomes) {
            let Outcome::Written(kept) = outcome else {
                texts.push(SettledText::Refused(CHANGED.to_string()));
                continue;
            };
            rows.insert(name, vec![row]);
            texts.push(match merged {
                Some(text) => SettledText::Merged { text, kept },
                None => SettledText::Replaced { kept },
            });
        }
        Ok(texts)
    }
}

const CHANGED: &str = "it was saved at this very moment and stays as it is: decide again";

enum Step {
    Done(SettledText),
    Write(Box<Change>),
}

impl Step {
    /// Whether there is no file any more.
    const fn is_away(&self) -> bool {
        matches!(self, Self::Done(SettledText::TakenAway { .. } | SettledText::Nothing(_)))
    }
}
