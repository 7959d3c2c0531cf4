//! The signal that ends a blocking reader at once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A flag that a reader thread waits on: setting it wakes the reader. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Running,
    Stopped,
}

impl Stop {
    /// Asks every reader that holds a clone to end; those that wait wake at once.
    pub fn stop(&self) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = State::Stopped;
        self.shared.1.notify_all();
    }

    /// Whether [`Self::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) == State::Stopped
    }

    /// Waits for [`Self::stop`], at most `duration`; says whether it was called.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _timeout) = self
            .shared
            .1
            .wait_timeout_while(state, duration, |state| *state == State::Running)
            .unwrap_or_else(PoisonError::into_inner);
        *state == State::Stopped
    }
}
