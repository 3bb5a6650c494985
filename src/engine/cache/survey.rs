//! What lies in a cache, and how much of it. Unaware of what is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use rustix::fs::FileType;
use walkdir::WalkDir;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::place::Place;
use crate::cache::records::{Completeness, Record};
use crate::cache::sweep::{age_of, list};

/// An object by its name; its contents are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Names that the file has, with those in `out/` folders.
    pub links: u64,
    /// Somebody may read it.
    pub is_readable: bool,
}

/// All that lies in `objects/`.
#[derive(Debug, Default)]
pub struct StoredObjects {
    /// In the order of their digests.
    pub objects: Vec<StoredObject>,
    /// What cannot be an object: another name, or no file.
    pub strays: Vec<PathBuf>,
}

/// What an interrupted run would go on from.
#[derive(Clone, Debug)]
pub struct StateFolder {
    pub key: Digest,
    /// In bytes.
    pub size: u64,
    /// Since the last change; `None` if nothing is in it.
    pub age: Option<Duration>,
}

impl Cache {
    /// Every object that is here.
    pub fn stored_objects(&self) -> Result<StoredObjects> {
        let folders = list(&self.place("objects"))?;
        let parts: Vec<StoredObjects> = folders.par_iter().map(objects_in).collect::<Result<_>>()?;
        let mut all = StoredObjects::default();
        for part in parts {
            all.objects.extend(part.objects);
            all.strays.extend(part.strays);
        }
        all.objects.sort_unstable_by_key(|object| object.digest);
        Ok(all)
    }

    /// The folders of state keys.
    pub fn stored_states(&self) -> Result<Vec<StateFolder>> {
        let mut states = Vec::new();
        for place in list(&self.place("state"))? {
            let name = place.file_name().and_then(|name| name.to_str());
            let Some(key) = name.and_then(|name| name.parse().ok()) else { continue };
            let files: Vec<PathBuf> = files_below(&place).collect();
            let age = files.iter().map(|file| age_of(&self.place(file))).min();
            states.push(StateFolder { key, size: files.iter().map(|file| size_of(file)).sum(), age });
        }
        Ok(states)
    }

    /// Bytes of all that lies in the cache.
    pub fn total_size(&self) -> u64 {
        files_below(self.root()).map(|file| size_of(&file)).sum()
    }

    /// Shows every record, the oldest first, and gives the number of those that this version cannot read.
    pub(crate) fn each_record(&self, see: &mut dyn FnMut(Completeness, Record)) -> Result<usize> {
        self.records()?.each(see)
    }
}

/// Bytes of a file; none if it is gone.
pub fn size_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

fn objects_in(folder: &Place) -> Result<StoredObjects> {
    let mut found = StoredObjects::default();
    let start = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !folder.is_folder() {
        found.strays.push(folder.to_path_buf());
        return Ok(found);
    }
    for path in list(folder)? {
        let rest = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = format!("{start}{rest}");
        let digest = name.parse::<Digest>().ok().filter(|digest| start.len() == 2 && digest.to_hex() == name);
        let stat = match path.stat() {
            Ok(stat) => stat,
            // Removed in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading `{}`", path.display())),
        };
        match digest.filter(|_| FileType::from_raw_mode(stat.st_mode).is_file()) {
            Some(digest) => found.objects.push(StoredObject {
                digest,
                size: stat.st_size as u64,
                links: stat.st_nlink,
                is_readable: stat.st_mode & 0o444 != 0,
            }),
            None => found.strays.push(path.to_path_buf()),
        }
    }
    Ok(found)
}

/// What cannot be listed counts as nothing: this is for sums.
fn files_below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = WalkDir::new(folder).follow_root_links(false).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_from_what_cannot_be_one() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let batch = cache.batch();
        let one = batch.put_bytes(b"one").unwrap();
        let two = batch.put_bytes(b"three").unwrap();
        batch.flush().unwrap();
        let objects = temp.path().join("objects");
        fs::write(objects.join("note"), "").unwrap();
        fs::create_dir_all(objects.join("ab").join("c".repeat(62))).unwrap();
        std::os::unix::fs::symlink("/nowhere", objects.join("ab").join("d".repeat(62))).unwrap();
        let found = cache.stored_objects().unwrap();
        let mut sizes: Vec<_> = found.objects.iter().map(|object| (object.size, object.digest)).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [(3, one.digest), (5, two.digest)]);
        assert_eq!(found.strays.len(), 3, "{:?}", found.strays);
    }

    #[test]
    fn a_state_is_as_old_as_its_newest_file() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let (full, empty) = (Digest::of(b"full"), Digest::of(b"empty"));
        cache.state_folder(&empty).unwrap();
        let folder = cache.state_folder(&full).unwrap();
        let day = Duration::from_secs(86400);
        for (name, days) in [("1.state", 40), ("2.state", 31)] {
            fs::write(folder.join(name), "12345").unwrap();
            let file = fs::File::options().append(true).open(folder.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - days * day).unwrap();
        }
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("file"), "of somebody else").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), temp.path().join("state").join(Digest::of(b"link").to_hex())).unwrap();
        let states = cache.stored_states().unwrap();
        assert_eq!(states.iter().map(|state| state.size).sum::<u64>(), 10, "no link is followed");
        let of = |key| states.iter().find(|state| state.key == key).unwrap();
        assert_eq!((of(full).size, of(full).age.unwrap().as_secs() / 86400), (10, 31));
        assert_eq!((of(empty).size, of(empty).age), (0, None));
    }
}
