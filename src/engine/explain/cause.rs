//! A cause: who changed something that a stage is made of, in which file, and how `explain` says it. What differs is a `Reason`,
//! which words itself. Unaware of how causes are found.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cache::digest::Digest;
use crate::decide::reason::Reason;

/// Characters of a text that are quoted.
const QUOTED: usize = 100;

/// Whose doing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The user: the pipeline file, photos, texts, models.
    You,
    /// A stage before this one.
    Upstream { stage: String },
    /// This version of the program works in another way than the last.
    Program,
    /// The cache does not have it, or not any more.
    Cache,
}

/// One reason why a stage is stale, and what led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// `None` where nobody changed anything: it never ran.
    pub who: Option<Who>,
    pub reason: Reason,
    /// The file, and where one line is meant that line: `pipeline.yaml:14`.
    pub place: Option<String>,
    /// At most 20.
    pub changes: Vec<Change>,
    /// What made a stage before this one give something else.
    pub because: Vec<Cause>,
}

/// One thing that is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub item: String,
    pub field: String,
    /// Where the new contents lie, if somebody put them there.
    pub file: Option<PathBuf>,
    pub old: Option<Contents>,
    pub new: Option<Contents>,
}

/// What a field held before or holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    pub digest: Digest,
    /// Of a caption, if it is at hand.
    pub text: Option<String>,
}

impl Cause {
    /// Without a place, changes and earlier causes: the caller adds what it knows of these.
    pub(crate) fn of(who: Option<Who>, reason: Reason) -> Self {
        Self { who, reason, place: None, changes: Vec::new(), because: Vec::new() }
    }

    /// As `explain --json` prints it: the reason, and whose doing it is.
    pub fn to_json(&self) -> Value {
        let mut value = self.reason.to_json();
        value["who"] = match &self.who {
            Some(Who::You) => "you".into(),
            Some(Who::Upstream { .. }) => "upstream".into(),
            Some(Who::Program) => "program".into(),
            Some(Who::Cache) => "cache".into(),
            None => Value::Null,
        };
        if let Some(Who::Upstream { stage }) = &self.who {
            value["upstream"] = stage.as_str().into();
        }
        value["place"] = json!(self.place);
        let contents = |contents: &Option<Contents>| match contents {
            Some(contents) => json!({ "digest": contents.digest.to_hex(), "text": contents.text }),
            None => Value::Null,
        };
        let change = |change: &Change| {
            json!({
                "item": change.item, "field": change.field, "file": change.file,
                "old": contents(&change.old), "new": contents(&change.new),
            })
        };
        value["changes"] = self.changes.iter().map(change).collect();
        value["because"] = self.because.iter().map(Self::to_json).collect();
        value
    }

    /// What differs and whose doing it is, in one sentence.
    fn describe(&self) -> String {
        match (&self.who, &self.reason) {
            (Some(Who::Upstream { stage }), Reason::InputChanged { .. }) => format!("`{stage}` gives something else"),
            (Some(Who::Upstream { stage }), Reason::WaitsFor { .. }) => format!("`{stage}` has to run first"),
            (Some(Who::Upstream { stage }), reason) => format!("`{stage}`: {reason}"),
            (_, reason) => reason.to_string(),
        }
    }
}

impl Change {
    fn describe(&self) -> String {
        let name = match &self.file {
            Some(file) => format!("`{}`", shown(file)),
            None => format!("{} ({})", self.item, self.field),
        };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => format!("{name}: {} -> {}", old.describe(), new.describe()),
            (Some(old), None) => format!("{name}: was {}", old.describe()),
            (None, Some(new)) => format!("{name}: {}", new.describe()),
            (None, None) => name,
        }
    }
}

impl Contents {
    /// A text in quotation marks, anything else by its digest.
    fn describe(&self) -> String {
        let Some(text) = &self.text else { return self.digest.short() };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(QUOTED) {
            Some((end, _)) => format!("\"{}\u{2026}\"", &line[..end]),
            None => format!("\"{line}\""),
        }
    }
}

/// Causes as lines for a person, indented by so many spaces: who changed what in which file, and below it what made an upstream
/// stage give something else.
pub fn describe(causes: &[Cause], indent: usize) -> String {
    let mut text = String::new();
    let margin = " ".repeat(indent);
    for cause in causes {
        let who = match &cause.who {
            Some(Who::You) => "you: ",
            Some(Who::Upstream { .. }) => "upstream: ",
            Some(Who::Program) => "the program: ",
            Some(Who::Cache) => "the cache: ",
            None => "",
        };
        let place = cause.place.as_ref().map(|place| format!(" (`{place}`)")).unwrap_or_default();
        if let (Some(Who::You), Reason::InputChanged { .. } | Reason::ItemsAdded { .. }, [change]) =
            (&cause.who, &cause.reason, cause.changes.as_slice())
        {
            // One line says it all.
            let new = if matches!(cause.reason, Reason::ItemsAdded { .. }) { "new, " } else { "" };
            let _ = writeln!(text, "{margin}{who}{new}{}{place}", change.describe());
            continue;
        }
        let _ = writeln!(text, "{margin}{who}{}{place}", cause.describe());
        // What an upstream stage gives is described by what stands behind it.
        let is_told_below = !cause.because.is_empty() && matches!(cause.who, Some(Who::Upstream { .. }));
        if !is_told_below {
            for change in &cause.changes {
                let _ = writeln!(text, "{margin}  {}", change.describe());
            }
        }
        text.push_str(&describe(&cause.because, indent + 2));
    }
    text
}

/// A path as the user calls it.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}
