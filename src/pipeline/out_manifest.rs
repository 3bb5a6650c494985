//! What a run wrote into one folder below `out/`: path, contents and `stat` of each file. Lies in the cache; without it files are hashed
//! again. Unaware of items.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::cache::Cache;
use crate::cache::atomic;
use crate::cache::digest::Digest;
use crate::cache::encoding::{Reader, Writer};
use crate::cache::stat_index::FileStat;
use crate::cache::trouble::disk_trouble;

const HEADER: &[u8; 16] = b"loramill-out 1\n\0";
const UNSETTLED: Digest = Digest::from_bytes([0; 32]);

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Manifest {
    /// Stands for what the folder shows; `None` while that changes.
    pub(crate) covers: Option<Digest>,
    /// In the order of the paths.
    pub(crate) entries: Vec<Entry>,
}

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
    pub(crate) fn is_as(&self, found: &FileStat) -> bool {
        // Further links of an object change the time of its last change, though not its contents.
        let changed = if self.linked { self.stat.changed } else { found.changed };
        self.stat == FileStat { changed, ..*found }
    }
}

impl Manifest {
    /// Where the manifest of a folder lies.
    pub(crate) fn path(cache: &Cache, folder: &Path) -> PathBuf {
        let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        cache.root().join("outputs").join(Digest::of(full.as_os_str().as_encoded_bytes()).to_hex())
    }

    /// Nothing is known if the file is missing or damaged.
    pub(crate) fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| Self::decode(&bytes).ok()).unwrap_or_default()
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| disk_trouble(error, "creating", folder))?;
        }
        match self.covers {
            // Whoever does not find it hashes the files again. They were made durable before.
            Some(_) => atomic::replace_unsynced(path, &self.encode()),
            // What a later change of the folder has forgotten must stay forgotten.
            None => atomic::replace(path, &self.encode()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes.extend_from_slice(HEADER);
        writer.digest(&self.covers.unwrap_or(UNSETTLED));
        writer.number(self.entries.len() as u64);
        for entry in &self.entries {
            writer.text(&entry.path);
            writer.digest(&entry.digest);
            writer.bytes.extend_from_slice(&entry.stat.to_bytes());
            writer.number(entry.linked.into());
        }
        let checksum = Digest::of(&writer.bytes);
        writer.digest(&checksum);
        writer.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(32));
        ensure!(Digest::of(content).as_bytes() == checksum, "damaged");
        let mut reader = Reader::new(content);
        ensure!(reader.bytes(HEADER.len())? == HEADER, "of another version");
        let covers = Some(reader.digest()?).filter(|covers| *covers != UNSETTLED);
        let count = reader.count()?;
        let entries = (0..count)
            .map(|_| {
                let path = reader.text()?.to_string();
                let digest = reader.digest()?;
                let stat = FileStat::from_bytes(reader.bytes(40)?.try_into().expect("40 bytes were taken"));
                Ok(Entry { path, digest, stat, linked: reader.number()? != 0 })
            })
            .collect::<Result<_>>()?;
        reader.finish()?;
        Ok(Self { covers, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
