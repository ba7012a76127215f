//! How a worker is told something by another thread.
//!
//! Owns the list of commands that wait for one worker and the flag that keeps wake-ups to one a batch. Never
//! carries messages of publishers: those go straight to a link's output.

use crate::link::Link;
use crate::sync::{AtomicBool, Mutex};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Ends a worker's sleep. Given by the driver; called from any thread.
pub trait Wake: Send + Sync {
    /// Makes the worker look at its mailbox soon.
    fn wake(&self);
}

/// Something for a worker to do.
pub enum Command {
    /// A link that was paused may read again.
    Resume(Arc<Link>),
    /// A subscription reached its maximum: end it.
    Ended {
        /// Owner of the subscription.
        link: Arc<Link>,
        /// Its number in the interest of its account.
        subscription: u32,
    },
    /// The transport's writable edge may have been used up by another thread: look again.
    Writable(u32),
    /// Something that only the driver or the assembly understands.
    Other(Box<dyn Any + Send>),
}

/// The commands that wait for one worker.
pub struct Mailbox {
    commands: Mutex<Vec<Command>>,
    rung: AtomicBool,
    wake: Box<dyn Wake>,
}

impl Mailbox {
    /// A mailbox whose worker is woken by `wake`.
    pub fn new(wake: Box<dyn Wake>) -> Self {
        Mailbox { commands: Mutex::new(Vec::new()), rung: AtomicBool::new(false), wake }
    }

    /// Leaves a command and wakes the worker, once for as many commands as come before it looks.
    pub fn post(&self, command: Command) {
        self.commands.lock().push(command);
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// Takes all commands. Called by the worker.
    pub fn take(&self) -> Vec<Command> {
        // before the commands are taken: one posted in between wakes again
        self.rung.store(false, Ordering::Release);
        std::mem::take(&mut *self.commands.lock())
    }
}
