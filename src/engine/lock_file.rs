//! `pipeline.lock`: what the last run read and produced, as text that people commit and git merges. Unaware of how a stage runs.
//!
//! ```text
//! edit caption/IMG_0012 photo=<digest> key=<digest> text=<digest> person=<digest>
//! input base blake3=<digest> size=1234
//! stage train key=<digest> out=<digest> n=10
//! ```
//!
//! Rows are sorted, and a union merge of two versions is a legal file: a name may then have several rows. Conflict markers are
//! stepped over, and rows of a kind that is not known are kept as they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cache::atomic;
use crate::cache::digest::Digest;
use crate::cache::regular_file::{self, Links};
use crate::kind::names::is_plain_path;

/// A lock of a million texts; a larger file is none.
const LARGEST: u64 = 256 << 20;

/// An input as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputRow {
    /// Of the file; of a folder the digest of its items.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// A stage as it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StageRow {
    pub key: Digest,
    /// The tree of its outputs.
    pub out: Digest,
    /// The number of its items.
    pub items: u64,
}

/// What the machine knew of an editable text when it last wrote or met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EditRow {
    /// The photo it belongs to, whatever that is called.
    pub photo: Digest,
    /// The key of the item.
    pub key: Digest,
    /// The text that the machine wrote, normalised; `None` where a person's text was there first.
    pub text: Option<Digest>,
    /// The text of a person that the last run used instead, normalised.
    pub person: Option<Digest>,
    /// The text of a person for the mirror of the picture that the last run used.
    pub mirror: Option<Digest>,
}

/// The rows of an editable stage by item.
pub type EditRows = BTreeMap<String, Vec<EditRow>>;

/// The rows, by name. Each name has one, or several after a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFile {
    pub inputs: BTreeMap<String, Vec<InputRow>>,
    pub stages: BTreeMap<String, Vec<StageRow>>,
    /// By stage, then by item.
    pub edits: BTreeMap<String, EditRows>,
    /// Rows of kinds that only a later version knows.
    unknown: Vec<String>,
}

impl LockFile {
    /// The rows of the texts of the stage called so; none if there are none.
    pub fn edit_rows(&self, stage: &str) -> &EditRows {
        static NONE: EditRows = EditRows::new();
        self.edits.get(stage).unwrap_or(&NONE)
    }

    /// Reads the lock beside a pipeline; a missing one is empty.
    pub fn read(path: &Path) -> Result<Self> {
        match regular_file::read(path, Links::Refused, LARGEST) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    /// Takes every row that is whole. A row that is not is left out: what it said is found out again by the next run.
    pub fn parse(text: &str) -> Self {
        let mut lock = Self::default();
        // A last line without its end may have lost digits of a number.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for line in whole.lines() {
            // Of a file with the line ends of Windows, and then some.
            lock.take_row(line.trim_end_matches('\r'));
        }
        for rows in lock.inputs.values_mut() {
            heal(rows);
        }
        for rows in lock.stages.values_mut() {
            heal(rows);
        }
        for rows in lock.edits.values_mut().flat_map(|rows| rows.values_mut()) {
            heal(rows);
        }
        heal(&mut lock.unknown);
        lock
    }

    fn take_row(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        if !matches!(kind, "input" | "stage" | "edit") {
            // Conflict markers and torn lines do not start like a row.
            let is_row = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase()) && line.contains('=');
            if is_row {
                self.unknown.push(line.to_string());
            }
            return None;
        }
        let name = unescape(words.next()?)?;
        if !words.clone().all(|word| word.contains('=')) {
            return None;
        }
        let value = |name: &str| words.clone().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let digest = |name: &str| value(name)?.parse::<Digest>().ok();
        let number = |name: &str| value(name)?.parse::<u64>().ok();
        match kind {
            "input" => {
                let row = InputRow { digest: digest("blake3")?, size: number("size")? };
                self.inputs.entry(name).or_default().push(row);
            }
            "stage" => {
                let row = StageRow { key: digest("key")?, out: digest("out")?, items: number("n")? };
                self.stages.entry(name).or_default().push(row);
            }
            _ => {
                let (stage, item) = name.split_once('/').filter(|(_, item)| is_plain_path(item))?;
                let optional = |name: &str| match value(name) {
                    Some(text) => text.parse::<Digest>().ok().map(Some),
                    None => Some(None),
                };
                let row = EditRow {
                    photo: digest("photo")?,
                    key: digest("key")?,
                    text: optional("text")?,
                    person: optional("person")?,
                    mirror: optional("mirror")?,
                };
                self.edits.entry(stage.to_string()).or_default().entry(item.to_string()).or_default().push(row);
            }
        }
        Some(())
    }

    /// Every digest that a row names, also in rows that only a later version understands.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<Digest> = self.inputs.values().flatten().map(|row| row.digest).collect();
        digests.extend(self.stages.values().flatten().flat_map(|row| [row.key, row.out]));
        let edits = self.edits.values().flat_map(|rows| rows.values()).flatten();
        digests.extend(edits.flat_map(|row| [Some(row.photo), Some(row.key), row.text, row.person, row.mirror]).flatten());
        let words = self.unknown.iter().flat_map(|row| row.split(' '));
        digests.extend(words.filter_map(|word| word.split_once('=')?.1.parse::<Digest>().ok()));
        digests
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut lines: Vec<String> = self.unknown.clone();
        for (name, rows) in &self.inputs {
            let name = escape(name);
            lines.extend(rows.iter().map(|row| format!("input {name} blake3={} size={}", row.digest, row.size)));
        }
        for (name, rows) in &self.stages {
            let name = escape(name);
            lines.extend(rows.iter().map(|row| format!("stage {name} key={} out={} n={}", row.key, row.out, row.items)));
        }
        for (stage, items) in &self.edits {
            for (item, rows) in items {
                let name = escape(&format!("{stage}/{item}"));
                lines.extend(rows.iter().map(|row| {
                    let word = |word: &str, text: Option<Digest>| text.map(|text| format!(" {word}={text}")).unwrap_or_default();
                    let (text, person, mirror) = (word("text", row.text), word("person", row.person), word("mirror", row.mirror));
                    format!("edit {name} photo={} key={}{text}{person}{mirror}", row.photo, row.key)
                }));
            }
        }
        lines.sort_unstable();
        lines.dedup();
        let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Replaces the file if it says anything else; true if it did.
    pub fn write(&self, path: &Path) -> Result<bool> {
        let text = self.to_text();
        let present = regular_file::read(path, Links::Refused, LARGEST).ok();
        if present.as_deref().unwrap_or_default() == text.as_bytes() {
            return Ok(false);
        }
        atomic::replace_users(path, text.as_bytes())?;
        Ok(true)
    }
}

fn heal<T: Ord>(rows: &mut Vec<T>) {
    rows.sort_unstable();
    rows.dedup();
}

/// A name without the bytes that end a word or a line.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_whitespace() || letter.is_control() || letter == '%' {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                let _ = write!(escaped, "%{byte:02x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

fn unescape(word: &str) -> Option<String> {
    if !word.contains('%') {
        return Some(word.to_string()).filter(|name| !name.is_empty());
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn sample() -> LockFile {
        let mut lock = LockFile::default();
        lock.inputs.insert("base".into(), vec![InputRow { digest: digest("base"), size: 1234 }]);
        lock.stages.insert("train".into(), vec![StageRow { key: digest("key"), out: digest("out"), items: 10 }]);
        lock.stages.insert("train/latents".into(), vec![StageRow { key: digest("k"), out: digest("o"), items: 24 }]);
        let row = EditRow {
            photo: digest("photo"),
            key: digest("key"),
            text: Some(digest("text")),
            person: Some(digest("mine")),
            mirror: Some(digest("mine, mirrored")),
        };
        let captions = lock.edits.entry("caption".into()).or_default();
        captions.insert("IMG_0012".into(), vec![row]);
        captions.insert("beach/été 2%=\u{2028}x".into(), vec![EditRow { text: None, mirror: None, ..row }]);
        lock
    }

    #[test]
    fn a_lock_comes_back_as_it_was_and_is_sorted() {
        let text = sample().to_text();
        assert_eq!(LockFile::parse(&text), sample());
        assert!(text.lines().is_sorted());
        assert!(text.contains("\nstage train/latents key="));
        assert!(text.contains("edit caption/beach/été%202%25=%e2%80%a8x photo="), "{text}");
    }

    #[test]
    fn a_row_of_a_text_outside_of_its_folder_counts_for_nothing() {
        let text = sample().to_text();
        let row = text.lines().find(|line| line.starts_with("edit caption/IMG_0012 ")).unwrap();
        let edits = |name: &str| LockFile::parse(&(row.replacen("caption/IMG_0012", name, 1) + "\n")).edits;
        assert!(edits("caption/beach/IMG_0012")["caption"].contains_key("beach/IMG_0012"));
        for name in ["caption/../IMG_0012", "caption/beach/../../x", "caption//etc/x", "caption/.", "caption/", "caption"] {
            assert!(edits(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_union_merge_with_markers_and_foreign_rows_is_read() {
        let mine = sample();
        let mut theirs = sample();
        theirs.stages.get_mut("train").unwrap()[0].key = digest("their key");
        theirs.edits.get_mut("caption").unwrap().get_mut("IMG_0012").unwrap()[0].text = Some(digest("their text"));
        let merged = format!(
            "<<<<<<< HEAD\n{}=======\n{}>>>>>>> theirs\nscore train value=7\n\nnonsense\n",
            mine.to_text(),
            theirs.to_text()
        );
        let lock = LockFile::parse(&merged);
        assert_eq!(lock.stages["train"].len(), 2);
        assert_eq!(lock.edits["caption"]["IMG_0012"].len(), 2);
        assert_eq!(lock.inputs["base"].len(), 1);
        let text = lock.to_text();
        assert!(text.contains("score train value=7\n"));
        assert!(!text.contains("HEAD") && !text.contains("nonsense"));
        assert_eq!(LockFile::parse(&text), lock);
    }

    #[test]
    fn no_digest_of_any_row_is_overlooked() {
        let mut text = sample().to_text();
        let later = digest("of a later version");
        text.push_str(&format!("score train model={later} value=7\n"));
        let digests = LockFile::parse(&text).digests();
        let named = text.split([' ', '\n']).filter_map(|word| word.split_once('=')?.1.parse::<Digest>().ok());
        let mut count = 0;
        for digest in named {
            assert!(digests.contains(&digest), "{digest}");
            count += 1;
        }
        assert_eq!(count, 1 + 2 + 2 + 5 + 3 + 1);
    }

    #[test]
    fn a_lock_cut_anywhere_keeps_its_whole_rows_and_invents_none() {
        let text = sample().to_text();
        let whole = LockFile::parse(&text);
        for length in (0..text.len()).filter(|length| text.is_char_boundary(*length)) {
            let lock = LockFile::parse(&text[..length]);
            let rows = lock.to_text();
            assert!(rows.lines().all(|row| text.lines().any(|known| known == row)), "cut at {length}: {rows}");
            assert_eq!(rows.lines().count(), text[..length].matches('\n').count(), "cut at {length}");
        }
        assert_eq!(whole, sample());
    }

    #[test]
    fn the_file_is_written_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.lock");
        assert_eq!(LockFile::read(&path).unwrap(), LockFile::default());
        assert!(!LockFile::default().write(&path).unwrap());
        assert!(sample().write(&path).unwrap());
        assert!(!sample().write(&path).unwrap());
        assert_eq!(LockFile::read(&path).unwrap(), sample());
        fs::write(&path, [sample().to_text().as_bytes(), b"\xff\xfe\n"].concat()).unwrap();
        assert_eq!(LockFile::read(&path).unwrap(), sample(), "bytes that are not text");
    }
}
