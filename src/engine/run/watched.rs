//! The files and folders that a run reads, with what `stat` says of each, and whether any has changed. Unaware of what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags};
use walkdir::WalkDir;

use crate::cache::encoding::{Reader, Writer};
use crate::cache::stat_index::FileStat;
use crate::cache::{Cache, Clock};
use crate::decide::texts;
use crate::graph::pipeline::{Pipeline, Producer};
use crate::graph::selection::Selection;
use crate::inputs::input::Found;
use crate::inputs::listing::is_visible;

/// Files and folders by their paths below an open folder; `.` is the folder itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Watched {
    folder: PathBuf,
    /// Links are followed. `None`: it is not there.
    files: Vec<(String, Option<FileStat>)>,
}

impl Watched {
    /// Whether all of it is as it was.
    pub(crate) fn is_unchanged(&self) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(folder) = rustix::fs::open(&self.folder, flags, Mode::empty()) else { return false };
        let is_unchanged = |(name, before): &(String, Option<FileStat>)| match rustix::fs::statat(&folder, name, AtFlags::empty())
        {
            Ok(now) => *before == Some(FileStat::from(&now)),
            Err(error) => before.is_none() && error == rustix::io::Errno::NOENT,
        };
        self.files.par_iter().with_min_len(256).all(is_unchanged)
    }

    /// Whether no file is so young that it may change without its times telling.
    pub(crate) fn is_settled(&self, clock: &Clock) -> bool {
        self.files.iter().filter_map(|(_, stat)| stat.as_ref()).all(|stat| !stat.is_racy(clock.now(stat.device)))
    }

    /// Adds it to a record.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.text(&self.folder.to_string_lossy());
        writer.number(self.files.len() as u64);
        for (name, stat) in &self.files {
            writer.text(name);
            writer.number(stat.is_some().into());
            if let Some(stat) = stat {
                writer.bytes.extend_from_slice(&stat.to_bytes());
            }
        }
    }

    /// Takes one from a record.
    ///
    /// # Errors
    /// If the record is cut or damaged.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let folder = PathBuf::from(reader.text()?);
        let mut files = Vec::new();
        for _ in 0..reader.count()? {
            let name = reader.text()?.to_string();
            let stat = match reader.number()? {
                0 => None,
                _ => Some(FileStat::from_bytes(reader.bytes(40)?.try_into().expect("40 bytes were taken"))),
            };
            files.push((name, stat));
        }
        Ok(Self { folder, files })
    }
}

/// The files that a run reads, the folders in which it looks for them, and those of the store, in which an object cannot come or
/// go without a trace. What lies in `out/` has a list of its own.
pub(crate) fn watched(pipeline: &Pipeline, cache: &Cache, selection: &Selection) -> Option<Vec<Watched>> {
    let needed = selection.needed(pipeline);
    let stages = || needed.iter().map(|&id| &pipeline.stages[id]);
    let mut single = vec![pipeline.lock_file().file_name()?.to_str()?.to_string()];
    let mut watched = Vec::new();
    for (index, input) in pipeline.inputs.iter().enumerate() {
        if !stages().flat_map(|stage| &stage.edges).any(|edge| edge.from == Producer::Input(index)) {
            continue;
        }
        match &input.found {
            Found::Photos { folder, .. } => watched.push(below(folder)?),
            Found::File(path) => single.push(std::path::absolute(path).ok()?.to_str()?.to_string()),
            Found::Absent(_) => {}
        }
    }
    for stage in stages() {
        if let Some(editable) = stage.stage.editable() {
            watched.push(below(&texts::folder(pipeline, stage, &editable))?);
        }
    }
    let objects = cache.root().join("objects");
    let parts = (0..=u8::MAX).map(|part| format!("{part:02x}")).collect();
    watched.extend([at(&pipeline.folder, single)?, at(&objects, parts)?]);
    Some(watched)
}

/// A folder and all that lies in it and is not hidden.
pub(crate) fn below(folder: &Path) -> Option<Watched> {
    if fs::metadata(folder).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        let name = folder.file_name()?.to_str()?.to_string();
        return at(folder.parent()?, vec![name]);
    }
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(is_visible) {
        let entry = entry.ok()?;
        let name = match entry.depth() {
            0 => ".",
            _ => entry.path().strip_prefix(folder).ok()?.to_str()?,
        };
        files.push((name.to_string(), Some(FileStat::from(&entry.metadata().ok()?))));
    }
    Some(Watched { folder: folder.to_path_buf(), files })
}

/// Single files and folders by their paths below an open one.
fn at(folder: &Path, names: Vec<String>) -> Option<Watched> {
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let stat = match FileStat::of(&folder.join(&name)) {
            Ok(stat) => Some(stat),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => return None,
        };
        files.push((name, stat));
    }
    Some(Watched { folder: folder.to_path_buf(), files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_file_that_comes_goes_or_changes_is_noticed() {
        let changes: [&dyn Fn(&Path); 7] = [
            &|folder| fs::write(folder.join("a.png"), "b").unwrap(),
            &|folder| fs::remove_file(folder.join("day/b.png")).unwrap(),
            &|folder| fs::write(folder.join("day/c.png"), "c").unwrap(),
            &|folder| fs::rename(folder.join("a.png"), folder.join("z.png")).unwrap(),
            &|folder| fs::create_dir(folder.join("empty")).unwrap(),
            &|folder| {
                let (a, b) = (folder.join("a.png"), folder.join("day/b.png"));
                fs::rename(&a, folder.join("x")).unwrap();
                fs::rename(&b, &a).unwrap();
                fs::rename(folder.join("x"), &b).unwrap();
            },
            &|folder| fs::rename(folder, folder.with_extension("gone")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let temp = tempfile::tempdir().unwrap();
            let folder = temp.path().join("images");
            fs::create_dir_all(folder.join("day")).unwrap();
            fs::write(folder.join("a.png"), "a").unwrap();
            fs::write(folder.join("day/b.png"), "b").unwrap();
            let watched = below(&folder).unwrap();
            assert!(watched.is_unchanged());
            // A clock that ticks coarsely must not hide the change.
            std::thread::sleep(std::time::Duration::from_millis(25));
            change(&folder);
            assert!(!watched.is_unchanged(), "change {number}");
        }
    }

    #[test]
    fn a_folder_that_was_not_there_is_noticed_when_it_comes() {
        let temp = tempfile::tempdir().unwrap();
        let watched = below(&temp.path().join("captions")).unwrap();
        assert!(watched.is_unchanged());
        fs::create_dir(temp.path().join("captions")).unwrap();
        assert!(!watched.is_unchanged());
    }
}
