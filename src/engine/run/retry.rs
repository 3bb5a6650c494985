//! Tries again after transient failures. Unaware of what is tried.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cache::trouble::answer;

/// Before the second attempt; each pause is four times as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a pause looks whether it should end.
const GLANCE: Duration = Duration::from_millis(20);

/// `EIO`: what a disk or a network file system says when it is troubled.
const INPUT_OUTPUT_ERROR: i32 = 5;

/// An error of which a stage knows that it may pass: a program that it called failed, a device was busy.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct MayPass(pub anyhow::Error);

/// Whether a failure is transient: a stage says so, or the system was short of something or did not answer. What is wrong with an
/// input stays wrong.
pub fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<MayPass>() || answer(cause).is_some_and(is_passing))
}

fn is_passing(error: &io::Error) -> bool {
    let kinds = [
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionAborted,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::Deadlock,
        ErrorKind::ExecutableFileBusy,
        ErrorKind::HostUnreachable,
        ErrorKind::Interrupted,
        ErrorKind::NetworkDown,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NotConnected,
        ErrorKind::OutOfMemory,
        ErrorKind::QuotaExceeded,
        ErrorKind::ResourceBusy,
        ErrorKind::StaleNetworkFileHandle,
        ErrorKind::StorageFull,
        ErrorKind::TimedOut,
        ErrorKind::WouldBlock,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(INPUT_OUTPUT_ERROR)
}

/// Does `work`, up to `retries` times again after transient failures. `is_over` ends it, `tell` gets each further attempt by its
/// number, before its pause.
///
/// # Errors
/// That of the last attempt.
pub fn attempts<T>(
    retries: u32,
    is_over: &dyn Fn() -> bool,
    tell: &dyn Fn(u32, &anyhow::Error),
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut attempt = 1;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if attempt > retries || is_over() || !may_pass(&error) {
            return Err(if attempt == 1 { error } else { error.context(format!("after {attempt} attempts")) });
        }
        attempt += 1;
        tell(attempt, &error);
        let started = Instant::now();
        while started.elapsed() < pause && !is_over() {
            thread::sleep(GLANCE.min(pause));
        }
        pause = (pause * 4).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use anyhow::{Context as _, anyhow};

    use super::*;

    /// How often it was tried, what was told, and how it ended.
    fn tried(retries: u32, fails: u32, error: fn() -> anyhow::Error) -> (u32, Vec<u32>, Result<(), String>) {
        let (count, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let ended = attempts(retries, &|| false, &|attempt, _| told.borrow_mut().push(attempt), || {
            count.set(count.get() + 1);
            if count.get() <= fails { Err(error()) } else { Ok(()) }
        });
        (count.get(), told.into_inner(), ended.map_err(|error| format!("{error:#}")))
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_again_and_each_attempt_is_told() {
        let busy = || anyhow!(MayPass(anyhow!("the device is busy"))).context("drawing");
        assert_eq!(tried(2, 1, busy), (2, vec![2], Ok(())));
        assert_eq!(tried(1, 9, busy), (2, vec![2], Err("after 2 attempts: drawing: the device is busy".to_string())));
        assert_eq!(tried(0, 1, busy), (1, vec![], Err("drawing: the device is busy".to_string())));
    }

    #[test]
    fn a_failure_that_stays_is_not_tried_again() {
        assert_eq!(tried(5, 1, || anyhow!("rank is 0")).0, 1);
        let missing = || io::Error::from(ErrorKind::NotFound).into();
        assert_eq!(tried(5, 1, missing).0, 1);
    }

    #[test]
    fn a_system_that_is_short_of_something_may_have_it_later() {
        let full = || Err::<(), _>(io::Error::from(ErrorKind::StorageFull)).context("writing `x`").unwrap_err();
        assert!(may_pass(&full()));
        assert!(may_pass(&io::Error::from_raw_os_error(INPUT_OUTPUT_ERROR).into()));
        assert!(!may_pass(&io::Error::from(ErrorKind::UnexpectedEof).into()));
    }

    #[test]
    fn a_stop_request_ends_it() {
        let started = Instant::now();
        let error = attempts::<()>(100, &|| true, &|_, _| {}, || Err(anyhow!(MayPass(anyhow!("busy"))))).unwrap_err();
        assert_eq!(error.to_string(), "busy");
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
