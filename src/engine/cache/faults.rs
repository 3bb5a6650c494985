//! Places where a test lets the disk fail or the process die. Outside tests every place is passed.
//!
//! What a test arms holds in its own thread and in the threads that work for it: these follow it.

#[cfg(not(any(test, feature = "testing")))]
pub use passed::{Faults, is_dead, pass};

#[cfg(not(any(test, feature = "testing")))]
mod passed {
    /// What is armed in a thread: nothing.
    #[derive(Clone, Copy)]
    pub struct Faults;

    impl Faults {
        /// Taken in one thread, and followed in those that work for it.
        #[inline(always)]
        pub const fn of_this_thread() -> Self {
            Self
        }

        /// Lets this thread meet the faults of the other.
        #[inline(always)]
        pub const fn follow(&self) {}
    }

    /// Whether a test let this process die: then nothing cleans up any more.
    #[inline(always)]
    pub const fn is_dead() -> bool {
        false
    }

    /// Passes, or fails as a test armed it.
    #[inline(always)]
    pub fn pass(_place: &'static str) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
pub use armed::{Fault, Faults, arm, arm_pass, disarm, is_dead, pass, pass_failed, when};

#[cfg(any(test, feature = "testing"))]
mod armed {
    use std::cell::RefCell;
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    /// What a place that is armed answers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// What a full disk answers.
        DiskFull,
        /// What a broken disk answers.
        BrokenDisk,
        /// What a file system answers that cannot do it.
        Unsupported,
        /// What is answered to a rename from one file system to another.
        OtherFileSystem,
        /// The process is gone: from then on no place is passed, and whoever sees this returns at once and cleans nothing up.
        Killed,
    }

    struct Armed {
        /// `None`: wherever it is.
        place: Option<&'static str>,
        /// Passes before it strikes.
        after: usize,
        fault: Fault,
        struck: bool,
    }

    type Deed = (&'static str, Box<dyn FnMut() + Send>);

    #[derive(Default)]
    struct Plan {
        armed: Vec<Armed>,
        deed: Option<Deed>,
        dead: bool,
    }

    /// What is armed in a thread.
    #[derive(Clone, Default)]
    pub struct Faults(Arc<Mutex<Plan>>);

    thread_local! {
        static FAULTS: RefCell<Faults> = RefCell::default();
    }

    impl Faults {
        /// Taken in one thread, and followed in those that work for it.
        pub fn of_this_thread() -> Self {
            FAULTS.with_borrow(Self::clone)
        }

        /// Lets this thread meet the faults of the other.
        pub fn follow(&self) {
            FAULTS.set(self.clone());
        }

        fn plan(&self) -> MutexGuard<'_, Plan> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Lets `place` fail from the pass after the next `after` on, until `disarm`.
    pub fn arm(place: &'static str, after: usize, fault: Fault) {
        Faults::of_this_thread().plan().armed.push(Armed { place: Some(place), after, fault, struck: false });
    }

    /// Lets one pass fail, wherever it is: the one after the next `after`.
    pub fn arm_pass(after: usize, fault: Fault) {
        Faults::of_this_thread().plan().armed.push(Armed { place: None, after, fault, struck: false });
    }

    /// Whether the pass of `arm_pass` came and failed.
    pub fn pass_failed() -> bool {
        Faults::of_this_thread().plan().armed.iter().any(|armed| armed.place.is_none() && armed.struck)
    }

    /// Does something each time `place` is passed, until `disarm`: what another program does at that moment.
    pub fn when(place: &'static str, deed: impl FnMut() + Send + 'static) {
        Faults::of_this_thread().plan().deed = Some((place, Box::new(deed)));
    }

    /// True if everything that was armed has struck.
    pub fn disarm() -> bool {
        std::mem::take(&mut *Faults::of_this_thread().plan()).armed.iter().all(|armed| armed.struck)
    }

    /// Whether a test let this process die: then nothing cleans up any more.
    pub fn is_dead() -> bool {
        Faults::of_this_thread().plan().dead
    }

    /// Passes, or fails as a test armed it.
    pub fn pass(place: &'static str) -> io::Result<()> {
        let faults = Faults::of_this_thread();
        let deed = faults.plan().deed.take();
        if let Some((at, mut deed)) = deed {
            if at == place {
                deed();
            }
            faults.plan().deed = Some((at, deed));
        }
        let mut plan = faults.plan();
        if plan.dead {
            return Err(io::Error::other("killed by the test"));
        }
        // A place goes on failing, a single pass does not.
        let is_met = |armed: &Armed| armed.place.map_or(!armed.struck, |at| at == place);
        let Some(armed) = plan.armed.iter_mut().find(|armed| is_met(armed)) else { return Ok(()) };
        if armed.after > 0 {
            armed.after -= 1;
            return Ok(());
        }
        armed.struck = true;
        let fault = armed.fault;
        plan.dead = fault == Fault::Killed;
        Err(match fault {
            Fault::DiskFull => io::ErrorKind::StorageFull.into(),
            Fault::BrokenDisk => io::Error::from(rustix::io::Errno::IO),
            Fault::Unsupported => io::Error::from(rustix::io::Errno::INVAL),
            Fault::OtherFileSystem => io::Error::from(rustix::io::Errno::XDEV),
            Fault::Killed => io::Error::other("killed by the test"),
        })
    }
}
