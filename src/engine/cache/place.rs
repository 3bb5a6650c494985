//! Where something lies, written so that no link in a cache leads elsewhere: the folder of the cache is opened once, and all
//! below it is reached from there without following a link, and cannot lead above it. Unaware of what lies where.
//!
//! Places outside of any cache are as a person names them: links on the way are theirs, and only the last name is not followed.
//!
//! The kernel does the walk in one call (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, Linux 5.6). Where it, or the
//! guard of a container, does not know that call, each step is opened on its own, and none of them may be a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::cache::regular_file::{self, Links};

/// A folder on the way, opened without following its name; it can be listed and made durable.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Nothing above, and no link on the way.
const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// A link was put in the place of a folder while the kernel walked: it asks to be asked again.
const ATTEMPTS: usize = 16;

/// Set when the kernel has answered that it does not walk so.
static WALKS_ALONE: AtomicBool = AtomicBool::new(false);

/// A folder that is held open, with the path under which it was found.
#[derive(Clone, Debug)]
pub(crate) struct Root(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    folder: OwnedFd,
}

impl Root {
    /// `path` is the user's: links are followed, once and for all.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A path that goes through no link of this name leads to the same folder later.
        let is_link = std::fs::symlink_metadata(path)?.is_symlink();
        let path = if is_link { std::fs::canonicalize(path)? } else { path.to_path_buf() };
        let folder = rustix::fs::open(&path, FOLDER, Mode::empty())?;
        Ok(Self(Arc::new(Held { path, folder })))
    }

    /// The path under which the folder was found, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The open folder. It stays the same when something else gets its path.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.0.folder.as_fd()
    }

    /// The place of a path below, which may be given in full.
    pub(crate) fn place(&self, below: impl AsRef<Path>) -> Place {
        let below = below.as_ref();
        let path = if below.starts_with(self.path()) { below.to_path_buf() } else { self.path().join(below) };
        Place { root: Some(self.clone()), path, around: None, itself: None }
    }

    /// A folder below, opened without following a link.
    pub(crate) fn enter(&self, below: &Path) -> io::Result<OwnedFd> {
        if !WALKS_ALONE.load(Ordering::Relaxed) {
            for _ in 0..ATTEMPTS {
                match rustix::fs::openat2(self.folder(), below, FOLDER, Mode::empty(), NO_LINKS) {
                    Err(Errno::AGAIN) => {}
                    Err(Errno::NOSYS | Errno::PERM) => {
                        WALKS_ALONE.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(Errno::LOOP | Errno::XDEV) => return Err(leads_elsewhere()),
                    // At a link that is the last name it stops without following it.
                    Err(Errno::NOTDIR) => break,
                    entered => return Ok(entered?),
                }
            }
        }
        self.walk(below, false)
    }

    /// Step by step; folders that are missing are made if that is asked for.
    fn walk(&self, below: &Path, make: bool) -> io::Result<OwnedFd> {
        let mut folder = rustix::io::fcntl_dupfd_cloexec(self.folder(), 0)?;
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(leads_elsewhere()) };
            folder = match rustix::fs::openat(&folder, name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    rustix::fs::openat(&folder, name, FOLDER, Mode::empty())
                }
                opened => opened,
            }
            // What is no folder, and a link to one, are reported alike.
            .map_err(|error| match error {
                Errno::LOOP => leads_elsewhere(),
                Errno::NOTDIR if is_link(&folder, name) => leads_elsewhere(),
                error => error.into(),
            })?;
        }
        Ok(folder)
    }
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
}

fn leads_elsewhere() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "a folder on the way is a link, and loramill makes none there: remove it")
}

/// The place of a file or folder.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    root: Option<Root>,
    /// In full, for messages.
    path: PathBuf,
    /// The folder that it lies in, where it is held open: many files are written there.
    around: Option<Arc<OwnedFd>>,
    /// This folder, held open.
    itself: Option<Arc<OwnedFd>>,
}

impl From<PathBuf> for Place {
    /// As a person names it.
    fn from(path: PathBuf) -> Self {
        Self { root: None, path, around: None, itself: None }
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.clone().into()
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

/// The folder in which a place lies, open.
enum Around<'p> {
    Held(BorrowedFd<'p>),
    Entered(OwnedFd),
}

impl AsFd for Around<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(folder) => folder.as_fd(),
            Self::Entered(folder) => folder.as_fd(),
        }
    }
}

impl Place {
    /// Another name in the same folder.
    pub(crate) fn beside(&self, name: impl AsRef<OsStr>) -> Self {
        Self { root: self.root.clone(), path: self.path.with_file_name(name), around: self.around.clone(), itself: None }
    }

    /// The folder that it lies in.
    pub(crate) fn folder(&self) -> Self {
        let path = self.path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self { root: self.root.clone(), path, around: None, itself: self.around.clone() }
    }

    /// With another ending.
    pub(crate) fn ending(&self, extension: &str) -> Self {
        Self { root: self.root.clone(), path: self.path.with_extension(extension), around: self.around.clone(), itself: None }
    }

    /// A place below this one.
    pub(crate) fn inside(&self, name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        let is_one_name = matches!((name.components().next(), name.components().nth(1)), (Some(Component::Normal(_)), None));
        let around = self.itself.clone().filter(|_| is_one_name);
        Self { root: self.root.clone(), path: self.path.join(name), around, itself: None }
    }

    /// The same folder, held open from here on for what lies directly in it.
    pub(crate) fn held(&self) -> io::Result<Self> {
        let itself = Some(Arc::new(self.open_folder()?.into()));
        Ok(Self { itself, ..self.clone() })
    }

    /// The folder that it lies in, and its name there.
    fn around(&self) -> io::Result<(Around<'_>, &OsStr)> {
        let name = self.path.file_name().ok_or(ErrorKind::InvalidInput)?;
        if let Some(around) = &self.around {
            return Ok((Around::Held(around.as_fd()), name));
        }
        let folder = self.path.parent().ok_or(ErrorKind::InvalidInput)?;
        let Some(root) = &self.root else {
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            return Ok((Around::Entered(rustix::fs::open(folder, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?), name));
        };
        let below = folder.strip_prefix(root.path()).map_err(|_| leads_elsewhere())?;
        let around = if below == Path::new("") { Around::Held(root.folder()) } else { Around::Entered(root.enter(below)?) };
        Ok((around, name))
    }

    /// Opens a regular file: for reading, or with flags of one's own.
    pub(crate) fn open(&self, flags: OFlags) -> io::Result<File> {
        if let Some(opened) = self.open_at_once(flags) {
            return regular_file::only_regular(opened.into());
        }
        let (around, name) = self.around()?;
        regular_file::open_as(around, Path::new(name), Links::Refused, flags)
    }

    /// A file that is there, below a cache, in one call. `None` if the kernel cannot, or where there is something to tell: the
    /// longer way does.
    fn open_at_once(&self, flags: OFlags) -> Option<OwnedFd> {
        let root = self.root.as_ref().filter(|_| self.around.is_none() && !flags.contains(OFlags::CREATE))?;
        let below = self.path.strip_prefix(root.path()).ok().filter(|_| !WALKS_ALONE.load(Ordering::Relaxed))?;
        rustix::fs::openat2(root.folder(), below, flags | OFlags::NOFOLLOW | regular_file::WARY, Mode::empty(), NO_LINKS).ok()
    }

    /// A new file for writing; the umask takes its share of `mode`.
    pub(crate) fn create_new(&self, mode: u32) -> io::Result<File> {
        let (around, name) = self.around()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(around, name, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// The contents of a regular file of at most `limit` bytes.
    pub(crate) fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        regular_file::read_open(&self.open(OFlags::RDONLY)?, limit)
    }

    /// Of what lies here itself, be it a link.
    pub(crate) fn stat(&self) -> io::Result<Stat> {
        let (around, name) = self.around()?;
        Ok(rustix::fs::statat(around, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether anything lies here, be it a link to nothing.
    pub(crate) fn is_there(&self) -> bool {
        self.stat().is_ok()
    }

    /// Whether a folder lies here; a link to one is none.
    pub(crate) fn is_folder(&self) -> bool {
        self.stat().is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir())
    }

    /// Removes a file, or a link itself.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (around, name) = self.around()?;
        Ok(rustix::fs::unlinkat(around, name, AtFlags::empty())?)
    }

    /// Removes a file or a folder with all that is in it; links in it go and are not followed.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        let (around, name) = self.around()?;
        remove_all(around.as_fd(), name)
    }

    /// Makes the folder, and those above it; in a cache none of them may be a link.
    pub(crate) fn make_folder(&self) -> io::Result<()> {
        let Some(root) = &self.root else { return std::fs::create_dir_all(&self.path) };
        let below = self.path.strip_prefix(root.path()).map_err(|_| leads_elsewhere())?;
        match root.enter(below) {
            Err(error) if error.kind() == ErrorKind::NotFound => root.walk(below, true).map(drop),
            entered => entered.map(drop),
        }
    }

    /// Removes a folder if nothing is in it.
    pub(crate) fn remove_empty_folder(&self) -> io::Result<()> {
        let (around, name) = self.around()?;
        Ok(rustix::fs::unlinkat(around, name, AtFlags::REMOVEDIR)?)
    }

    /// As `make_folder`, an error if it is there; the folder above must be.
    pub(crate) fn make_new_folder(&self) -> io::Result<()> {
        let (around, name) = self.around()?;
        Ok(rustix::fs::mkdirat(around, name, Mode::from_raw_mode(0o777))?)
    }

    /// The folder, open.
    pub(crate) fn open_folder(&self) -> io::Result<File> {
        let (around, name) = self.around()?;
        match rustix::fs::openat(around, name, FOLDER, Mode::empty()) {
            Err(Errno::LOOP) => Err(leads_elsewhere()),
            Err(Errno::NOTDIR) if self.is_link() => Err(leads_elsewhere()),
            opened => Ok(opened?.into()),
        }
    }

    fn is_link(&self) -> bool {
        self.stat().is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
    }

    /// Makes durable which names lie beside this one.
    pub(crate) fn sync_folder(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.around()?.0)?)
    }

    /// Over whatever lies at `to`.
    pub(crate) fn rename(&self, to: &Self) -> io::Result<()> {
        let ((from_folder, from), (to_folder, to)) = (self.around()?, to.around()?);
        Ok(rustix::fs::renameat(from_folder, from, to_folder, to)?)
    }

    /// As `rename`, with what the kernel is to heed.
    pub(crate) fn rename_with(&self, to: &Self, flags: RenameFlags) -> io::Result<()> {
        let ((from_folder, from), (to_folder, to)) = (self.around()?, to.around()?);
        Ok(rustix::fs::renameat_with(from_folder, from, to_folder, to, flags)?)
    }

    /// Gives a file a second name.
    pub(crate) fn link(&self, to: &Self) -> io::Result<()> {
        let ((from_folder, from), (to_folder, to)) = (self.around()?, to.around()?);
        Ok(rustix::fs::linkat(from_folder, from, to_folder, to, AtFlags::empty())?)
    }

    /// What lies in the folder, sorted.
    pub(crate) fn list(&self) -> io::Result<Vec<Self>> {
        let mut names = names_in(&self.open_folder()?.into())?;
        names.sort_unstable();
        Ok(names.into_iter().map(|name| self.inside(name)).collect())
    }
}

fn names_in(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_os_string());
        }
    }
    Ok(names)
}

fn remove_all(around: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(around, name, AtFlags::empty()) {
        // What `unlink` says of a folder depends on the file system.
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return Ok(removed?),
    }
    let folder = rustix::fs::openat(around, name, FOLDER, Mode::empty())?;
    for inside in names_in(&folder)? {
        match remove_all(folder.as_fd(), &inside) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(rustix::fs::unlinkat(around, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn bed() -> (tempfile::TempDir, Root) {
        let temp = tempfile::tempdir().unwrap();
        for folder in ["cache/a/b", "victim/b"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        for file in ["cache/a/b/file", "victim/file", "victim/b/file"] {
            fs::write(temp.path().join(file), "precious").unwrap();
        }
        symlink("../victim", temp.path().join("cache/link")).unwrap();
        symlink("../../victim/file", temp.path().join("cache/a/name")).unwrap();
        let root = Root::open(&temp.path().join("cache")).unwrap();
        (temp, root)
    }

    fn tries(root: &Root) {
        for place in ["link/file", "link/b/file", "../victim/file", "a/../../victim/file"] {
            let place = root.place(place);
            for error in [
                place.open(OFlags::RDONLY).map(drop).unwrap_err(),
                place.read(100).map(drop).unwrap_err(),
                place.stat().map(drop).unwrap_err(),
                place.remove().unwrap_err(),
                place.remove_all().unwrap_err(),
                place.beside("new").create_new(0o666).map(drop).unwrap_err(),
                place.beside("new").make_new_folder().unwrap_err(),
                place.beside("new").make_folder().unwrap_err(),
                place.rename(&root.place("a/here")).unwrap_err(),
                root.place("a/b/file").rename(&place).unwrap_err(),
                root.place("a/b/file").link(&place.beside("new")).unwrap_err(),
            ] {
                assert!(error.to_string().contains("is a link"), "{}: {error}", place.display());
            }
        }
        assert!(root.place("link").list().unwrap_err().to_string().contains("is a link"));
        root.place("a/name").open(OFlags::RDONLY).unwrap_err();
    }

    #[test]
    fn no_link_below_a_cache_is_followed_whichever_way_the_kernel_walks() {
        let (temp, root) = bed();
        tries(&root);
        WALKS_ALONE.store(true, Ordering::Relaxed);
        tries(&root);
        WALKS_ALONE.store(false, Ordering::Relaxed);
        root.place("a/name").remove().unwrap();
        root.place("link").remove_all().unwrap();
        for file in ["cache/a/b/file", "victim/file", "victim/b/file"] {
            assert_eq!(fs::read_to_string(temp.path().join(file)).unwrap(), "precious", "{file}");
        }
        assert_eq!(root.place("a").list().unwrap(), [root.place("a/b")]);
        root.place("c/d/e").make_folder().unwrap();
        symlink("../../victim", temp.path().join("cache/c/link")).unwrap();
        root.place("c").remove_all().unwrap();
        assert!(temp.path().join("victim/b/file").exists() && !temp.path().join("cache/c").exists());
    }

    #[test]
    fn a_cache_that_is_moved_away_is_held_and_not_what_took_its_name() {
        let (temp, root) = bed();
        fs::rename(temp.path().join("cache"), temp.path().join("moved")).unwrap();
        symlink("victim", temp.path().join("cache")).unwrap();
        root.place("b/file").read(100).unwrap_err();
        assert_eq!(root.place("a/b/file").read(100).unwrap(), b"precious");
        root.place("a/b/file").remove().unwrap();
        assert!(temp.path().join("victim/b/file").exists());
    }
}
