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
pub(crate) use armed::{Fault, arm, disarm, is_dead, pass, when};

#[cfg(test)]
mod armed {
    use std::cell::RefCell;
    use std::io;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        struck: bool,
    }

    type Deed = (&'static str, Box<dyn FnMut()>);

    thread_local! {
        static ARMED: RefCell<Vec<Armed>> = const { RefCell::new(Vec::new()) };
        static DEED: RefCell<Option<Deed>> = const { RefCell::new(None) };
    }

    /// Lets `place` fail in this thread from the pass after the next `after` on, until `disarm`.
    pub(crate) fn arm(place: &'static str, after: usize, fault: Fault) {
        ARMED.with_borrow_mut(|armed| armed.push(Armed { place, after, fault, struck: false }));
    }

    /// Does something in this thread each time `place` is passed, until `disarm`: what another program does at that moment.
    pub(crate) fn when(place: &'static str, deed: impl FnMut() + 'static) {
        DEED.set(Some((place, Box::new(deed))));
    }

    /// True if every armed place has failed.
    pub(crate) fn disarm() -> bool {
        DEED.set(None);
        ARMED.take().iter().all(|armed| armed.struck)
    }

    pub(crate) fn is_dead() -> bool {
        ARMED.with_borrow(|armed| armed.iter().any(|armed| armed.struck && armed.fault == Fault::Killed))
    }

    pub(crate) fn pass(place: &'static str) -> io::Result<()> {
        DEED.with_borrow_mut(|deed| {
            if let Some((_, deed)) = deed.as_mut().filter(|(at, _)| *at == place) {
                deed();
            }
        });
        ARMED.with_borrow_mut(|armed| {
            let Some(armed) = armed.iter_mut().find(|armed| armed.place == place) else { return Ok(()) };
            if armed.after > 0 {
                armed.after -= 1;
                return Ok(());
            }
            armed.struck = true;
            Err(match armed.fault {
                Fault::DiskFull => io::ErrorKind::StorageFull.into(),
                Fault::BrokenDisk => io::Error::from(rustix::io::Errno::IO),
                Fault::Unsupported => io::Error::from(rustix::io::Errno::INVAL),
                Fault::Killed => io::Error::other("killed by the test"),
            })
        })
    }
}
