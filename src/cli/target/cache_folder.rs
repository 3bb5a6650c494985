//! Which cache a command uses, and what is said of it. Unaware of what the command does there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::wording::shown;
use crate::engine::cache::Cache;
use crate::engine::cache::locate::is_ours;
use crate::engine::graph::pipeline::Pipeline;

/// What every command takes that looks after a cache.
#[derive(Args)]
pub struct CacheArguments {
    /// A folder that uses the cache [default: the current one]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl CacheArguments {
    /// The folder that uses the cache.
    pub fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }

    /// The cache that the folder uses already.
    ///
    /// # Errors
    /// `WrongArguments` if there is none: then there is nothing to clean, and none is made.
    pub fn open(&self, global: &Global) -> anyhow::Result<Cache> {
        let root = locate(self.folder(), global);
        if !is_ours(&root) {
            let text = format!("`{}` is not a loramill cache: name one with `--cache DIR`", root.display());
            return Err(WrongArguments(text).into());
        }
        open_at(&root, global)
    }
}

/// The folder of the cache for a pipeline in `folder`; it need not be there.
pub fn locate(folder: &Path, global: &Global) -> PathBuf {
    Cache::locate(folder, global.cache().as_deref())
}

/// The cache for a pipeline in `folder`, which is made if it is not there.
pub fn open_for(folder: &Path, global: &Global) -> anyhow::Result<Cache> {
    open_at(&locate(folder, global), global)
}

/// The cache that belongs to a pipeline.
pub fn open_cache(pipeline: &Pipeline, global: &Global) -> anyhow::Result<Cache> {
    open_for(&pipeline.folder, global)
}

/// The cache in `root`. If that is a link, it is followed this once, and a line names the folder behind it.
pub fn open_at(root: &Path, global: &Global) -> anyhow::Result<Cache> {
    let is_named = global.cache().is_some_and(|named| named == root);
    let opened = if is_named { Cache::open_named(root) } else { Cache::open(root) };
    let cache = opened.with_context(|| format!("opening the cache `{}`", root.display()))?;
    if fs::symlink_metadata(root).is_ok_and(|found| found.is_symlink()) {
        global.say(&format!("`{}` is a link: the cache is `{}`", shown(root), cache.root().display()));
    }
    Ok(cache)
}
