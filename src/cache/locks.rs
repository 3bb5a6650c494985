//! Who works on what: one process at a time computes a key, and one runs a pipeline. The kernel releases the locks of the dead.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;

/// Held while a key is computed.
#[derive(Debug)]
pub struct KeyLock(#[allow(dead_code, reason = "held, never read")] FileLock);

/// Held while a pipeline runs.
#[derive(Debug)]
pub struct PipelineLock(#[allow(dead_code, reason = "held, never read")] FileLock);

/// Who runs a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub process: u32,
    pub host: String,
    pub since: SystemTime,
}

impl Cache {
    /// `None` if another process computes the key.
    pub fn try_lock_key(&self, key: &Digest) -> Result<Option<KeyLock>> {
        Ok(FileLock::attempt(&self.key_lock_path(key), true)?.map(KeyLock))
    }

    /// Waits until no one else computes the key. `go_on` is asked every few milliseconds; `None` if it says no.
    pub fn lock_key(&self, key: &Digest, go_on: &mut dyn FnMut() -> bool) -> Result<Option<KeyLock>> {
        Ok(FileLock::wait(&self.key_lock_path(key), true, go_on)?.map(KeyLock))
    }

    fn key_lock_path(&self, key: &Digest) -> std::path::PathBuf {
        self.root().join("locks").join(key.to_hex())
    }

    /// The lock of the pipeline in `folder`. While another process holds it, `go_on` is asked every few milliseconds, with that
    /// holder as far as it is known; `None` if it says no.
    pub fn lock_pipeline(&self, folder: &Path, go_on: &mut dyn FnMut(Option<&Holder>) -> bool) -> Result<Option<PipelineLock>> {
        let folder = fs::canonicalize(folder).with_context(|| format!("looking for `{}`", folder.display()))?;
        let name = format!("pipeline-{}", Digest::of(folder.as_os_str().as_encoded_bytes()).short());
        let path = self.root().join("locks").join(name);
        let lock = FileLock::wait(&path, true, &mut || go_on(Holder::parse(&FileLock::said(&path)).as_ref()))?;
        let Some(mut lock) = lock else { return Ok(None) };
        lock.write(&Holder::this_process().to_text())?;
        Ok(Some(PipelineLock(lock)))
    }
}

impl Holder {
    fn this_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { process: std::process::id(), host, since: SystemTime::now() }
    }

    fn to_text(&self) -> String {
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        format!("{} {since} {}\n", self.process, self.host)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.splitn(3, ' ');
        let process = words.next()?.parse().ok()?;
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
        Some(Self { process, since, host: words.next()?.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_of_a_pipeline_is_told_who_runs_the_first() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let held = cache.lock_pipeline(temp.path(), &mut |_| false).unwrap().unwrap();
        let mut told = None;
        let second = cache.lock_pipeline(temp.path(), &mut |holder| {
            told = holder.cloned();
            false
        });
        assert!(second.unwrap().is_none());
        assert_eq!(told.unwrap().process, std::process::id());
        drop(held);
        assert!(cache.lock_pipeline(temp.path(), &mut |_| false).unwrap().is_some());
    }

    #[test]
    fn two_keys_do_not_wait_for_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let one = cache.try_lock_key(&Digest::of(b"1")).unwrap().unwrap();
        assert!(cache.try_lock_key(&Digest::of(b"1")).unwrap().is_none());
        assert!(cache.try_lock_key(&Digest::of(b"2")).unwrap().is_some());
        drop(one);
        assert!(cache.lock_key(&Digest::of(b"1"), &mut || false).unwrap().is_some());
    }
}
