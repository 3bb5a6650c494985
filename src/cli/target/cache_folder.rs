//! Which cache a command uses, and what is said of it. Unaware of what the command does there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::{Global, shown};
use crate::engine::cache::Cache;

/// The folder of the cache for a pipeline in `folder`; it need not be there.
pub fn locate(folder: &Path, global: &Global) -> PathBuf {
    Cache::locate(folder, global.cache().as_deref())
}

/// The cache for a pipeline in `folder`, which is made if it is not there.
pub fn open_for(folder: &Path, global: &Global) -> anyhow::Result<Cache> {
    open_at(&locate(folder, global), global)
}

/// The cache in `root`. That it is another folder than its name says is told: the link is followed this once.
pub fn open_at(root: &Path, global: &Global) -> anyhow::Result<Cache> {
    let is_named = global.cache().is_some_and(|named| named == root);
    let opened = if is_named { Cache::open_named(root) } else { Cache::open(root) };
    let cache = opened.with_context(|| format!("opening the cache `{}`", root.display()))?;
    if fs::symlink_metadata(root).is_ok_and(|found| found.is_symlink()) {
        global.say(&format!("`{}` is a link: the cache is `{}`", shown(root), cache.root().display()));
    }
    Ok(cache)
}
