//! What a run wrote into one folder below `out/`: path, contents and `stat` of each file. Lies in the cache; without it files are
//! hashed again. Unaware of items.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::OFlags;

use crate::cache::Cache;
use crate::cache::atomic;
use crate::cache::digest::Digest;
use crate::cache::encoding::{sealed, unsealed};
use crate::cache::place::Place;
use crate::cache::stat_index::FileStat;
use crate::cache::sweep::list;
use crate::cache::trouble::disk_trouble;
use crate::kind::names::is_plain_path;

const HEADER: &[u8; 16] = b"loramill-out 1\n\0";
const CHANGING_HEADER: &[u8; 16] = b"loramill-chg 1\n\0";
/// A list of a million files; a larger one is none.
const LARGEST: u64 = 256 << 20;
const UNSETTLED: Digest = Digest::from_bytes([0; 32]);

/// What loramill wrote into one folder. Empty by default: then nothing in it is known to be loramill's.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Manifest {
    /// Stands for what the folder shows; `None` while that changes.
    pub(crate) covers: Option<Digest>,
    /// In the order of the paths.
    pub(crate) entries: Vec<Entry>,
}

/// One file as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Below the folder.
    pub(crate) path: String,
    pub(crate) digest: Digest,
    pub(crate) stat: FileStat,
    /// A hard link of its object.
    pub(crate) linked: bool,
}

impl Entry {
    /// Whether a file with this `stat` is still the one that was written. Reads none of it.
    pub(crate) fn is_as(&self, found: &FileStat) -> bool {
        // Further links of an object change the time of its last change, though not its contents.
        let changed = if self.linked { self.stat.changed } else { found.changed };
        self.stat == FileStat { changed, ..*found }
    }
}

impl Manifest {
    /// Where the manifest of a folder lies.
    pub(crate) fn place(cache: &Cache, folder: &Path) -> Place {
        let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        cache.place("outputs").inside(Digest::of(full.as_os_str().as_encoded_bytes()).to_hex())
    }

    /// Whether the file says that the folder shows what `covers` stands for. Whether it is sound is not looked at.
    pub(crate) fn claims(place: impl Into<Place>, covers: &Digest) -> bool {
        let place = place.into();
        let mut start = [0; HEADER.len() + 32];
        let read = place.open(OFlags::RDONLY).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start.starts_with(HEADER) && start.ends_with(covers.as_bytes()) && !changing(&place).is_there()
    }

    /// Nothing is known if the file is missing or damaged.
    pub(crate) fn read(place: impl Into<Place>) -> Self {
        let place = place.into();
        let read = || {
            let mut manifest = Self::decode(&place.read(LARGEST).ok()?).ok()?;
            let forgotten = match changing(&place).read(LARGEST) {
                Ok(bytes) => decode_paths(&bytes).ok()?,
                Err(error) if error.kind() == ErrorKind::NotFound => return Some(manifest),
                Err(_) => return None,
            };
            manifest.covers = None;
            manifest.entries.retain(|entry| !forgotten.contains(&entry.path));
            Some(manifest)
        };
        read().unwrap_or_default()
    }

    /// From here until the manifest is written anew, nothing is known of the files at `paths`.
    pub(crate) fn forget<'p>(place: impl Into<Place>, paths: impl Iterator<Item = &'p str>) -> Result<()> {
        let paths: Vec<&str> = paths.collect();
        if paths.is_empty() {
            return Ok(());
        }
        let bytes = sealed(CHANGING_HEADER, |writer| {
            writer.number(paths.len() as u64);
            paths.into_iter().for_each(|path| writer.text(path));
        });
        atomic::replace(changing(&place.into()), &bytes)
    }

    /// Replaces the manifest, and ends the change that was noted beside it. Unsynced: after a power cut files are hashed again.
    pub(crate) fn write(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let folder = place.folder();
        folder.make_folder().map_err(|error| disk_trouble(error, "creating", &folder))?;
        // Whoever does not find it hashes the files again. They were made durable before.
        atomic::replace_unsynced(&place, &self.encode())?;
        match changing(&place).remove() {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_trouble(error, "removing", &changing(&place))),
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        sealed(HEADER, |writer| {
            writer.digest(&self.covers.unwrap_or(UNSETTLED));
            writer.number(self.entries.len() as u64);
            for entry in &self.entries {
                writer.text(&entry.path);
                writer.digest(&entry.digest);
                writer.bytes.extend_from_slice(&entry.stat.to_bytes());
                writer.number(entry.linked.into());
            }
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        unsealed(HEADER, bytes, |reader| {
            let covers = Some(reader.digest()?).filter(|covers| *covers != UNSETTLED);
            let count = reader.count()?;
            let entries = (0..count)
                .map(|_| {
                    let path = reader.text()?.to_string();
                    ensure!(is_plain_path(&path), "`{path}` leads out of its folder");
                    let digest = reader.digest()?;
                    let stat = FileStat::from_bytes(reader.bytes(40)?.try_into().expect("40 bytes were taken"));
                    Ok(Entry { path, digest, stat, linked: reader.number()? != 0 })
                })
                .collect::<Result<_>>()?;
            Ok(Self { covers, entries })
        })
    }
}

/// Files in `out/` folders that are copies of these objects, which turned out to be damaged, are no longer believed to be what
/// they were written as: the next run writes them anew.
pub(crate) fn distrust(cache: &Cache, damaged: &HashSet<Digest>) -> Result<()> {
    for place in list(&cache.place("outputs"))? {
        let mut manifest = Manifest::read(&place);
        let copies = manifest.entries.iter_mut().filter(|entry| damaged.contains(&entry.digest));
        let count = copies.map(|entry| entry.digest = UNSETTLED).count();
        if count > 0 {
            manifest.covers = None;
            manifest.write(&place)?;
        }
    }
    Ok(())
}

/// Beside a manifest, while files that it lists change: their paths.
fn changing(manifest: &Place) -> Place {
    manifest.ending("changing")
}

fn decode_paths(bytes: &[u8]) -> Result<HashSet<String>> {
    unsealed(CHANGING_HEADER, bytes, |reader| {
        let count = reader.count()?;
        (0..count).map(|_| reader.text().map(str::to_string)).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_change_are_forgotten_until_the_manifest_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest");
        let stat = FileStat { device: 1, inode: 2, size: 3, modified: 4, changed: 5 };
        let entry = |path: &str| Entry { path: path.into(), digest: Digest::of(b"x"), stat, linked: false };
        let covers = Digest::of(b"tree");
        let manifest = Manifest { covers: Some(covers), entries: vec![entry("a.png"), entry("b.png")] };
        manifest.write(&path).unwrap();
        assert!(Manifest::claims(&path, &covers));
        Manifest::forget(&path, ["a.png"].into_iter()).unwrap();
        assert!(!Manifest::claims(&path, &covers));
        assert_eq!(Manifest::read(&path), Manifest { covers: None, entries: vec![entry("b.png")] });
        let whole = fs::read(changing(&Place::from(&path))).unwrap();
        for length in 0..whole.len() {
            fs::write(changing(&Place::from(&path)), &whole[..length]).unwrap();
            assert_eq!(Manifest::read(&path), Manifest::default(), "cut at {length}");
        }
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path), manifest);
    }

    #[test]
    fn a_manifest_cut_anywhere_says_nothing() {
        let stat = FileStat { device: 1, inode: 2, size: 3, modified: 4, changed: 5 };
        let entry = Entry { path: "beach/IMG_1.png".into(), digest: Digest::of(b"x"), stat, linked: true };
        let manifest = Manifest { covers: Some(Digest::of(b"tree")), entries: vec![entry] };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_hard_link_may_get_more_links() {
        let stat = FileStat { device: 1, inode: 2, size: 3, modified: 4, changed: 5 };
        let entry = |linked| Entry { path: String::new(), digest: Digest::of(b""), stat, linked };
        assert!(entry(true).is_as(&FileStat { changed: 6, ..stat }));
        assert!(!entry(true).is_as(&FileStat { modified: 6, ..stat }));
        assert!(!entry(false).is_as(&FileStat { changed: 6, ..stat }));
    }
}
