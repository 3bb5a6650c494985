//! What lies in a folder below `out/`, by contents: a result that the cache did not keep may still be there. Unaware of who asks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::slice;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::regular_file::{self, Links};
use crate::cache::stat_index::FileStat;
use crate::cache::trouble::user_disk_trouble;
use crate::graph::pipeline::Pipeline;
use crate::graph::stage_id::StageId;
use crate::kind::item::Item;
use crate::out::folder::out_folder;
use crate::out::manifest::Manifest;
use crate::out::materialise::wanted;

/// A file that a run put there, with the contents it has now.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    /// It was a second name of its object, which nobody can write to.
    linked: bool,
}

/// The files of a folder that a run put there and that are still there, by their paths below it. Those that somebody touched are
/// read.
pub(crate) fn files_in(cache: &Cache, folder: &Path) -> BTreeMap<String, Shown> {
    let mut files = BTreeMap::new();
    for entry in Manifest::read(Manifest::place(cache, folder)).entries {
        let path = folder.join(&entry.path);
        // A link was not put there by a run.
        let Some(metadata) = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file) else { continue };
        let digest = match entry.is_as(&FileStat::from(&metadata)) {
            true => Some(entry.digest),
            // One that cannot be read holds nothing that could be used.
            false => cache.digest_file(&path).ok().map(|(digest, _)| digest),
        };
        if let Some(digest) = digest {
            files.insert(entry.path, Shown { path, digest, linked: entry.linked });
        }
    }
    files
}

/// What `out/` shows of a stage; with `--set` both what it shows of such a run and what it shows of the file as it stands.
pub(crate) fn of_stage(pipeline: &Pipeline, cache: &Cache, id: StageId) -> Vec<Shown> {
    let stage = &pipeline.stages[id];
    if stage.owner.is_some() {
        return Vec::new();
    }
    let mut folders = vec![out_folder(pipeline), pipeline.out()];
    folders.dedup();
    folders.iter().flat_map(|out| files_in(cache, &out.join(stage.folder())).into_values()).collect()
}

/// Splits items into those that `folder` can show, because their files are there or their objects are here, and the others.
pub(crate) fn at_hand(cache: &Cache, folder: &Path, items: &[Item], fields: &[&str]) -> Result<(Vec<Item>, Vec<Item>)> {
    let mut files = None;
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for item in items {
        let is_there = wanted(slice::from_ref(item), fields)?.iter().all(|(path, want)| {
            let shown = |files: &BTreeMap<String, Shown>| files.get(path).is_some_and(|file| file.digest == want.digest);
            cache.contains(&want.digest, want.size) || shown(files.get_or_insert_with(|| files_in(cache, folder)))
        });
        if is_there { there.push(item.clone()) } else { missing.push(item.clone()) }
    }
    Ok((there, missing))
}

impl Shown {
    /// Puts the contents into the cache. False if they are not, or no longer, what `digest` says.
    pub(crate) fn take(&self, cache: &Cache, digest: &Digest) -> Result<bool> {
        let folder = cache.scratch_folder()?;
        let copy = folder.join("copy");
        match self.copy(&copy) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(user_disk_trouble(error, &format!("copying `{}` to", self.path.display()), &copy)),
        }
        let batch = cache.batch();
        let stored = batch.put_file(&copy, None)?;
        fs::remove_dir(&folder).with_context(|| format!("removing `{}`", folder.display()))?;
        if stored.digest != *digest {
            // The batch takes away what it was given.
            return Ok(false);
        }
        batch.flush()?;
        Ok(true)
    }

    /// A reflink; else, of a file that is a name of an object, a further name; else a copy.
    fn copy(&self, target: &Path) -> io::Result<()> {
        let mut source = regular_file::open(&self.path, Links::Refused)?;
        let mut file = File::create_new(target)?;
        if rustix::fs::ioctl_ficlone(&file, &source).is_ok() {
            return Ok(());
        }
        let is_read_only = source.metadata()?.permissions().mode() & 0o222 == 0;
        if self.linked && is_read_only {
            fs::remove_file(target)?;
            if fs::hard_link(&self.path, target).is_ok() {
                return Ok(());
            }
            file = File::create_new(target)?;
        }
        io::copy(&mut source, &mut file)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_shown_file_is_taken_and_a_pipe_in_its_place_is_waited_for_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let path = folder.path().join("shown");
        let digest = Digest::of(b"bytes");
        for linked in [false, true] {
            let shown = Shown { path: path.clone(), digest, linked };
            fs::write(&path, "bytes").unwrap();
            assert!(shown.take(&cache, &digest).unwrap());
            fs::write(&path, "other").unwrap();
            assert!(!shown.take(&cache, &digest).unwrap());
            fs::remove_file(&path).unwrap();
            assert!(!shown.take(&cache, &digest).unwrap());
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            let error = format!("{:#}", shown.take(&cache, &digest).unwrap_err());
            assert!(error.contains("it is a named pipe"), "{error}");
            fs::remove_file(&path).unwrap();
        }
    }
}
