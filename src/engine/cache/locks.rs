//! Who works on what: one process at a time computes a key, and one runs a pipeline. The kernel releases the locks of the dead.
//!
//! Keys that are computed many at a time are claimed together: `locks/claim-<number>` lists them, and is locked as long as that
//! lasts. Who holds a claim waits for no other, so that nobody waits in a circle.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;
use crate::cache::place::Place;
use crate::cache::sweep::list;

/// Starts the names of claims.
const CLAIM: &str = "claim-";

/// Held while keys are computed that nobody else computes.
#[derive(Debug)]
pub struct Claim(#[allow(dead_code, reason = "held, never read")] Option<FileLock>);

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
        Ok(FileLock::attempt(self.key_lock(key), true)?.map(KeyLock))
    }

    /// Waits until no one else computes the key. `go_on` is asked every few milliseconds; `None` if it says no.
    pub fn lock_key(&self, key: &Digest, go_on: &mut dyn FnMut() -> bool) -> Result<Option<KeyLock>> {
        Ok(FileLock::wait(self.key_lock(key), true, go_on)?.map(KeyLock))
    }

    /// Claims those of `keys` that no other process, and no other thread of this one, has claimed. Also the others: those are
    /// computed elsewhere at this time. Waits for none of them.
    pub fn claim(&self, keys: &[Digest]) -> Result<(Claim, HashSet<Digest>)> {
        let folder = self.place("locks");
        // Held for the moment in which claims are compared.
        let _comparing = FileLock::take(folder.inside("claims"))?;
        let mut taken = HashSet::new();
        for path in list(&folder)? {
            let is_claim = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(CLAIM.as_bytes()));
            if is_claim && FileLock::attempt(&path, true)?.is_none() {
                taken.extend(FileLock::said(&path).lines().filter_map(|line| line.parse::<Digest>().ok()));
            }
        }
        let ours: HashSet<&Digest> = keys.iter().collect();
        taken.retain(|key| ours.contains(key));
        let mut said = String::with_capacity(keys.len() * 65);
        for key in keys.iter().filter(|key| !taken.contains(key)) {
            said.push_str(&key.to_hex());
            said.push('\n');
        }
        if said.is_empty() {
            return Ok((Claim(None), taken));
        }
        for number in 0u32.. {
            if let Some(mut lock) = FileLock::attempt(folder.inside(format!("{CLAIM}{number}")), true)? {
                lock.write(&said)?;
                return Ok((Claim(Some(lock)), taken));
            }
        }
        unreachable!("there is always another number")
    }

    fn key_lock(&self, key: &Digest) -> Place {
        self.place("locks").inside(key.to_hex())
    }

    /// The lock of the pipeline in `folder`. While another process holds it, `go_on` is asked every few milliseconds, with that
    /// holder as far as it is known; `None` if it says no.
    pub fn lock_pipeline(&self, folder: &Path, go_on: &mut dyn FnMut(Option<&Holder>) -> bool) -> Result<Option<PipelineLock>> {
        let folder = fs::canonicalize(folder).with_context(|| format!("looking for `{}`", folder.display()))?;
        let name = format!("pipeline-{}", Digest::of(folder.as_os_str().as_encoded_bytes()).short());
        let place = self.place("locks").inside(name);
        let lock = FileLock::wait(&place, true, &mut || go_on(Holder::parse(&FileLock::said(&place)).as_ref()))?;
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
    fn of_keys_that_are_claimed_twice_the_second_gets_only_the_free_ones() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let [one, two, three] = [b"1", b"2", b"3"].map(|text| Digest::of(text));
        let (first, taken) = cache.claim(&[one, two]).unwrap();
        assert!(taken.is_empty());
        let (second, taken) = cache.claim(&[two, three]).unwrap();
        assert_eq!(taken, HashSet::from([two]));
        let (third, taken) = cache.claim(&[one, three]).unwrap();
        assert_eq!(taken, HashSet::from([one, three]));
        drop((first, third));
        let (first, taken) = cache.claim(&[one, two, three]).unwrap();
        assert_eq!(taken, HashSet::from([three]));
        drop((first, second));
        // One that a killed process left behind claims nothing.
        fs::write(temp.path().join("locks/claim-0"), format!("{}\n", one.to_hex())).unwrap();
        assert!(cache.claim(&[one]).unwrap().1.is_empty());
        assert!(!temp.path().join("locks/claim-0").exists());
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
