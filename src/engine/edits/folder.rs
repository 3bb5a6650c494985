//! What lies in a folder of editable texts. Only reads. Unaware of items and of who wrote what.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization as _;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::locate::repository_around;
use crate::cache::regular_file::{self, Links};
use crate::cache::stat_index::FileStat;
use crate::edits::text::{self, Unusable};

/// Starts the names of files that a run puts beside the texts for a moment.
pub(crate) const OURS: &str = ".loramill-";

/// A file under the name of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) contents: Contents,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Digest and size of the normalised text.
    Text(Digest, u64),
    /// Says what is wrong with it.
    Unusable(String),
}

/// The texts in a folder when it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// By name: path below the folder without extension, NFC.
    pub(crate) texts: BTreeMap<String, Found>,
}

impl Folder {
    /// Looks at all files below `folder` that end in `extension`. A folder that is not there is empty.
    pub(crate) fn scan(cache: &Cache, folder: &Path, extension: &str) -> Result<Self> {
        let mut listed = Listed::of(folder, extension)?;
        // Sorted, so that of two files with one name the same comes first each time, and the map is built in one go.
        listed.texts.par_sort_unstable();
        let known: Vec<Result<Option<Contents>>> = listed
            .texts
            .par_iter()
            .with_min_len(64)
            .map(|(_, path)| {
                let stat = FileStat::of(path).with_context(|| format!("reading `{}`", path.display()))?;
                Ok(cache.texts().lookup(&stat).map(|(digest, size)| Contents::Text(digest, size)))
            })
            .collect();
        let mut clock = None;
        let mut texts: Vec<(String, Found)> = Vec::with_capacity(listed.texts.len());
        for ((name, path), known) in listed.texts.into_iter().zip(known) {
            let contents = match known? {
                Some(contents) => contents,
                None => {
                    if clock.is_none() {
                        clock = Some(cache.clock()?);
                    }
                    let clock = clock.as_ref().expect("it was just set");
                    read_and_learn(cache, &path, |device| clock.now(device))?
                }
            };
            match texts.last_mut() {
                Some((last, other)) if *last == name => {
                    let message = format!("`{}` has the same name as `{}`: remove one", path.display(), other.path.display());
                    other.contents = Contents::Unusable(message);
                }
                _ => texts.push((name, Found { path, contents })),
            }
        }
        Ok(Self { texts: texts.into_iter().collect() })
    }

    /// Whether two names have the same text.
    pub(crate) fn is_copy(&self, one: &str, other: &str) -> bool {
        match (self.texts.get(one), self.texts.get(other)) {
            (Some(one), Some(other)) => matches!(one.contents, Contents::Text(..)) && one.contents == other.contents,
            _ => false,
        }
    }

    /// Over all names and texts.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("loramill 2026-11 folder of texts v1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (name, found) in &self.texts {
            field(name.as_bytes());
            match &found.contents {
                Contents::Text(digest, _) => field(digest.as_bytes()),
                Contents::Unusable(message) => field(message.as_bytes()),
            }
        }
        hasher.finalize().into()
    }
}

/// The normalised text of a file, or what is wrong with it; `None` if there is no file.
pub(crate) fn read_text(path: &Path) -> Result<Option<std::result::Result<String, String>>> {
    match regular_file::open(path, Links::Followed) {
        Ok(file) => read_open(&file, path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
    }
}

fn read_open(file: &File, path: &Path) -> Result<std::result::Result<String, String>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a larger file is seen to be one.
    file.take(text::LARGEST + 1).read_to_end(&mut bytes).with_context(|| format!("reading `{}`", path.display()))?;
    Ok(text::normalise(&bytes).map_err(|unusable: Unusable| format!("`{}` {unusable}", path.display())))
}

fn read_and_learn(cache: &Cache, path: &Path, now: impl Fn(u64) -> i64) -> Result<Contents> {
    let reading = || format!("reading `{}`", path.display());
    let file = regular_file::open(path, Links::Followed).with_context(reading)?;
    let before = FileStat::from(&file.metadata().with_context(reading)?);
    let contents = match read_open(&file, path)? {
        Ok(text) => Contents::Text(Digest::of(text.as_bytes()), text.len() as u64),
        Err(message) => Contents::Unusable(message),
    };
    let after = FileStat::from(&file.metadata().with_context(reading)?);
    if let (Contents::Text(digest, size), true) = (&contents, before == after) {
        cache.texts().learn(before, now(before.device), *digest, *size);
    }
    Ok(contents)
}

/// The texts below `folder` by their names; of two with one name the first. Looks at names alone.
pub(crate) fn names(folder: &Path, extension: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut listed = Listed::of(folder, extension)?;
    listed.texts.sort_unstable_by(|a, b| b.cmp(a));
    Ok(listed.texts.into_iter().collect())
}

/// Files of ours that a killed run left below `folder`. Looks at names alone.
pub(crate) fn left_behind(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut listed = Listed::of(folder, extension)?;
    listed.left_behind.sort_unstable();
    Ok(listed.left_behind)
}

struct Listed {
    /// The folder of the pipeline that the texts belong to.
    pipeline: PathBuf,
    /// Names and paths.
    texts: Vec<(String, PathBuf)>,
    left_behind: Vec<PathBuf>,
}

impl Listed {
    /// What lies below a folder of texts.
    fn of(folder: &Path, extension: &str) -> Result<Self> {
        let pipeline = folder.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new(".")).to_path_buf();
        let mut listed = Self { pipeline, texts: Vec::new(), left_behind: Vec::new() };
        list(folder, "", extension, &mut listed)?;
        Ok(listed)
    }

    /// The texts in a folder of ours, or the folder if there is none.
    fn leave_behind(&mut self, folder: &Path) -> std::io::Result<()> {
        let before = self.left_behind.len();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                self.left_behind.push(entry.path());
            }
        }
        if self.left_behind.len() == before {
            self.left_behind.push(folder.to_path_buf());
        }
        Ok(())
    }
}

/// `above`: the name of the folder itself, with a `/` after it.
fn list(folder: &Path, above: &str, extension: &str, listed: &mut Listed) -> Result<()> {
    let reading = || format!("reading `{}`", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(reading),
    };
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let file_name = entry.file_name();
        let hidden = file_name.as_encoded_bytes().starts_with(b".");
        let kind = entry.file_type().with_context(reading)?;
        let has_line_break = file_name.as_encoded_bytes().contains(&b'\n');
        if !hidden && has_line_break && (kind.is_dir() || stem(Path::new(&file_name), extension).is_some()) {
            bail!("the name of {:?} holds a line break: rename it", entry.path());
        }
        if kind.is_dir() {
            if file_name.as_encoded_bytes().starts_with(OURS.as_bytes()) {
                listed.leave_behind(&entry.path()).with_context(reading)?;
            } else if !hidden {
                list(&entry.path(), &format!("{above}{}/", in_nfc(&file_name)), extension, listed)?;
            }
        } else if file_name.as_encoded_bytes().starts_with(OURS.as_bytes()) {
            // What is no file was not made by a run.
            if kind.is_file() {
                listed.left_behind.push(entry.path());
            }
        } else if !hidden
            && let Some(stem) = stem(Path::new(&file_name), extension)
            // A link that leads nowhere is no text.
            && (kind.is_file() || entry.path().is_file())
        {
            if kind.is_symlink() {
                refuse_outside(&entry.path(), &listed.pipeline)?;
            }
            listed.texts.push((format!("{above}{}", in_nfc(stem)), entry.path()));
        } else if !hidden && kind.is_symlink() && entry.path().is_dir() {
            // Texts would be written there.
            bail!(
                "`{}` is a link to a folder, which is not followed: put the folder itself in its place",
                entry.path().display()
            );
        }
    }
    Ok(())
}

/// A text may be a link within the project; one of somebody else's would be kept as if a person had written it for this project.
fn refuse_outside(link: &Path, pipeline: &Path) -> Result<()> {
    let reading = || format!("reading `{}`", link.display());
    let target = fs::canonicalize(link).with_context(reading)?;
    if !target.starts_with(repository_around(pipeline).with_context(reading)?) {
        bail!(
            "`{}` is a link to `{}`, which lies outside of the project: put the text itself in its place",
            link.display(),
            target.display()
        );
    }
    Ok(())
}

fn stem<'n>(name: &'n Path, extension: &str) -> Option<&'n OsStr> {
    name.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)).then(|| name.file_stem())?
}

fn in_nfc(name: &OsStr) -> Cow<'_, str> {
    let name = name.to_string_lossy();
    if name.is_ascii() { name } else { name.nfc().collect::<String>().into() }
}
