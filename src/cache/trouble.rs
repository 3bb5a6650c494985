//! Words for what a disk answers: file, intention, remedy. Unaware of who asked.

use std::io;
use std::path::Path;

use anyhow::Error;

/// `error` as a sentence: what was tried (`writing`), on which path, and what the user can do about a full or a broken disk.
pub(crate) fn disk_trouble(error: io::Error, trying: &str, path: &Path) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there or name another place with `--cache DIR`, then run again: what is done stays done"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; make the folder writable or name another place with `--cache DIR`"
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "; the disk reports a defect: check it, or name another place with `--cache DIR`"
        }
        _ => "",
    };
    let message = format!("{trying} `{}`: {error}{remedy}", path.display());
    Error::new(error).context(message)
}
