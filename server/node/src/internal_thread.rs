//! The thread of the internal clients: `$SYS` services, events, and whatever else in this process subscribes.
//!
//! Owns the clock and the sleep of `engine::InternalWorker`; never does work of its own.

use crate::worker_thread::now_nanos;
use broker::Wake;
use engine::{Internal, InternalWorker};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Ends the thread's sleep, or the thread.
#[derive(Default)]
pub struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    rung: bool,
    stopped: bool,
}

impl Bell {
    /// The thread ends at its next look.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.rung.notify_one();
    }

    /// Waits for a ring or until `nanos`; `false` at the end.
    fn wait(&self, until_nanos: Option<u64>) -> bool {
        let mut state = self.state.lock();
        while !state.rung && !state.stopped {
            match until_nanos {
                None => self.rung.wait(&mut state),
                Some(nanos) => {
                    let left = nanos.saturating_sub(now_nanos());
                    // never for so long that a wall clock set back is noticed late
                    let left = Duration::from_nanos(left).min(Duration::from_secs(1));
                    if left.is_zero() || self.rung.wait_for(&mut state, left).timed_out() {
                        break;
                    }
                }
            }
        }
        state.rung = false;
        !state.stopped
    }
}

/// The part of a [`Bell`] that `engine` rings.
pub struct Ringer(pub Arc<Bell>);

impl Wake for Ringer {
    fn wake(&self) {
        self.0.state.lock().rung = true;
        self.0.rung.notify_one();
    }
}

/// Starts the thread.
///
/// # Errors
/// The system refuses it.
pub fn spawn(internal: Arc<Internal>, bell: Arc<Bell>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("internal".into()).spawn(move || {
        let mut worker = InternalWorker::new(internal);
        loop {
            let next_nanos = worker.run(now_nanos());
            if !bell.wait(next_nanos) {
                // last words
                worker.run(now_nanos());
                return;
            }
        }
    })
}
