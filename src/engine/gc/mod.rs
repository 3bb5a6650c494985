//! What of the cache does nothing need any more?
//!
//! ```text
//! roots ──► lock files of work trees, the index and commits ──live──► objects that are needed
//! runs that go on or were interrupted ─────────────────────────────► objects that are needed
//!                                                        the rest ──collect──► deleted
//! ```
//!
//! What cannot be read is a problem that stops the collection, and never an empty answer. `cost` says what is evicted first where
//! a cache must shrink, `git` asks the program `git` without trusting the repository. Imports `decide`, `lock_file`, `kind` and
//! `cache`.

pub mod git;
pub mod git_program;
pub mod roots;

mod cost;
mod live;

pub mod collect;
pub mod derived;
