//! What a pipeline reads from disk: a folder of photos, a file, or a model that is not here. Unaware of who reads it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use globset::GlobSet;

use crate::inputs::listing::InputFile;
use crate::syntax::tree::Span;

/// Something that is read from disk.
#[derive(Clone, Debug)]
pub struct Input {
    pub name: String,
    /// As written: `images/`, `model://sd-v1-5-pruned.ckpt`.
    pub written: String,
    /// Of what is written.
    pub span: Span,
    pub found: Found,
}

/// What lies where an input is written.
#[derive(Clone, Debug)]
pub enum Found {
    /// A folder of photos. Its items have the fields `image`, `photo` (the same file) and, where there is one, `sidecar`.
    Photos {
        folder: PathBuf,
        files: Vec<InputFile>,
        /// Photos that `skip:` leaves out, by name: nobody opens them.
        skipped: BTreeSet<String>,
        /// The files that are no pictures.
        beside: Vec<PathBuf>,
        /// What is not read of it, or read otherwise than its names say.
        notes: Vec<String>,
    },
    /// One file: one item with one field, see `InputUse::field_of_file`.
    File(PathBuf),
    /// A model from outside that is not here; only a stage that must run needs it. Holds the places where it was looked for.
    Absent(Vec<PathBuf>),
}

impl Input {
    /// The fields its items have, `None` where a file takes the place of any field.
    pub fn carries(&self) -> Option<&'static [&'static str]> {
        match self.found {
            Found::Photos { .. } => Some(crate::inputs::listing::FIELDS),
            Found::File(_) | Found::Absent(_) => None,
        }
    }

    /// The folder or the file; `None` if it is not here.
    pub fn path(&self) -> Option<&Path> {
        match &self.found {
            Found::Photos { folder, .. } => Some(folder),
            Found::File(path) => Some(path),
            Found::Absent(_) => None,
        }
    }
}

/// Which items are left out: photos from the first stage on, what a stage makes under a name of its own (`IMG_1-flip`) from
/// training.
#[derive(Clone, Debug, Default)]
pub struct Skip {
    /// As written.
    pub patterns: Vec<String>,
    pub globs: GlobSet,
}

impl Skip {
    /// `name` is that of an item; one that descends from a skipped photo under another name (`IMG_1-flip`) is the caller's to ask
    /// for.
    pub fn takes(&self, name: &str) -> bool {
        self.globs.is_match(name)
    }

    /// The patterns that match `name`, as indices into `patterns`.
    pub fn matching(&self, name: &str) -> Vec<usize> {
        self.globs.matches(name)
    }
}
