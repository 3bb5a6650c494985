//! What stages remark on their inputs: nothing that stops a run. Unaware of who reads it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cache::digest::Digest;
use crate::cache::regular_file::{self, Links};
use crate::decide::taken::resolve;
use crate::decide::texts;
use crate::decide::verdict::{Decision, Verdict};
use crate::decide::view::View;
use crate::edits::text;
use crate::graph::pipeline::LoadedStage;
use crate::kind::item::Artifact;
use crate::kind::stage::Files;

/// Further remarks of a stage are only counted.
const TOLD: usize = 20;

/// The remarks of one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lints {
    pub lines: Vec<String>,
    /// How many there are beyond these.
    pub more: usize,
}

impl Lints {
    fn of(mut lines: Vec<String>) -> Self {
        let more = lines.len().saturating_sub(TOLD);
        lines.truncate(TOLD);
        Self { lines, more }
    }

    /// Whether the stage remarks on nothing.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// As the JSON of a plan and of a run writes them.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "lines": self.lines, "more": self.more })
    }

    /// The lines for a person, the count last.
    pub fn messages(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more remarks like these", self.more));
        self.lines.iter().cloned().chain(more)
    }
}

/// What a stage remarks on its inputs, as far as they are there. A stage that is fresh as a whole said it when it ran.
pub fn of_stage(view: &View<'_>, stage: &LoadedStage, decision: &Decision<'_>, unstored: &UnstoredTexts) -> Result<Lints> {
    let complete = match &decision.verdict {
        Verdict::Fresh { .. } | Verdict::Kept { .. } | Verdict::Waits(_) => return Ok(Lints::default()),
        Verdict::Items(works) => works.key.is_some(),
        Verdict::Whole(whole) => whole.key.is_some(),
    };
    let files = WithTexts { files: view.files, unstored, skipped: view.pipeline.skipped_photos() };
    Ok(Lints::of(stage.stage.lint(&resolve(view, &decision.basis.taken, complete)?, &files)))
}

/// Where texts of people lie, by content. A run puts them into the cache; a plan stores nothing and has to know.
#[derive(Debug, Default)]
pub struct UnstoredTexts(HashMap<Digest, PathBuf>);

impl UnstoredTexts {
    /// All that lie in folders of texts.
    pub fn find(view: &View<'_>) -> Result<Self> {
        let mut found = HashMap::new();
        for stage in view.pipeline.stages.values() {
            let Some(editable) = stage.stage.editable() else { continue };
            let editing = texts::read(view.pipeline, view.cache, view.lock, stage, &editable)?;
            found.extend(editing.files_by_text().into_iter().map(|(digest, path)| (digest, path.to_path_buf())));
        }
        Ok(Self(found))
    }
}

/// Artifacts, and texts that are none yet.
struct WithTexts<'a> {
    files: &'a dyn Files,
    unstored: &'a UnstoredTexts,
    skipped: BTreeSet<&'a str>,
}

impl Files for WithTexts<'_> {
    fn path(&self, artifact: &Artifact) -> Result<PathBuf> {
        self.files.path(artifact)
    }

    fn is_left_out(&self, photo: &str) -> bool {
        self.skipped.contains(photo)
    }

    fn read(&self, artifact: &Artifact) -> Result<Vec<u8>> {
        let missing = match self.files.read(artifact) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        let Some(path) = self.unstored.0.get(&artifact.digest) else { return Err(missing) };
        match text::normalise(
            &regular_file::read(path, Links::Followed, text::LARGEST).with_context(|| format!("reading `{}`", path.display()))?,
        ) {
            Ok(text) if Digest::of(text.as_bytes()) == artifact.digest => Ok(text.into_bytes()),
            _ => Err(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_twenty_remarks_are_counted() {
        let lints = Lints::of((0..34).map(|number| number.to_string()).collect());
        assert_eq!((lints.lines.len(), lints.more), (20, 14));
        assert_eq!(lints.messages().last().unwrap(), "and 14 more remarks like these");
        assert_eq!(Lints::of(vec!["one".into()]).messages().collect::<Vec<_>>(), ["one"]);
        assert!(Lints::of(Vec::new()).is_empty());
    }
}
