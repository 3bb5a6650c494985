//! The human layer over machine output: texts beside the pipeline that anyone may edit. No human byte is ever lost.
//!
//! A stage with an editable field writes `captions/<item>.txt`. A file there is the machine's if its normalised text is the one
//! that the lock row names, or the output of the item's present key; anything else is a person's and wins. The engine calls, in
//! this order:
//!
//! ```text
//! Editing::read(..)        looks at the folder; writes nothing. For plan and status, and first thing in a run
//!   .judge(items)          per item: what the text is, and whether the machine has to be asked at all
//!   .survey(items)         per text: whose it is, and what the machine said and says
//! Editing::recover(..)     under the pipeline's lock: puts right what a killed run left in the folder; then `read` again
//!   ... runs the items that `judge` says need it; their records are durable before the next call ...
//!   .apply(items, batch)   in a run: moves the texts of renamed photos, writes the machine's texts, and says the effective text of each item
//!                          and the rows for the lock. The lock is written after that
//!   .settle(items, ..)     what a person decides about texts of theirs: keep, give up, merge, put away; then the lock as after `apply`
//! ```
//!
//! `EditableItem::machine` is the output of the item's present key, from its record, already in the form of `text::normalise`:
//! what a stage gives must be brought into that form before it is recorded.
//!
//! A file of the user's is only ever replaced by atomic exchange; what came out is read, and goes back if it is not what was
//! expected. What made room is kept in the cache under `displaced/`.

pub mod lost;
pub mod merge;
pub mod text;

mod beside;
mod circles;
mod folder;
mod follow;
mod judge;
mod moves;
mod replace;

mod survey;

mod apply;
mod settle;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::edits::folder::{Contents, Folder, Found};
use crate::lock_file::EditRows;

pub use crate::edits::apply::{Applied, AppliedItem};
pub use crate::edits::judge::{Action, Judgement, Provenance};
pub use crate::edits::settle::{Decision, Settled, SettledText};
pub use crate::edits::survey::SurveyedText;

/// An item of an editable stage.
#[derive(Clone, Debug)]
pub struct EditableItem {
    pub name: String,
    /// The key under which the machine makes its text now; `None` while that depends on what another stage has yet to make.
    pub key: Option<Digest>,
    /// The photo it descends from: it tells a renamed item from a new one.
    pub photo: Digest,
    /// The machine's text under `key`, if that has been made.
    pub machine: Option<Artifact>,
}

/// The texts of one editable stage, as they lay in their folder when it was read.
#[derive(Debug)]
pub struct Editing<'a> {
    cache: &'a Cache,
    folder: PathBuf,
    /// The name of the field: `caption`.
    field: String,
    extension: String,
    rows: Cow<'a, EditRows>,
    found: Folder,
    /// Names of photos that are here and not worked on now: their texts and rows stay as they are.
    set_aside: BTreeSet<String>,
}

impl<'a> Editing<'a> {
    /// Looks at the folder; writes nothing. `rows`: those of the lock for this stage.
    pub fn read(cache: &'a Cache, folder: &Path, field: &str, extension: &str, rows: &'a EditRows) -> Result<Self> {
        let found = Folder::scan(cache, folder, extension)?;
        Ok(Self {
            cache,
            folder: folder.to_path_buf(),
            field: field.to_string(),
            extension: extension.to_string(),
            rows: Cow::Borrowed(rows),
            found,
            set_aside: BTreeSet::new(),
        })
    }

    /// Tells of photos that are here and of which no item is made now.
    pub fn setting_aside<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.set_aside.extend(names.into_iter().map(str::to_string));
        self
    }

    /// Stands for all texts in the folder and their names.
    pub fn contents_digest(&self) -> Digest {
        self.found.digest()
    }

    /// What a file says, by the digest of its text: for those who know texts only by their digests.
    pub fn files_by_text(&self) -> HashMap<Digest, &Path> {
        let text = |found: &'_ Found| match &found.contents {
            Contents::Text(digest, _) => Some(*digest),
            Contents::Unusable(_) => None,
        };
        self.found.texts.values().filter_map(|found| Some((text(found)?, found.path.as_path()))).collect()
    }
}
