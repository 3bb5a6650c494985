//! What does each command do?
//!
//! One file or folder for each: its arguments, which are its page of `--help`, and `run`, which returns the exit code.
//!
//! ```text
//! init check graph stages completions      read and explain files
//! plan run watch do_kind                   build
//! status stop explain                      what is there, what goes on, and why
//! edits skip                               what a person decides
//! restore gc fsck                          `out/` and the cache
//! doctor libtorch bench self_test          the computer
//! ```

pub(crate) mod check;
mod check_photos;
pub(crate) mod completions;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod stages;

pub(crate) mod do_kind;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod watch;

pub(crate) mod explain;
pub(crate) mod status;
pub(crate) mod stop;

pub(crate) mod edits;
pub(crate) mod skip;

pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod restore;

#[cfg(feature = "nn")]
pub(crate) mod bench;
pub mod doctor;
pub(crate) mod libtorch;
#[cfg(feature = "nn")]
pub(crate) mod self_test;
