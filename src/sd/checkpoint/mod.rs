//! Model files: containers (safetensors, PyTorch's pickles), the names of tensors in them, metadata. Knows nothing of Burn.

pub mod tensor;

mod contents;
pub mod model_file;
mod shown;

pub mod safetensors;

mod pickle;
mod torch;
mod zip_members;

pub mod ckpt;

pub mod drawable;
pub mod family;
pub mod key;
pub mod layout;

pub mod metadata;
pub mod modules;

pub mod carry;
pub mod convert;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file beside `path` and renames it over `path` when it is complete: nobody ever sees half a model.
fn write_atomically<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || -> Result<T> {
        let mut builder = tempfile::Builder::new();
        // The umask decides, as for any file a program writes.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        let written = write(file.as_file_mut())?;
        file.persist(path)?;
        Ok(written)
    };
    attempt().with_context(|| format!("writing the model file `{}`", path.display()))
}
