//! Where the cache lies, how a folder is marked as one, and which repositories use it.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::digest::Digest;
use crate::cache::file_lock::FileLock;
use crate::cache::place::{Place, Root};
use crate::cache::regular_file::{self, Links};
use crate::cache::sweep::list;
use crate::cache::trouble::{disk_trouble, list_trouble};
use crate::cache::{Cache, atomic};

const TAG: &str = "CACHEDIR.TAG";
/// The first line is fixed by <https://bford.info/cachedir/>.
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55
# This folder holds artifacts that loramill makes again when they are missing; backup programs may skip it.
";
const SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55";
/// A tag is a line or two; more of it is not looked at.
const LONGEST_TAG: u64 = 4 << 10;
/// Of a root: one path.
pub(crate) const LONGEST_PATH: u64 = 64 << 10;

impl Cache {
    /// The folder of the cache for a pipeline: `explicit` if given, else the nearest `cache/` upward that is tagged as one of
    /// loramill, else one beside the git root, else one beside the pipeline. It need not exist.
    pub fn locate(pipeline_folder: &Path, explicit: Option<&Path>) -> PathBuf {
        if let Some(explicit) = explicit {
            return explicit.to_path_buf();
        }
        // A relative path has no parents to look at.
        let folder = fs::canonicalize(pipeline_folder).unwrap_or_else(|_| pipeline_folder.to_path_buf());
        let tagged = folder.ancestors().map(|above| above.join("cache")).find(|cache| is_ours(cache));
        let beside_git = || folder.ancestors().find(|above| above.join(".git").exists()).map(|root| root.join("cache"));
        tagged.or_else(beside_git).unwrap_or_else(|| folder.join("cache"))
    }

    /// Notes that the repository around `folder` uses this cache: its lock files name what must be kept.
    pub fn register_root(&self, folder: &Path) -> Result<()> {
        let root = repository_around(folder)?;
        let text = root.as_os_str().as_bytes();
        let path = self.root_file(&root);
        if self.is_passing || path.read(LONGEST_PATH).is_ok_and(|known| known == text) {
            return Ok(());
        }
        let roots = self.place("roots");
        roots.make_folder().map_err(|error| disk_trouble(error, "creating", &roots))?;
        // Who collects at this moment must have read this list before, or find this repository in it.
        let _turn = FileLock::share(self.sweep_lock())?;
        atomic::replace(&path, text)
    }

    /// The cache for a pipeline whose folder goes when the command ends: it is not registered as a repository that uses the
    /// cache.
    pub fn for_a_passing_pipeline(mut self) -> Self {
        self.is_passing = true;
        self
    }

    /// Whether the pipeline will be there when the command has ended.
    pub(crate) const fn belongs_to_a_lasting_pipeline(&self) -> bool {
        !self.is_passing
    }

    /// The repositories, and folders outside of any, that use this cache.
    pub fn roots(&self) -> Result<Vec<PathBuf>> {
        let mut roots = Vec::new();
        for path in list(&self.place("roots"))? {
            let is_unfinished = path.file_name().is_none_or(|name| name.as_bytes().starts_with(b"."));
            if !is_unfinished {
                let bytes = path.read(LONGEST_PATH).map_err(|error| list_trouble(error, "reading", &path))?;
                roots.push(PathBuf::from(OsString::from_vec(bytes)));
            }
        }
        roots.sort();
        Ok(roots)
    }

    /// Forgets a repository that is gone for good; false if it was not known.
    pub fn forget_root(&self, root: &Path) -> Result<bool> {
        let path = self.root_file(root);
        match path.remove() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk_trouble(error, "removing", &path)),
        }
    }

    fn root_file(&self, root: &Path) -> Place {
        self.place("roots").inside(Digest::of(root.as_os_str().as_bytes()).short())
    }
}

/// The root of the repository that `folder` lies in; `folder` itself if it lies in none.
pub fn repository_around(folder: &Path) -> Result<PathBuf> {
    let folder = fs::canonicalize(folder).with_context(|| format!("looking for `{}`", folder.display()))?;
    let root = folder.ancestors().find(|above| above.join(".git").exists());
    Ok(root.unwrap_or(&folder).to_path_buf())
}

/// Whether a folder is marked as a cache of loramill, and of no other program.
pub fn is_ours(cache: &Path) -> bool {
    tag_of(cache).is_some_and(|tag| tag.starts_with(SIGNATURE.as_bytes()) && tag.windows(8).any(|word| word == b"loramill"))
}

fn tag_of(cache: &Path) -> Option<Vec<u8>> {
    let mut tag = Vec::new();
    regular_file::open(&cache.join(TAG), Links::Refused).ok()?.take(LONGEST_TAG).read_to_end(&mut tag).ok()?;
    Some(tag)
}

/// Marks the folder as a cache of loramill by a `CACHEDIR.TAG`, which also keeps backup programs out. Replaces the tag of another
/// program.
pub(crate) fn tag(root: &Root) -> Result<()> {
    if is_ours(root.path()) { Ok(()) } else { atomic::replace(root.place(TAG), TAG_TEXT.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tagged_cache_wins_then_the_git_root_then_the_pipeline() {
        let temp = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(temp.path()).unwrap();
        let pipeline = top.join("repo/pipelines/cat");
        fs::create_dir_all(&pipeline).unwrap();
        assert_eq!(Cache::locate(&pipeline, None), pipeline.join("cache"));
        fs::create_dir(top.join("repo/.git")).unwrap();
        assert_eq!(Cache::locate(&pipeline, None), top.join("repo/cache"));
        fs::create_dir(top.join("repo/pipelines/cache")).unwrap();
        assert_eq!(Cache::locate(&pipeline, None), top.join("repo/cache"), "a folder that only has the name");
        fs::write(top.join("repo/pipelines/cache").join(TAG), format!("{SIGNATURE}\n# Of another program.\n")).unwrap();
        assert_eq!(Cache::locate(&pipeline, None), top.join("repo/cache"), "one of another program");
        tag(&Root::open(&top.join("repo/pipelines/cache")).unwrap()).unwrap();
        assert_eq!(Cache::locate(&pipeline, None), top.join("repo/pipelines/cache"));
        assert_eq!(Cache::locate(&pipeline, Some(Path::new("/x"))), Path::new("/x"));
    }

    #[test]
    fn a_repository_registers_once() {
        let temp = tempfile::tempdir().unwrap();
        let pipeline = temp.path().join("repo/pipelines/cat");
        fs::create_dir_all(&pipeline).unwrap();
        fs::create_dir(temp.path().join("repo/.git")).unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        cache.register_root(&pipeline).unwrap();
        cache.register_root(&temp.path().join("repo")).unwrap();
        let root = fs::canonicalize(temp.path()).unwrap().join("repo");
        assert_eq!(cache.roots().unwrap(), std::slice::from_ref(&root));
        assert!(cache.forget_root(&root).unwrap() && !cache.forget_root(&root).unwrap());
        let cache = cache.for_a_passing_pipeline();
        cache.register_root(&pipeline).unwrap();
        assert!(cache.roots().unwrap().is_empty());
    }
}
