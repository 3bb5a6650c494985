//! The program as a person runs it.

mod beside;
mod caring;
mod crowd;
mod doctor;
mod edits;
mod explaining;
mod foreign;
mod headers;
#[cfg(feature = "nn")]
mod keys;
mod reading;
#[cfg(feature = "nn")]
mod readme;
mod running;
mod selection;
mod single_stage;
mod standstill;
mod terminal;
mod watching;
#[cfg(feature = "libtorch")]
mod worker;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use loramill::engine::cache::Cache;
use loramill::engine::cache::locks::Claim;
use loramill::engine::kind::item_set;
use loramill::engine::lock_file::LockFile;

/// Photos with texts beside them, on their way to a training.
pub const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 64 }
  caption: { images: resize, model: sidecar }
  flip: { images: caption }
";

/// Runs the program in a folder, in an environment without models of its own.
pub fn loramill(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the program starts")
}

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loramill"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for name in ["LORAMILL_CACHE", "LORAMILL_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("HOME", folder).env("XDG_CONFIG_HOME", folder.join("config"));
    command
}

/// Exit code, stdout and stderr.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("ended by itself"), text(&output.stdout), text(&output.stderr))
}

/// Claims, as another process would, to be at the items that a stage made last.
pub fn claim_items_of(folder: &Path, stage: &str) -> (Cache, Claim) {
    let lock = LockFile::read(&folder.join("pipeline.lock")).expect("a lock");
    let cache = Cache::open(&folder.join("cache")).expect("it opens");
    let tree = cache.read(&lock.stages[stage][0].out).expect("the object is here");
    let keys: Vec<_> = item_set::decode(&tree).expect("a tree").into_iter().map(|item| item.key).collect();
    let (claim, taken) = cache.claim(&keys).expect("claimed");
    assert!(taken.is_empty(), "nobody else is at it");
    (cache, claim)
}
