//! Puts texts into the user's folder so that nothing of the user's is ever overwritten, also not what is written at the same
//! moment, and so that a kill at any point loses nothing. Unaware of items and of rows.
//!
//! A text is written to `.loramill-new-…`, made durable, renamed to `.loramill-swap-<its digest>-<name>`, and only then exchanged
//! with the file that it replaces. What comes out lies under the swap name: if it is what was expected, it is displaced; if not,
//! it goes back. A name that would be too long with all that before it keeps its own in a folder:
//! `.loramill-swap-<its digest>/<name>`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::file_digest;
use crate::cache::regular_file::{self, Links};
use crate::cache::renames::{self, is_unsupported, rename_new};
use crate::cache::trouble::user_disk_trouble;
use crate::edits::beside::{Beside, LeftBehind};
use crate::edits::folder::{OURS, read_text};
use crate::edits::text::file_form;

/// This many texts are made durable together.
const CHUNK: usize = 512;
/// A person does not save more often than this while one file is replaced.
const TURNS: usize = 100;

/// A text on its way into the folder.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub(crate) target: PathBuf,
    /// Normalised.
    pub(crate) text: String,
    /// The `identity` of the file that is expected to lie there; `None` if no file is.
    pub(crate) expected: Option<Digest>,
}

/// What became of one text that was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Also says where the file is kept that made room.
    Written(Option<PathBuf>),
    /// Something else lay there, which stays.
    Theirs,
}

/// What became of a file that was to be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TakenAway {
    /// Says where it is kept.
    Kept(PathBuf),
    /// There was none.
    Gone,
    /// Something else lay there, which stays.
    Theirs,
}

/// Writes all texts, and makes them durable.
pub(crate) fn replace_all(cache: &Cache, replacements: &[Replacement]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(replacements.len());
    for chunk in replacements.chunks(CHUNK) {
        let mut prepared = Prepared::default();
        for replacement in chunk {
            prepared.write(replacement)?;
        }
        prepared.make_durable()?;
        for (replacement, new) in chunk.iter().zip(&prepared.paths) {
            outcomes.push(place(cache, replacement, new)?);
        }
    }
    sync_folders(replacements.iter().map(|replacement| replacement.target.as_path()))?;
    Ok(outcomes)
}

/// New texts that do not have their names yet; what is left of them goes when this is dropped.
#[derive(Default)]
struct Prepared {
    paths: Vec<PathBuf>,
}

impl Prepared {
    fn write(&mut self, replacement: &Replacement) -> Result<()> {
        let folder = replacement.target.parent().context("a text lies in a folder")?;
        make_folder(folder)?;
        let name = format!("{OURS}new-{}-{}", std::process::id(), self.paths.len());
        let path = folder.join(name);
        self.paths.push(path.clone());
        let write = || -> io::Result<()> {
            faults::pass("edits.create")?;
            // A name of ours that lies there is no file of this process.
            let _ = fs::remove_file(&path);
            let mut file = File::create_new(&path)?;
            faults::pass("edits.write")?;
            file.write_all(file_form(&replacement.text).as_bytes())?;
            match fs::metadata(&replacement.target) {
                Ok(old) => file.set_permissions(old.permissions()),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        };
        write().map_err(|error| user_disk_trouble(error, "writing", &replacement.target))
    }

    fn make_durable(&self) -> Result<()> {
        let Some(first) = self.paths.first() else { return Ok(()) };
        let sync = || -> io::Result<()> {
            faults::pass("edits.sync")?;
            // A text is small: below this number `syncfs` would wait longer for what other programs wrote.
            if self.paths.len() <= 8 {
                self.paths.iter().try_for_each(|path| File::open(path)?.sync_all())
            } else {
                Ok(rustix::fs::syncfs(File::open(first)?)?)
            }
        };
        sync().map_err(|error| user_disk_trouble(error, "making texts durable like", first))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !faults::is_dead() {
            for path in &self.paths {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn place(cache: &Cache, replacement: &Replacement, new: &Path) -> Result<Outcome> {
    let target = &replacement.target;
    let trouble = |error| user_disk_trouble(error, "replacing", target);
    let ours = Digest::of(replacement.text.as_bytes());
    let file_name = file_name(target);
    let swap = Beside::swap(target, &ours).map_err(trouble)?;

    faults::pass("edits.ready").map_err(trouble)?;
    rename_new(new, &swap).map_err(trouble)?;
    // Until it is exchanged, what lies under the swap name is ours, and no litter is left beside the user's files.
    let given_up = |error| {
        if !faults::is_dead() && identity(&swap).is_ok_and(|found| found == Some(ours)) {
            let _ = fs::remove_file(&*swap);
        }
        trouble(error)
    };
    faults::pass("edits.exchange").map_err(given_up)?;
    let exchanged = match replacement.expected {
        Some(_) => exchange(&swap, target).map_err(given_up)?,
        None => false,
    };
    if !exchanged {
        return match rename_new(&swap, target) {
            Ok(()) => Ok(Outcome::Written(None)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                faults::pass("edits.clear").and_then(|()| fs::remove_file(&*swap)).map_err(trouble)?;
                Ok(Outcome::Theirs)
            }
            Err(error) => Err(given_up(error)),
        };
    }
    faults::pass("edits.exchanged").map_err(trouble)?;

    // What came out, and what lies in its place now.
    let mut out = identity(&swap)?;
    let mut inside = Some(ours);
    if out == replacement.expected || out == Some(ours) {
        return Ok(Outcome::Written(Some(cache.displace(&swap, &file_name)?)));
    }
    for _ in 0..TURNS {
        faults::pass("edits.back").map_err(trouble)?;
        if !exchange(&swap, target).map_err(trouble)? {
            // Somebody removed what was put there: theirs goes back all the same.
            match rename_new(&swap, target) {
                Ok(()) => return Ok(Outcome::Theirs),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(trouble(error)),
            }
        }
        let came_out = identity(&swap)?;
        if came_out == inside {
            cache.displace(&swap, &file_name)?;
            return Ok(Outcome::Theirs);
        }
        // Somebody saved once more in between: that is the newest, and goes back.
        (inside, out) = (out, came_out);
    }
    Err(anyhow!("`{}` is written all the time by another program: run again when it is quiet", target.display()))
}

/// Moves a text to a name that is free; false if it is not. `sync_folders` makes it durable.
pub(crate) fn move_text(from: &Path, to: &Path) -> Result<bool> {
    let trouble = |error| user_disk_trouble(error, &format!("moving `{}` to", from.display()), to);
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    faults::pass("edits.move").map_err(trouble)?;
    match rename_new(from, to) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(trouble(error)),
    }
}

/// Exchanges two texts; false if one of them is not there. `sync_folders` makes it durable.
pub(crate) fn exchange_texts(cache: &Cache, one: &Path, other: &Path) -> Result<bool> {
    let trouble = |error| user_disk_trouble(error, &format!("exchanging `{}` with", one.display()), other);
    faults::pass("edits.turn").map_err(trouble)?;
    match renames::exchange(one, other) {
        Err(error) if is_unsupported(&error) => {}
        exchanged => return exchanged.map_err(trouble),
    }
    let aside = Beside::aside(one).map_err(trouble)?;
    match rename_new(one, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(trouble(error)),
    }
    match rename_new(other, one) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            put_back(cache, &aside, one, &file_name(one))?;
            return Ok(false);
        }
        Err(error) => return Err(trouble(error)),
    }
    put_back(cache, &aside, other, &file_name(other))?;
    Ok(true)
}

/// Takes a file away whose `identity` is expected; another stays. `sync_folders` makes it durable.
pub(crate) fn take_away(cache: &Cache, target: &Path, expected: &Digest) -> Result<TakenAway> {
    let trouble = |error| user_disk_trouble(error, "moving away", target);
    let file_name = file_name(target);
    let aside = Beside::aside(target).map_err(trouble)?;
    match rename_new(target, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(TakenAway::Gone),
        Err(error) => return Err(trouble(error)),
    }
    faults::pass("edits.aside").map_err(trouble)?;
    if identity(&aside)?.as_ref() != Some(expected) {
        put_back(cache, &aside, target, &file_name)?;
        return Ok(TakenAway::Theirs);
    }
    Ok(TakenAway::Kept(cache.displace(&aside, &file_name)?))
}

/// Puts right what a killed run left behind. `is_machines` tells the texts that the machine wrote. Returns what the user should
/// know.
pub(crate) fn recover(cache: &Cache, left_behind: &[PathBuf], is_machines: impl Fn(&Digest) -> bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for left in left_behind {
        let trouble = |error| user_disk_trouble(error, "putting right", left);
        let (ours, target) = match LeftBehind::of(left) {
            Some(LeftBehind::New) => {
                // Never complete, and never the user's.
                faults::pass("edits.clear").and_then(|()| fs::remove_file(left)).map_err(trouble)?;
                continue;
            }
            Some(LeftBehind::Folder) => {
                // Not empty if somebody else put something there.
                let _ = fs::remove_dir(left);
                continue;
            }
            Some(LeftBehind::Text { ours, target }) => (ours, target),
            None => continue,
        };
        let left = &Beside::known(left);
        let file_name = &file_name(&target);
        let is_ours = |digest: &Option<Digest>| digest.is_some_and(|digest| digest.to_hex().starts_with(&ours));
        let text = text_of(left)?;
        if is_ours(&text) || text.as_ref().is_some_and(&is_machines) {
            cache.displace(left, file_name)?;
            continue;
        }
        // A person's. What was to take its place goes out again, what somebody saved since stays.
        if is_ours(&text_of(&target)?) && exchange(left, &target).map_err(trouble)? {
            cache.displace(left, file_name)?;
            notes.push(format!("`{}` has its text back, which an interrupted run had taken away", target.display()));
        } else if let Some(kept) = put_back(cache, left, &target, file_name)? {
            notes.push(format!(
                "an interrupted run had taken a text of `{}` away; a newer one lies there, so it is kept as `{}`",
                target.display(),
                kept.display()
            ));
        }
    }
    sync_folders(left_behind.iter().map(PathBuf::as_path))?;
    Ok(notes)
}

/// Puts a text back where it was; if something newer lies there, it is kept among the displaced ones, and the answer says where.
fn put_back(cache: &Cache, aside: &Path, target: &Path, file_name: &str) -> Result<Option<PathBuf>> {
    match rename_new(aside, target) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => cache.displace(aside, file_name).map(Some),
        Err(error) => Err(user_disk_trouble(error, "putting back", target)),
    }
}

/// The digest of the normalised text of a file, if it is one. What is none is not read to its end.
fn text_of(path: &Path) -> Result<Option<Digest>> {
    Ok(read_text(path)?.and_then(std::result::Result::ok).map(|text| Digest::of(text.as_bytes())))
}

/// Stands for what a file says: the digest of its normalised text, or one of its bytes if it is no usable text.
pub(crate) fn identity(path: &Path) -> Result<Option<Digest>> {
    Ok(match read_text(path)? {
        None => None,
        Some(Ok(text)) => Some(Digest::of(text.as_bytes())),
        Some(Err(_)) => {
            let opened = regular_file::open(path, Links::Followed).and_then(file_digest::of_open);
            let (bytes, _) = opened.with_context(|| format!("reading `{}`", path.display()))?;
            Some(Digest::of(&[b"unusable ", bytes.as_bytes().as_slice()].concat()))
        }
    })
}

/// Exchanges a file of ours with `target`; false if that is not there.
fn exchange(ours: &Path, target: &Path) -> io::Result<bool> {
    match renames::exchange(ours, target) {
        Err(error) if is_unsupported(&error) => exchange_in_steps(ours, target),
        result => result,
    }
}

/// For file systems that cannot exchange: nothing is overwritten here either, but for a moment there is no file.
fn exchange_in_steps(ours: &Path, target: &Path) -> io::Result<bool> {
    let aside = Beside::other(ours)?;
    match rename_new(target, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    faults::pass("edits.stepping")?;
    rename_new(ours, target)?;
    rename_new(&aside, ours)?;
    Ok(true)
}

fn make_folder(folder: &Path) -> Result<()> {
    let made = faults::pass("edits.folder").and_then(|()| fs::create_dir_all(folder));
    made.map_err(|error| user_disk_trouble(error, "creating", folder))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes durable what became of the names of files.
pub(crate) fn sync_folders<'a>(files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let folders: BTreeSet<&Path> = files.filter_map(Path::parent).collect();
    for folder in folders {
        let synced = faults::pass("edits.settle").and_then(|()| File::open(folder)).and_then(|open| open.sync_all());
        match synced {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(user_disk_trouble(error, "making durable", folder)),
            _ => {}
        }
    }
    Ok(())
}
