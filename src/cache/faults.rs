//! Places where a test lets the disk fail or the process die. Outside tests every place is passed.

/// Whether a test let this process die: then nothing cleans up any more.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_dead() -> bool {
    false
}

/// Passes, or fails as the test of this thread armed it.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn pass(_place: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use armed::{Fault, arm, disarm, is_dead, pass};

#[cfg(test)]
mod armed {
    use std::cell::RefCell;
    use std::io;

    #[derive(Clone, Copy)]
    pub(crate) enum Fault {
        /// What a full disk answers.
        DiskFull,
        /// What a broken disk answers.
        BrokenDisk,
        /// What a file system answers that cannot do it.
        Unsupported,
        /// The process is gone: whoever sees this returns at once and cleans nothing up.
        Killed,
    }

    struct Armed {
        place: &'static str,
        /// Passes before it strikes.
        after: usize,
        fault: Fault,
    }

    thread_local! {
        static ARMED: RefCell<Option<Armed>> = const { RefCell::new(None) };
    }

    /// Lets `place` fail in this thread from the pass after the next `after` on, until `disarm`.
    pub(crate) fn arm(place: &'static str, after: usize, fault: Fault) {
        ARMED.with_borrow_mut(|armed| *armed = Some(Armed { place, after, fault }));
    }

    /// True if the place was reached often enough to fail.
    pub(crate) fn disarm() -> bool {
        ARMED.with_borrow_mut(|armed| armed.take().is_none_or(|armed| armed.after == 0))
    }

    pub(crate) fn is_dead() -> bool {
        ARMED.with_borrow(|armed| matches!(armed, Some(Armed { after: 0, fault: Fault::Killed, .. })))
    }

    pub(crate) fn pass(place: &'static str) -> io::Result<()> {
        ARMED.with_borrow_mut(|armed| match armed {
            Some(armed) if armed.place == place && armed.after > 0 => {
                armed.after -= 1;
                Ok(())
            }
            Some(armed) if armed.place == place => Err(match armed.fault {
                Fault::DiskFull => io::ErrorKind::StorageFull.into(),
                Fault::BrokenDisk => io::Error::from(rustix::io::Errno::IO),
                Fault::Unsupported => io::Error::from(rustix::io::Errno::INVAL),
                Fault::Killed => io::Error::other("killed by the test"),
            }),
            _ => Ok(()),
        })
    }
}
