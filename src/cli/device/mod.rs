//! What runs the networks: which device, and which process?
//!
//! ```text
//! launch   this process or the worker? ──► worker  starts it in this one's place and waits ──► worker_end  what is said if it was killed
//!                                     └──► admit   a device of CubeCL's only after it was compared
//! choose   what `auto` is: the first card that passed, else the processor
//! probe    compares a card in a process of its own ──► start  that process, or the worker, with its environment
//! compared what a comparison depends on, and the note that it was passed
//! check    whether a device may be there          names   what a name means in this build
//! orders   what the worker gets: device, stop     signals  Ctrl-C       request  what a command asks for
//! ```
//!
//! A build without libtorch has no worker, one without networks uses no device; the code is the same, and `orders::HAS_WORKER`
//! and `names` tell them apart. Imports `global`, `exit` and `terminal`, never a command.

pub(crate) mod names;
pub(crate) mod orders;

pub(crate) mod request;
pub(crate) mod signals;
pub(crate) mod start;

pub(crate) mod check;
mod compared;
pub(crate) mod probe;

mod admit;
mod choose;

mod worker;
mod worker_end;

pub(crate) mod launch;
