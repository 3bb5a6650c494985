//! Renames that overwrite nothing, also where the file system knows none of its own. Unaware of what the files are.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::cache::faults;

/// Renames, but never over something.
///
/// # Errors
/// `AlreadyExists` if there is a file `to`.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let renamed = match faults::pass("rename.noreplace") {
        Ok(()) => renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from),
        Err(error) => Err(error),
    };
    match renamed {
        Err(error) if is_unsupported(&error) => {
            fs::hard_link(from, to)?;
            faults::pass("rename.unlink")?;
            fs::remove_file(from)
        }
        result => result,
    }
}

/// Exchanges two files in one step, where the file system can: an error for which `is_unsupported` holds says that it cannot. False if
/// one of them is not there.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    faults::pass("rename.exchange")?;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(io::Error::from) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file system answered that it has no such operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
