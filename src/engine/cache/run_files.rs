//! Notes between the process that runs a pipeline and others that ask about it: how far it is, and the request that it stop.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cache::digest::Digest;
use crate::cache::locks::Holder;
use crate::cache::place::Place;
use crate::cache::trouble::disk_trouble;
use crate::cache::{Cache, atomic};

/// A run says a line of how far it is.
const LONGEST_STATUS: u64 = 1 << 20;

impl Cache {
    /// `runs/<id>.<what>`; the id stands for the folder with all links in its path resolved. An error if that folder is not
    /// there.
    pub(crate) fn run_file(&self, pipeline_folder: &Path, what: &str) -> Result<Place> {
        let folder = fs::canonicalize(pipeline_folder).with_context(|| format!("looking for `{}`", pipeline_folder.display()))?;
        let id = Digest::of(folder.as_os_str().as_encoded_bytes()).short();
        Ok(self.place("runs").inside(format!("{id}.{what}")))
    }

    /// Removes what a killed run left of notes that it was about to write. Under the lock of the pipeline.
    pub(crate) fn sweep_run_files(&self, folder: &Path) -> Result<()> {
        for what in ["status", "stop", "standstill"] {
            atomic::sweep(&self.run_file(folder, what)?);
        }
        Ok(())
    }

    /// Who runs the pipeline in `folder`, if anyone does.
    pub fn runner(&self, folder: &Path) -> Result<Option<Holder>> {
        let mut runner = None;
        let free = self.lock_pipeline(folder, &mut |holder| {
            runner = holder.cloned();
            false
        })?;
        Ok(if free.is_some() { None } else { runner })
    }

    /// Asks whoever runs the pipeline to end the running stage with what it has.
    pub fn request_stop(&self, folder: &Path) -> Result<()> {
        self.write_run_file(folder, "stop", "")
    }

    /// True once after `request_stop`.
    pub fn take_stop_request(&self, folder: &Path) -> Result<bool> {
        self.remove_run_file(folder, "stop")
    }

    /// Says how far the run is.
    pub fn write_run_status(&self, folder: &Path, text: &str) -> Result<()> {
        self.write_run_file(folder, "status", text)
    }

    /// What the run said last.
    pub fn run_status(&self, folder: &Path) -> Result<Option<String>> {
        let path = self.run_file(folder, "status")?;
        match path.read(LONGEST_STATUS) {
            Ok(text) => Ok(String::from_utf8(text).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    /// Called when a run ends, and before a run for what a killed one left. True if there was a status.
    pub fn remove_run_status(&self, folder: &Path) -> Result<bool> {
        self.remove_run_file(folder, "status")
    }

    fn write_run_file(&self, folder: &Path, what: &str, text: &str) -> Result<()> {
        let path = self.run_file(folder, what)?;
        let runs = self.place("runs");
        runs.make_folder().map_err(|error| disk_trouble(error, "creating", &runs))?;
        // It tells of processes, and those end with the machine.
        atomic::replace_unsynced(&path, text.as_bytes())
    }

    fn remove_run_file(&self, folder: &Path, what: &str) -> Result<bool> {
        let path = self.run_file(folder, what)?;
        match path.remove() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk_trouble(error, "removing", &path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_notes_of_a_killed_run_go_and_whole_ones_stay() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        cache.write_run_status(temp.path(), "crop: 1 of 2 items").unwrap();
        let status = cache.run_file(temp.path(), "status").unwrap();
        let half = status.with_file_name(format!(".loramill-{}", status.file_name().unwrap().to_str().unwrap()));
        fs::write(&half, "crop: 2 o").unwrap();
        cache.sweep_run_files(temp.path()).unwrap();
        assert!(!half.exists() && status.exists());
    }

    #[test]
    fn a_stop_request_is_taken_once_by_its_pipeline() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let other = temp.path().join("other");
        fs::create_dir(&other).unwrap();
        cache.request_stop(temp.path()).unwrap();
        assert!(!cache.take_stop_request(&other).unwrap());
        assert!(cache.take_stop_request(temp.path()).unwrap());
        assert!(!cache.take_stop_request(temp.path()).unwrap());
        assert_eq!(cache.runner(temp.path()).unwrap(), None);
        let _held = cache.lock_pipeline(temp.path(), &mut |_| false).unwrap().unwrap();
        assert_eq!(cache.runner(temp.path()).unwrap().unwrap().process, std::process::id());
    }
}
