//! What lies in a folder of editable texts. Only reads. Unaware of items and of who wrote what.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization as _;

use crate::cache::Cache;
use crate::cache::digest::Digest;
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Digest and size of the normalised text.
    Text(Digest, u64),
    /// Says what is wrong with it.
    Unusable(String),
}

#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// By name: path below the folder without extension, NFC.
    pub(crate) texts: BTreeMap<String, Found>,
    /// Files of ours that a killed run left.
    pub(crate) left_behind: Vec<PathBuf>,
}

impl Folder {
    /// Looks at all files below `folder` that end in `extension`. A folder that is not there is empty.
    pub(crate) fn scan(cache: &Cache, folder: &Path, extension: &str) -> Result<Self> {
        let mut paths = Vec::new();
        let mut left_behind = Vec::new();
        list(folder, extension, &mut paths, &mut left_behind)?;
        left_behind.sort_unstable();

        let known: Vec<Result<Option<Contents>>> = paths
            .par_iter()
            .with_min_len(64)
            .map(|path| {
                let stat = FileStat::of(path).with_context(|| format!("reading `{}`", path.display()))?;
                Ok(cache.texts().lookup(&stat).map(|(digest, size)| Contents::Text(digest, size)))
            })
            .collect();
        let mut clock = None;
        let mut texts: BTreeMap<String, Found> = BTreeMap::new();
        for (path, known) in paths.into_iter().zip(known) {
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
            let name = name_of(&path, folder);
            match texts.get_mut(&name) {
                None => {
                    texts.insert(name, Found { path, contents });
                }
                Some(other) => {
                    let message = format!("`{}` has the same name as `{}`: remove one", path.display(), other.path.display());
                    other.contents = Contents::Unusable(message);
                }
            }
        }
        Ok(Self { texts, left_behind })
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
    match File::open(path) {
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
    let file = File::open(path).with_context(reading)?;
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

fn list(folder: &Path, extension: &str, paths: &mut Vec<PathBuf>, left_behind: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("reading `{}`", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(reading),
    };
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let kind = entry.file_type().with_context(reading)?;
        let path = entry.path();
        if kind.is_dir() {
            if !hidden {
                list(&path, extension, paths, left_behind)?;
            }
        } else if name.as_encoded_bytes().starts_with(OURS.as_bytes()) {
            left_behind.push(path);
        } else if !hidden && path.extension().is_some_and(|found| found == extension) {
            // A link that leads nowhere is no text.
            if kind.is_file() || path.is_file() {
                paths.push(path);
            }
        }
    }
    Ok(())
}

fn name_of(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).expect("the file was found below the folder").with_extension("");
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/").nfc().collect()
}
