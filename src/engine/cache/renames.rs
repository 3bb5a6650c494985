//! Renames that overwrite nothing, also where the file system knows none of its own. Unaware of what the files are.

use std::io::{self, ErrorKind};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::cache::faults;
use crate::cache::place::Place;

/// Renames, but never over something.
///
/// # Errors
/// `AlreadyExists` if there is a file `to`.
pub(crate) fn rename_new(from: impl Into<Place>, to: impl Into<Place>) -> io::Result<()> {
    let (from, to) = (from.into(), to.into());
    let renamed = faults::pass("rename.noreplace").and_then(|()| from.rename_with(&to, RenameFlags::NOREPLACE));
    match renamed {
        Err(error) if is_unsupported(&error) => {
            from.link(&to)?;
            faults::pass("rename.unlink")?;
            from.remove()
        }
        result => result,
    }
}

/// Exchanges two files in one step, where the file system can: an error for which `is_unsupported` holds says that it cannot.
/// False if one of them is not there.
pub(crate) fn exchange(one: impl Into<Place>, other: impl Into<Place>) -> io::Result<bool> {
    faults::pass("rename.exchange")?;
    match one.into().rename_with(&other.into(), RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file system answered that it has no such operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
