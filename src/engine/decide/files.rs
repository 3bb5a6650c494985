//! The bytes of artifacts: objects of the cache, and input files where they lie. Unaware of who reads them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::stat_index::FileStat;
use crate::decide::intake::{Intake, read_unchanged};
use crate::kind::item::Artifact;
use crate::kind::stage::Files;

/// Artifacts by their digest: objects of the cache, and input files where they lie.
pub struct ArtifactFiles<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) intake: &'a Intake,
    /// Input files that were given by their path: they must be unchanged when the stage ends.
    given: Mutex<BTreeMap<PathBuf, Digest>>,
    /// Objects that were given by their path, as they were when all their bytes were looked at.
    checked: Mutex<HashMap<Digest, FileStat>>,
}

impl<'a> ArtifactFiles<'a> {
    /// Has given out no path yet: `check_unchanged` looks at those that it gives from here on.
    pub fn new(cache: &'a Cache, intake: &'a Intake) -> Self {
        Self { cache, intake, given: Mutex::default(), checked: Mutex::default() }
    }

    /// The inputs whose files it gives.
    pub(crate) const fn intake(&self) -> &'a Intake {
        self.intake
    }

    /// An error if an input file that was given by its path has changed since it was hashed.
    pub fn check_unchanged(&self) -> Result<()> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, digest) in given.iter() {
            let (now, _) = self.cache.digest_file(path)?;
            if now != *digest {
                bail!("`{}` was changed while the stage was reading it, so its result is discarded: run again", path.display());
            }
        }
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, before) in checked.iter() {
            if FileStat::of(&self.cache.path(digest)).ok() != Some(*before) {
                self.cache
                    .check_object(digest)
                    .context("an object changed while the stage was reading it, so its result is discarded")?;
            }
        }
        Ok(())
    }

    /// Where an object lies, after all its bytes were looked at; again only if it changed since.
    fn object(&self, digest: &Digest) -> Result<PathBuf> {
        let path = self.cache.path(digest);
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = checked.get(digest);
        if before.is_none_or(|before| FileStat::of(&path).ok() != Some(*before)) {
            checked.insert(*digest, self.cache.check_object(digest)?);
        }
        Ok(path)
    }

    /// The error for contents that cannot be given: an input that is not here, or an object that has left the cache.
    pub(crate) fn lost(&self, artifact: &Artifact) -> anyhow::Error {
        match self.intake.absent.get(&artifact.digest) {
            Some(absent) => absent.error(),
            None => anyhow!("object {} is no longer in the cache: run again to make it anew", artifact.digest.short()),
        }
    }
}

impl Files for ArtifactFiles<'_> {
    fn path(&self, artifact: &Artifact) -> Result<PathBuf> {
        if let Some(path) = self.intake.places.get(&artifact.digest) {
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), artifact.digest);
            return Ok(path.clone());
        }
        if self.cache.contains(&artifact.digest, artifact.size) {
            return self.object(&artifact.digest);
        }
        Err(self.lost(artifact))
    }

    fn read(&self, artifact: &Artifact) -> Result<Vec<u8>> {
        if let Some(path) = self.intake.places.get(&artifact.digest) {
            return read_unchanged(path, &artifact.digest, artifact.size);
        }
        if self.cache.contains(&artifact.digest, artifact.size) {
            return self.cache.read(&artifact.digest);
        }
        Err(self.lost(artifact))
    }
}
