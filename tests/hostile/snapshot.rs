//! What lies in a folder, and what changed in it: kinds, modes, times, targets of links and every byte.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use loramill::engine::cache::digest::Digest;
use walkdir::WalkDir;

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    modified: (i64, i64),
    /// Bytes of a file, target of a link; nothing of other things.
    contents: Digest,
}

/// All below a folder, by path.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Of `folder`, without what lies below those of `left_out`.
    pub fn of(folder: &Path, left_out: &[PathBuf]) -> Self {
        let mut entries = BTreeMap::new();
        let walk = WalkDir::new(folder).into_iter().filter_entry(|entry| left_out.iter().all(|out| entry.path() != out));
        for entry in walk {
            let entry = entry.expect("the ground can be read");
            let metadata = entry.metadata().expect("the ground can be read");
            let is_folder = metadata.is_dir();
            let contents = if metadata.is_file() {
                Digest::of(&std::fs::read(entry.path()).expect("the ground can be read"))
            } else if metadata.is_symlink() {
                Digest::of(std::fs::read_link(entry.path()).expect("a link").as_os_str().as_encoded_bytes())
            } else {
                Digest::of(b"")
            };
            // The folder around what is left out changes with it.
            let holds_others = is_folder && entry.depth() == 0;
            let modified = if holds_others { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) };
            entries.insert(entry.into_path(), Entry { mode: metadata.mode(), modified, contents });
        }
        Self(entries)
    }

    /// What is another now, one line each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, entry) in &self.0 {
            match now.0.get(path) {
                None => found.push(format!("deleted `{}`", path.display())),
                Some(other) if other != entry => found.push(format!("changed `{}`", path.display())),
                Some(_) => {}
            }
        }
        found.extend(now.0.keys().filter(|path| !self.0.contains_key(*path)).map(|path| format!("made `{}`", path.display())));
        found
    }
}
