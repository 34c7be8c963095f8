//! Ending a connection that somebody else reads.
//!
//! Owns the word that it is over, and who is to be woken by it. Never closes a socket: whoever has the connection meets its end and
//! closes it. Main type: [`Cutoff`].
//!
//! A primary that was deposed may go on answering: a killed postmaster leaves its busy backends behind, which commit and say so for
//! seconds, and a hung server says nothing at all until it is continued. Nothing more is to be read from either.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// Shared by the holder of a connection and those who may end it.
#[derive(Debug, Default)]
pub(crate) struct Cutoff {
    is_cut: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Cutoff {
    /// From now on nothing is read from the connection or written to it. Whoever waits for it is woken.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        if let Some(waiting) = self.waiting().take() {
            waiting.wake();
        }
    }

    /// Whether it was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Has the task woken when it is cut, in place of the one before. Returns whether it is already.
    pub(crate) fn wake(&self, context: &Context<'_>) -> bool {
        let mut waiting = self.waiting();
        match &mut *waiting {
            Some(before) => before.clone_from(context.waker()),
            None => *waiting = Some(context.waker().clone()),
        }
        drop(waiting);
        self.is_cut()
    }

    // only ever replaced as a whole
    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
