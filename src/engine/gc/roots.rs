//! The lock files that say what of a cache is needed: of the work trees, and of the history, of every repository that uses it.
//! Unaware of what the digests in them stand for.
//!
//! What cannot be read is a problem that says what to do, and never an empty answer: an unplugged disk names nothing, and all
//! that it would name would be deleted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::locate::{is_ours, repository_around};
use crate::cache::regular_file::is_refusal;
use crate::gc::git::{Repository, WorkTree};
use crate::lock_file::LockFile;

const LOCK: &str = "pipeline.lock";

/// What lock files name.
#[derive(Debug, Default)]
pub struct Roots {
    /// By the folder of the pipeline: the lock in the work tree.
    pub pipelines: BTreeMap<PathBuf, Vec<Digest>>,
    /// In the index or in commits that can be reached.
    pub history: HashSet<Digest>,
    /// What could be read, and how.
    pub repositories: Vec<RootRepository>,
    /// Why this is not all.
    pub problems: Vec<RootProblem>,
}

/// A repository, or a folder outside of any, whose pipelines use the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRepository {
    pub path: PathBuf,
    /// False if no git history belongs to it.
    pub has_history: bool,
    /// Of lock files in its work trees.
    pub locks: usize,
}

/// Something that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootProblem {
    pub path: PathBuf,
    pub text: String,
}

impl Roots {
    /// Reads the locks of all repositories that the cache knows but the `forgotten` ones, and of the one around `here`.
    pub fn read(cache: &Cache, here: &Path, history: bool, forgotten: &[PathBuf]) -> anyhow::Result<Self> {
        let mut roots = Self::default();
        for root in known_roots(cache, here, forgotten)? {
            // In this order: a lock that is committed while this goes on has been seen in the work tree.
            let trees = roots.read_work_trees(&root);
            if let (Some(trees), true) = (trees, history) {
                roots.read_history(&root, &trees);
            }
        }
        Ok(roots)
    }

    /// Adds what the work trees name now.
    pub fn read_work_trees_again(&mut self) {
        let before: Vec<PathBuf> = self.repositories.drain(..).map(|repository| repository.path).collect();
        for root in before {
            self.read_work_trees(&root);
        }
    }

    fn problem(&mut self, path: &Path, text: String) {
        let problem = RootProblem { path: path.to_path_buf(), text };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The work trees of the repository; `None` if something is wrong with it.
    fn read_work_trees(&mut self, root: &Path) -> Option<Vec<WorkTree>> {
        let shown = root.display();
        let gone = format!(
            "if it is gone for good, `loramill gc --forget {shown}`; if it has moved, `loramill run` there; else make it \
             readable again"
        );
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                self.problem(root, format!("`{shown}` used this cache and is no folder any more: {gone}"));
                return None;
            }
            Err(error) => {
                self.problem(root, format!("`{shown}` uses this cache and cannot be read ({error}): {gone}"));
                return None;
            }
        }
        let has_history = root.join(".git").exists();
        let trees = if has_history {
            match Repository(root).work_trees() {
                Ok(trees) => trees,
                Err(error) => {
                    self.problem(root, format!("{error:#}"));
                    return None;
                }
            }
        } else {
            vec![WorkTree { path: root.to_path_buf(), is_gone: false }]
        };
        let mut locks = 0;
        let vanished: BTreeSet<&Path> = trees.iter().filter(|tree| tree.is_gone).map(|tree| tree.path.as_path()).collect();
        let mut all: BTreeSet<&Path> = trees.iter().map(|tree| tree.path.as_path()).collect();
        all.insert(root);
        for tree in all {
            if vanished.contains(tree) || !tree.is_dir() {
                self.tree_is_gone(tree, root);
            } else {
                locks += self.read_work_tree(tree);
            }
        }
        if !has_history && locks == 0 && !has_pipeline(root) {
            // An empty mount point looks like this.
            self.problem(root, format!("`{shown}` used this cache, and there is neither a pipeline nor a lock file: {gone}"));
            return None;
        }
        self.repositories.push(RootRepository { path: root.to_path_buf(), has_history, locks });
        Some(trees)
    }

    fn tree_is_gone(&mut self, tree: &Path, root: &Path) {
        let text = format!(
            "the work tree `{}` of `{}` is gone: `git -C {1} worktree prune` if that is so for good",
            tree.display(),
            root.display()
        );
        self.problem(tree, text);
    }

    fn read_work_tree(&mut self, tree: &Path) -> usize {
        let mut locks = 0;
        for entry in WalkDir::new(tree).into_iter().filter_entry(may_hold_locks) {
            let entry = match entry {
                Ok(entry) => entry,
                // A file or folder that went while it was listed.
                Err(error) if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) => continue,
                Err(error) => {
                    let path = error.path().unwrap_or(tree).to_path_buf();
                    self.problem(&path, format!("a lock file may lie in `{}`: {error}: make it readable", path.display()));
                    continue;
                }
            };
            if entry.file_name() != LOCK || entry.file_type().is_dir() {
                continue;
            }
            match LockFile::read(entry.path()) {
                Ok(lock) => {
                    locks += 1;
                    let folder = entry.path().parent().unwrap_or(tree).to_path_buf();
                    self.pipelines.entry(folder).or_default().extend(lock.digests());
                }
                Err(error) => {
                    let cause = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
                    let remedy = match cause {
                        Some(cause) if cause.kind() == std::io::ErrorKind::FileTooLarge => ": remove it",
                        // It says what to do.
                        Some(cause) if is_refusal(cause) => "",
                        _ => ": make it readable",
                    };
                    self.problem(entry.path(), format!("{error:#}{remedy}"));
                }
            }
        }
        locks
    }

    fn read_history(&mut self, root: &Path, trees: &[WorkTree]) {
        if !root.join(".git").exists() {
            return;
        }
        let mut names = HashSet::new();
        let mut see = |text: &[u8]| names.extend(LockFile::parse(&String::from_utf8_lossy(text)).digests());
        let trees: Vec<PathBuf> = trees.iter().filter(|tree| !tree.is_gone).map(|tree| tree.path.clone()).collect();
        let mut read = Repository(root).each_committed_lock(&trees, &mut see);
        for tree in trees.iter().filter(|tree| tree.is_dir()) {
            read = read.and_then(|()| Repository(tree).each_staged_lock(&mut see));
        }
        self.history.extend(names);
        if let Err(error) = read {
            self.problem(root, format!("{error:#}"));
        }
    }
}

/// The repositories that the cache knows but the `forgotten` ones, and the one around `here`, if there is a pipeline or a
/// repository.
pub fn known_roots(cache: &Cache, here: &Path, forgotten: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut roots: BTreeSet<PathBuf> = cache.roots()?.into_iter().filter(|root| !forgotten.contains(root)).collect();
    if let Ok(around) = repository_around(here)
        && (around.join(".git").exists() || around.join(LOCK).exists())
    {
        roots.insert(around);
    }
    Ok(roots)
}

/// Everything but the insides of git and caches of ours: the tag of another program's cache says nothing of a pipeline in or
/// below it.
fn may_hold_locks(entry: &DirEntry) -> bool {
    if !entry.file_type().is_dir() || entry.depth() == 0 {
        return true;
    }
    let is_cache = || is_ours(entry.path()) && entry.path().join("objects").is_dir();
    entry.file_name() != ".git" && !is_cache()
}

fn has_pipeline(root: &Path) -> bool {
    let entries = WalkDir::new(root).into_iter().filter_entry(may_hold_locks).filter_map(Result::ok);
    entries.into_iter().any(|entry| entry.file_name() == "pipeline.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_written_in_the_meantime_counts_and_so_does_the_one_before() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let pipeline = fs::canonicalize(temp.path()).unwrap().join("deep/star");
        fs::create_dir_all(&pipeline).unwrap();
        cache.register_root(&pipeline).unwrap();
        let write = |digest: Digest| fs::write(pipeline.join(LOCK), format!("stage a key={digest} out={digest} n=1\n")).unwrap();
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        write(first);
        let mut roots = Roots::read(&cache, temp.path(), true, &[]).unwrap();
        write(second);
        roots.read_work_trees_again();
        assert_eq!(roots.pipelines[&pipeline], [first, first, second, second]);
        assert_eq!(roots.repositories, [RootRepository { path: pipeline, has_history: false, locks: 1 }]);
        assert_eq!(roots.problems, []);
    }

    #[test]
    fn the_cache_itself_and_the_insides_of_git_are_not_searched() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        fs::write(temp.path().join(LOCK), "").unwrap();
        for folder in ["cache/tmp", ".git"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
            fs::write(temp.path().join(folder).join(LOCK), "").unwrap();
        }
        let mut roots = Roots::default();
        assert_eq!(roots.read_work_tree(temp.path()), 1);
        drop(cache);
    }

    #[test]
    fn the_tag_of_another_programs_cache_hides_no_lock_in_it_or_below_it() {
        const OF_ANOTHER: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# made by another program\n";
        let temp = tempfile::tempdir().unwrap();
        for folder in ["", "scratch", "scratch/star"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
            fs::write(temp.path().join(folder).join("CACHEDIR.TAG"), OF_ANOTHER).unwrap();
            fs::write(temp.path().join(folder).join(LOCK), "").unwrap();
        }
        assert_eq!(Roots::default().read_work_tree(temp.path()), 3);
        // Nor does ours where no cache is.
        let of_ours = temp.path().join("elsewhere");
        drop(Cache::open(&of_ours).unwrap());
        fs::copy(of_ours.join("CACHEDIR.TAG"), temp.path().join("scratch/CACHEDIR.TAG")).unwrap();
        fs::copy(of_ours.join("CACHEDIR.TAG"), temp.path().join("CACHEDIR.TAG")).unwrap();
        assert_eq!(Roots::default().read_work_tree(temp.path()), 3);
    }
}
