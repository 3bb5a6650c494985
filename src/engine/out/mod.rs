//! What lies in `out/` under friendly names?
//!
//! ```text
//! out/train/e010.safetensors     a copy of an object of the cache
//!            │
//!            ├ in the manifest, as it was written    ours: may be replaced and withdrawn
//!            └ not in it, or changed since           a person's: set aside to `displaced`, and said
//! ```
//!
//! `materialise` brings a folder to what a tree lists, `shown` finds in it what the cache has not kept, `restore` fills it from a
//! lock file alone. Imports `graph`, `lock_file`, `kind` and `cache`.

pub(crate) mod earlier_shapes;
pub(crate) mod manifest;

pub mod folder;
pub mod materialise;
pub(crate) mod shown;

pub mod restore;
