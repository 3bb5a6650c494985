//! Objects: contents under the name of their digest, read-only, never changed. Unaware of records and of what the contents are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use crate::cache::digest::Digest;
use crate::cache::file_digest::{self, CopyError};
use crate::cache::met_damage;
use crate::cache::place::{Place, Root};
use crate::cache::regular_file;
use crate::cache::stat_index::FileStat;
use crate::cache::trouble::disk_trouble;

/// What is read whole is a text or a picture; models are read in parts.
pub(crate) const LARGEST_READ: u64 = 1 << 30;
/// A list of what a stage gave: of a million items.
pub(crate) const LARGEST_LIST: u64 = 128 << 20;

/// From this size on a second look in the same process costs more than to remember the first.
const SEEN_FROM: u64 = 16 << 20;

/// The folder `objects/`.
#[derive(Debug)]
pub(crate) struct Objects {
    folder: Place,
    /// The same, open: from here the kernel finds an object without walking the way to the folder, and a run asks for every one.
    opened: File,
    /// Of the 256 folders in it, those that are known to be folders and no links; one bit each.
    parts: [AtomicU64; 4],
    /// Where it is noted what was damaged.
    notes: Place,
    /// Large objects of which this process wrote or read every byte, with their files as they were then.
    seen: Mutex<HashMap<Digest, FileStat>>,
}

impl Objects {
    /// The folder must be there.
    pub(crate) fn at(root: &Root) -> Result<Self> {
        let folder = root.place("objects");
        let opened = folder.open_folder().map_err(|error| disk_trouble(error, "opening", &folder))?;
        Ok(Self { folder, opened, parts: Default::default(), notes: root.place("damaged"), seen: Mutex::default() })
    }

    /// Where the object lies, if it is here.
    pub(crate) fn place(&self, digest: &Digest) -> Place {
        let hex = digest.to_hex();
        self.folder.inside(&hex[..2]).inside(&hex[2..])
    }

    /// As `place`, for messages and for callers outside of the cache. Links on the way are followed.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.place(digest).to_path_buf()
    }

    /// Whether the object is here and has its size. One of another size is damaged and as good as none.
    pub(crate) fn contains(&self, digest: &Digest, size: u64) -> bool {
        self.stat(digest).is_some_and(|found| found.st_size as u64 == size)
    }

    /// Of the file that lies in the place of the object.
    fn stat(&self, digest: &Digest) -> Option<Stat> {
        let mut below = digest.to_hex();
        if !self.is_part(digest.as_bytes()[0], &below[..2]) {
            return None;
        }
        below.insert(2, '/');
        let found = rustix::fs::statat(&self.opened, below, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        FileType::from_raw_mode(found.st_mode).is_file().then_some(found)
    }

    /// Before one that was made anew takes the place of one of another size: results may have been made from that.
    pub(crate) fn note_if_damaged(&self, digest: &Digest, size: u64) {
        if let Some(found) = self.stat(digest).filter(|found| found.st_size as u64 != size) {
            self.note_damaged(digest, &found);
        }
    }

    fn note_damaged(&self, digest: &Digest, found: &Stat) {
        // A note that cannot be written costs a hint; the damaged object must go in any case.
        let _ = met_damage::note(&self.notes, digest, FileStat::from(found).modified);
    }

    /// Whether a folder of objects is one, and no link to a folder. Asked of the kernel once: what is opened or removed is found
    /// without following links in any case.
    fn is_part(&self, number: u8, name: &str) -> bool {
        let (word, bit) = (&self.parts[usize::from(number / 64)], 1u64 << (number % 64));
        if word.load(Ordering::Relaxed) & bit != 0 {
            return true;
        }
        let is_folder = self.folder.inside(name).is_folder();
        if is_folder {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        is_folder
    }

    /// The object, open and not yet checked.
    pub(crate) fn open(&self, digest: &Digest) -> io::Result<File> {
        self.place(digest).open(OFlags::RDONLY)
    }

    /// The contents of at most `most` bytes, checked. A damaged object is taken away, so that it counts as missing from now on.
    pub(crate) fn read(&self, digest: &Digest, most: u64) -> Result<Vec<u8>> {
        let read = self.open(digest).and_then(|file| match regular_file::read_open(&file, most) {
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                let has_grown = file.metadata()?.len() <= LARGEST_READ && file_digest::of_open(file)?.0 != *digest;
                if has_grown { Ok(None) } else { Err(error) }
            }
            read => read.map(Some),
        });
        match read {
            Ok(Some(bytes)) if Digest::of(&bytes) == *digest => Ok(bytes),
            read => Err(self.refuse(digest, read.map(drop))),
        }
    }

    /// As they are, not checked: of a list or a text.
    pub(crate) fn peek(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.open(digest).and_then(|file| regular_file::read_open(&file, LARGEST_LIST)).ok()
    }

    /// Reads every byte of an object that is about to be used. A damaged one is taken away, so that it counts as missing from now
    /// on.
    pub(crate) fn check(&self, digest: &Digest) -> Result<FileStat> {
        let read = self.open(digest).and_then(|file| {
            let stat = FileStat::from(&file.metadata()?);
            let is_seen = self.seen().get(digest) == Some(&stat);
            Ok((if is_seen { *digest } else { file_digest::of_open(file)?.0 }, stat))
        });
        match read {
            Ok((found, stat)) if found == *digest => {
                self.note_seen(digest, stat);
                Ok(stat)
            }
            read => Err(self.refuse(digest, read.map(drop))),
        }
    }

    /// Copies the object, checked on the way. A damaged one is taken away, so that it counts as missing from now on.
    pub(crate) fn copy(&self, digest: &Digest, source: File, target: &mut impl io::Write) -> Result<()> {
        match file_digest::copy(source, target) {
            Ok(found) if found == *digest => Ok(()),
            Ok(_) => Err(self.refuse(digest, Ok(()))),
            Err(CopyError::Reading(error)) => Err(self.refuse(digest, Err(error))),
            Err(CopyError::Writing(error)) => Err(error.into()),
        }
    }

    /// Takes away an object that is not what its name says (`Ok`), or that cannot be read, and gives the error to tell.
    pub(crate) fn refuse(&self, digest: &Digest, read: io::Result<()>) -> anyhow::Error {
        let object = digest.short();
        let message = match read {
            Ok(()) => format!("object {object} in the cache is damaged and was removed: run again to make it anew"),
            Err(error) if is_unreadable(&error) => {
                format!("object {object} in the cache cannot be read ({error}) and was removed: run again to make it anew")
            }
            Err(error) => {
                let reading = format!("reading object {object} from the cache: run again to make it anew");
                return anyhow::Error::new(error).context(reading);
            }
        };
        if let Some(found) = self.stat(digest) {
            self.note_damaged(digest, &found);
        }
        match self.place(digest).remove() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let place = self.place(digest);
                anyhow::Error::new(error).context(format!("removing the damaged object `{}`", place.display()))
            }
            _ => Damaged { digest: *digest, message }.into(),
        }
    }

    /// Moves a durable file to its place, of which this process has just written or read every byte; `source` must be on the same
    /// file system.
    pub(crate) fn adopt(&self, source: &Place, digest: &Digest, size: u64) -> io::Result<()> {
        let place = self.place(digest);
        match source.rename(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                place.folder().make_folder()?;
                source.rename(&place)?;
            }
            result => result?,
        }
        if size >= SEEN_FROM
            && let Some(found) = self.stat(digest)
        {
            self.note_seen(digest, FileStat::from(&found));
        }
        Ok(())
    }

    fn note_seen(&self, digest: &Digest, stat: FileStat) {
        if stat.size >= SEEN_FROM {
            self.seen().insert(*digest, stat);
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Digest, FileStat>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object was not what its name says, and is gone.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Damaged {
    pub(crate) digest: Digest,
    message: String,
}

/// Whether it is the object that cannot be read, and not this process that is short of something.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
