//! Objects: contents under the name of their digest, read-only, never changed. Unaware of records and of what the contents are.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::cache::digest::Digest;
use crate::cache::trouble::disk_trouble;

/// The folder `objects/`.
#[derive(Debug)]
pub(crate) struct Objects {
    folder: PathBuf,
    /// The same, open: from here the kernel finds an object without walking the way to the folder, and a run asks for every one.
    opened: OwnedFd,
}

impl Objects {
    /// The folder must be there.
    pub(crate) fn at(folder: PathBuf) -> Result<Self> {
        let opened = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| disk_trouble(error.into(), "opening", &folder))?;
        Ok(Self { folder, opened })
    }

    /// Where the object lies, if it is here.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.folder.join(&hex[..2]).join(&hex[2..])
    }

    /// Whether the object is here and has its size. One of another size is damaged and as good as none.
    pub(crate) fn contains(&self, digest: &Digest, size: u64) -> bool {
        let mut below = digest.to_hex();
        below.insert(2, '/');
        let found = rustix::fs::statat(&self.opened, below, AtFlags::empty());
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file() && found.st_size as u64 == size)
    }

    /// The contents, checked. A damaged object is taken away, so that it counts as missing from now on.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let remove = || fs::remove_file(&path).with_context(|| format!("removing the damaged object `{}`", path.display()));
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(_) => {
                remove()?;
                bail!("object {} in the cache is damaged and was removed: run again to make it anew", digest.short())
            }
            Err(error) if is_unreadable(&error) => {
                remove()?;
                bail!(
                    "object {} in the cache cannot be read ({error}) and was removed: run again to make it anew",
                    digest.short()
                )
            }
            Err(error) => {
                Err(error).with_context(|| format!("reading object {} from the cache: run again to make it anew", digest.short()))
            }
        }
    }

    /// Moves a durable file to its place; `source` must be on the same file system.
    pub(crate) fn adopt(&self, source: &Path, digest: &Digest) -> std::io::Result<()> {
        let path = self.path(digest);
        match fs::rename(source, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().expect("an object lies in a folder"))?;
                fs::rename(source, &path)
            }
            result => result,
        }
    }
}

/// Whether it is the object that cannot be read, and not this process that is short of something.
pub(crate) fn is_unreadable(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
