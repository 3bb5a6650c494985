//! The keys of a run on a terminal: `q` ends a training with what it has, `s` saves and samples now. Unaware of how a training
//! does that.
//!
//! Keys come one by one only while the terminal hands them over unread by line; what it was set to is restored at the end of the
//! run, and at the first Ctrl-C, since the second ends the program on the spot.

use std::io::{self, IsTerminal as _, Stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::cli::terminal::console::{Console, Verb};
use crate::engine::run::control::StopRequests;

/// How long a key or the end of the run may go unnoticed: 200 ms.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Hears keys while `work` goes on, if standard input and error are the terminal of the user who started this.
pub fn hearing_keys<T>(console: &Console, requests: &StopRequests, work: impl FnOnce() -> T) -> T {
    let stdin = io::stdin();
    if !console.is_terminal() || !stdin.is_terminal() || is_in_background(&stdin) {
        return work();
    }
    let Ok(terminal) = ByKey::set(&stdin) else { return work() };
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| listen(terminal, console, requests, &ended));
        let outcome = work();
        ended.store(true, Ordering::SeqCst);
        outcome
    })
}

/// What the terminal was set to, for when a program that sets it may not come to set it back.
pub struct TerminalBefore(Option<Termios>);

impl TerminalBefore {
    /// Reads the settings of standard input. If that is no terminal, `restore` does nothing.
    pub fn note() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }

    /// For when the other program was killed or crashed. Does nothing in the background, where the terminal would stop this
    /// process.
    pub fn restore(&self) {
        let stdin = io::stdin();
        if let (Some(before), false) = (&self.0, is_in_background(&stdin)) {
            // If the terminal has gone away there is nothing to set.
            let _ = tcsetattr(&stdin, OptionalActions::Now, before);
        }
    }
}

/// A program in the background that sets the terminal is stopped by it.
fn is_in_background(stdin: &Stdin) -> bool {
    tcgetpgrp(stdin).is_ok_and(|foreground| foreground != rustix::process::getpgrp())
}

fn listen(terminal: ByKey<'_>, console: &Console, requests: &StopRequests, ended: &AtomicBool) {
    let mut has_told = false;
    while !ended.load(Ordering::SeqCst) && !requests.interrupted() {
        if requests.is_heard() && !has_told {
            has_told = true;
            console.line(
                Verb::Note,
                "`q` ends the training with what it has, `s` saves and samples now, Ctrl-C stops, and the same command resumes",
            );
        }
        let Some(key) = terminal.key() else { continue };
        let (is_heard, answer) = match key {
            b'q' | b'Q' => (requests.stop(), "the training ends at its next step and keeps what it has"),
            b's' | b'S' => (requests.save_now(), "the training saves at its next step, and what waits for it draws"),
            _ => continue,
        };
        let answer = if is_heard { answer } else { "no training is running; Ctrl-C stops the run" };
        console.line(Verb::Note, answer);
    }
}

/// Standard input without lines and echo, for as long as this lives.
struct ByKey<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> ByKey<'a> {
    fn set(stdin: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut by_key = before.clone();
        by_key.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // A read returns what is there, even if it is nothing.
        by_key.special_codes[SpecialCodeIndex::VMIN] = 0;
        by_key.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin, OptionalActions::Now, &by_key)?;
        Ok(Self { stdin, before })
    }

    /// The next key, or nothing after a while.
    fn key(&self) -> Option<u8> {
        let mut waits = [PollFd::new(self.stdin, PollFlags::IN)];
        let is_ready = poll(&mut waits, Some(&INTERVAL)).is_ok_and(|count| count > 0);
        let mut key = [0];
        (is_ready && rustix::io::read(self.stdin, &mut key).is_ok_and(|count| count == 1)).then_some(key[0])
    }
}

impl Drop for ByKey<'_> {
    fn drop(&mut self) {
        // If the terminal has gone away there is nothing to set.
        let _ = tcsetattr(self.stdin, OptionalActions::Now, &self.before);
    }
}
