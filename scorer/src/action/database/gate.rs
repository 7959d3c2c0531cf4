//! Keeps a database that is away, or coming back, from being run down by everything that waits for it.
//!
//! Invariant: after a connection that failed, one at a time is tried, with growing pauses; the first that succeeds lets
//! all others through.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest pause: how long a database that is back waits for its first act at most, on our side.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where connections are let through.
#[derive(Debug)]
pub(super) struct Gate {
    first: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody is let through before.
    next: Option<Instant>,
}

/// A connection that is tried. Dropped, it counts as failed.
#[derive(Debug)]
pub(super) struct Probe<'g> {
    gate: &'g Gate,
    is_settled: bool,
}

impl Gate {
    /// A gate whose first pause is `first`.
    pub(super) fn new(first: Duration) -> Self {
        Self { first: first.min(PAUSE_MAX), state: Mutex::default() }
    }

    /// Lets a connection be tried at `now`; `None` while others wait for one that is tried already.
    pub(super) fn enter(&self, now: Instant) -> Option<Probe<'_>> {
        let mut state = self.state();
        if state.next.is_some_and(|next| now < next) {
            return None;
        }
        if state.failures > 0 {
            state.next = Some(now + self.pause(state.failures));
        }
        Some(Probe { gate: self, is_settled: false })
    }

    fn pause(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(PAUSE_MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe<'_> {
    /// The database was reached.
    pub(super) fn succeed(mut self) {
        self.is_settled = true;
        *self.gate.state() = State::default();
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            let mut state = self.gate.state();
            state.failures = state.failures.saturating_add(1);
            state.next = Some(Instant::now() + self.gate.pause(state.failures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_after_a_failure_and_all_after_a_success() {
        let gate = Gate::new(Duration::from_millis(100));
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let (one, two) = (gate.enter(now).unwrap(), gate.enter(now).unwrap());
        drop((one, two));
        assert!(gate.enter(now).is_none());
        let probe = gate.enter(later).unwrap();
        assert!(gate.enter(later).is_none(), "one is under way");
        drop(probe);
        assert!(gate.enter(now).is_none());
        gate.enter(later).unwrap().succeed();
        let (one, two) = (gate.enter(now), gate.enter(now));
        assert!(one.is_some() && two.is_some());
        drop(one);
        assert!(gate.enter(now).is_none(), "a failure again");
        assert_eq!([1, 2, 4, u32::MAX].map(|failures| gate.pause(failures).as_millis()), [100, 200, 800, 1_000]);
    }
}
