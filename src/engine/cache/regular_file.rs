//! Opens and reads files that somebody else may have put there, so that nothing in their place stops or exhausts the reader: no
//! named pipe that nobody writes to, no device without an end, no file larger than its reader expects. Unaware of what the files
//! say.
//!
//! An error tells what lies there and what to do; who asked adds the path.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// Whether the last part of a path may be a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// For files that a person names or lays down, as photos: whoever owns the project may keep them elsewhere.
    Followed,
    /// For files that loramill itself writes or replaces.
    Refused,
}

/// Why something is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Link,
    Pipe,
    Socket,
    Device,
    /// More than so many bytes.
    LargerThan(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => write!(f, "it is a link, which is not followed here: put the file itself in its place"),
            Self::Pipe => write!(f, "it is a named pipe: put a file in its place"),
            Self::Socket => write!(f, "it is a socket: put a file in its place"),
            Self::Device => write!(f, "it is a device: put a file in its place"),
            Self::LargerThan(limit) => write!(f, "it has more than {}, the most that is read of such a file", Size(*limit)),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = if matches!(refusal, Refusal::LargerThan(_)) { ErrorKind::FileTooLarge } else { ErrorKind::InvalidInput };
        Self::new(kind, refusal)
    }
}

/// Whether an error says that something else lies there than what may be read.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Refusal>())
}

/// Waits for nobody who would write to a pipe, and makes no terminal that of this process.
pub(crate) const WARY: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a regular file for reading. Waits for nobody, whatever lies there.
///
/// # Errors
/// A `Refusal` for what is no file; `IsADirectory` for a folder.
pub fn open(path: &Path, links: Links) -> io::Result<File> {
    open_at(CWD, path, links)
}

/// As `open`, for a path below an open folder.
pub fn open_at(folder: impl AsFd, path: &Path, links: Links) -> io::Result<File> {
    open_as(folder, path, links, OFlags::RDONLY)
}

/// As `open_at`, with flags of one's own: `RDWR`, `APPEND`.
pub(crate) fn open_as(folder: impl AsFd, path: &Path, links: Links, flags: OFlags) -> io::Result<File> {
    let no_links = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
    let opened = openat(folder, path, flags | WARY | no_links, Mode::from_raw_mode(0o666));
    match opened {
        Ok(opened) => only_regular(opened.into()),
        Err(Errno::LOOP) if links == Links::Refused => Err(Refusal::Link.into()),
        Err(Errno::NXIO) => Err(Refusal::Socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// What was opened with `WARY`, if it is a regular file.
pub(crate) fn only_regular(file: File) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        FileType::Directory => Err(Errno::ISDIR.into()),
        FileType::Fifo => Err(Refusal::Pipe.into()),
        FileType::Socket => Err(Refusal::Socket.into()),
        _ => Err(Refusal::Device.into()),
    }
}

/// The contents of a regular file of at most `limit` bytes.
///
/// # Errors
/// A `Refusal` for what is no file or a larger one.
pub fn read(path: &Path, links: Links, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path, links)?, limit)
}

/// As `read`, as text.
pub fn read_text(path: &Path, links: Links, limit: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, links, limit)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// What is left to read of an open file, at most `limit` bytes. A file that is known to be larger costs no memory.
pub fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if size > limit {
        return Err(Refusal::LargerThan(limit).into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // It may grow while it is read: one byte more than allowed tells.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(Refusal::LargerThan(limit).into()) } else { Ok(bytes) }
}

/// Bytes in the largest unit that divides them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(bytes, _)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((bytes, unit)) => write!(f, "{} {unit}", self.0 / bytes),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::mknodat;

    use super::*;

    fn refusal(path: &Path, links: Links) -> Refusal {
        let error = read(path, links, 1 << 10).unwrap_err();
        *error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn pipes_devices_sockets_links_and_folders_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        for links in [Links::Followed, Links::Refused] {
            assert_eq!(read(&at("file"), links, 4).unwrap(), b"text");
            assert_eq!(refusal(&at("pipe"), links), Refusal::Pipe);
            assert_eq!(refusal(&at("socket"), links), Refusal::Socket);
            assert_eq!(refusal(Path::new("/dev/zero"), links), Refusal::Device);
            assert_eq!(read(folder.path(), links, 4).unwrap_err().kind(), ErrorKind::IsADirectory);
            assert_eq!(read(&at("none"), links, 4).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(refusal(&at("link"), Links::Refused), Refusal::Link);
        assert_eq!(refusal(&at("zero"), Links::Refused), Refusal::Link);
        assert_eq!(refusal(&at("zero"), Links::Followed), Refusal::Device);
        assert_eq!(read_text(&at("link"), Links::Followed, 4).unwrap(), "text");
    }

    #[test]
    fn a_file_larger_than_its_reader_expects_is_refused_by_its_size_and_costs_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(4 << 40).unwrap();
        assert_eq!(refusal(&path, Links::Refused), Refusal::LargerThan(1 << 10));
        let error = read(&path, Links::Refused, 64 << 20).unwrap_err().to_string();
        assert_eq!(error, "it has more than 64 MiB, the most that is read of such a file");
        // Without a size of its own that it would admit.
        let endless = Path::new("/proc/self/maps");
        assert_eq!(refusal(endless, Links::Refused), Refusal::LargerThan(1 << 10));
    }
}
