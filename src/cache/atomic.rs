//! Replaces a whole file so that a reader, a kill or a full disk sees the old or the new one and nothing between. Unaware of contents.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;

use crate::cache::faults;
use crate::cache::trouble::disk_trouble;

/// Writes `bytes` beside `path`, makes them durable and renames.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let trouble = |error| disk_trouble(error, "writing", path);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // The mode a plain `create` asks for; the umask takes its share.
    let mode = fs::metadata(path).map_or(0o666, |old| old.permissions().mode());
    let mut file = tempfile::Builder::new()
        .prefix(".loramill-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(trouble)?;
    faults::pass("atomic.write").and_then(|()| file.write_all(bytes)).map_err(trouble)?;
    faults::pass("atomic.sync").and_then(|()| file.as_file().sync_all()).map_err(trouble)?;
    faults::pass("atomic.rename").map_err(trouble)?;
    file.persist(path).map_err(|error| trouble(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old").unwrap();
        for place in ["atomic.write", "atomic.sync", "atomic.rename"] {
            arm(place, 0, Fault::DiskFull);
            let error = replace(&path, b"new").unwrap_err();
            assert!(disarm());
            assert!(format!("{error:#}").contains("free space"), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
