//! What the user wants of a run while it goes on. Unaware of signals, keys and files: others set the flags.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kind::stage::StopRequest;

/// Flags that any thread may set at any time.
#[derive(Clone, Debug, Default)]
pub struct StopRequests {
    interrupt: Arc<AtomicBool>,
    /// A stage that asks is running.
    heard: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    save_now: Arc<AtomicBool>,
}

impl StopRequests {
    /// End now, to go on later.
    pub fn interrupt(&self) {
        self.interrupt.store(true, Ordering::SeqCst);
    }

    /// The flag of `interrupt`, for a signal handler.
    pub fn interrupt_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// End the running stage with what it has. False if no stage is running that could: the request is for none that comes later.
    pub fn stop(&self) -> bool {
        self.set(&self.stop)
    }

    /// Save and sample now, then go on. False as for `stop`.
    pub fn save_now(&self) -> bool {
        self.set(&self.save_now)
    }

    fn set(&self, flag: &AtomicBool) -> bool {
        let is_heard = self.is_heard();
        flag.store(is_heard, Ordering::SeqCst);
        is_heard
    }

    /// Whether a stage is running that can stop or save between two steps.
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::SeqCst)
    }

    /// Whether the run is to end now. Once true it stays true.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::SeqCst)
    }

    /// For a stage that asks between two steps. `SaveNow` is returned once.
    pub fn poll(&self) -> StopRequest {
        if self.interrupted() {
            StopRequest::Interrupt
        } else if self.stop.load(Ordering::SeqCst) {
            StopRequest::Stop
        } else if self.save_now.swap(false, Ordering::SeqCst) {
            StopRequest::SaveNow
        } else {
            StopRequest::GoOn
        }
    }

    /// From now until `stage_ended` a stage asks.
    pub fn stage_asks(&self) {
        self.heard.store(true, Ordering::SeqCst);
    }

    /// A stop request is for the stage that runs at the time, not for the next.
    pub fn stage_ended(&self) {
        for flag in [&self.heard, &self.stop, &self.save_now] {
            flag.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_save_is_told_once_and_to_stop_until_the_stage_ends() {
        let requests = StopRequests::default();
        assert!(!requests.stop() && !requests.save_now(), "nobody asks");
        assert_eq!(requests.poll(), StopRequest::GoOn);
        requests.stage_asks();
        assert!(requests.save_now());
        assert_eq!([requests.poll(), requests.poll()], [StopRequest::SaveNow, StopRequest::GoOn]);
        assert!(requests.stop());
        assert_eq!([requests.poll(), requests.poll()], [StopRequest::Stop, StopRequest::Stop]);
        requests.stage_ended();
        assert_eq!(requests.poll(), StopRequest::GoOn);
        requests.interrupt();
        requests.stage_ended();
        assert_eq!(requests.poll(), StopRequest::Interrupt);
    }
}
