//! From an error's class to what happens next.
//!
//! Invariant: every retry is bounded in time between tries and in total; giving up is a result, never silence.

use std::time::Duration;

use interdict_store::error::Class;

/// How long to wait between tries, and when to stop trying.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// No wait is longer, a server's own wish included.
    pub max: Duration,
    /// Given up when this long has passed since the work came into being.
    pub give_up_after: Duration,
}

impl Default for Backoff {
    /// One second, doubling to ten minutes, for a day: a receiver that was down over night gets everything.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(600),
            give_up_after: Duration::from_secs(86_400),
        }
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try again after this long.
    Again(Duration),
    /// Make a dead letter of it.
    GiveUp,
    /// End the process: trying again elsewhere would do harm.
    Stop,
}

impl Backoff {
    /// What follows failure number `failures` (from 1) of class `class`, `age` after the work came into being.
    /// `jitter` (0 to 1) spreads tries over the upper half of the wait; `wish` is what the other side asked for.
    #[must_use]
    pub fn next(&self, class: Class, failures: u32, age: Duration, jitter: f64, wish: Option<Duration>) -> Next {
        match class {
            Class::Rejected => Next::GiveUp,
            // The same again cannot go through; who can read anew does so before asking here.
            Class::Fatal | Class::Stale => Next::Stop,
            Class::Transient => {
                let doubled =
                    self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
                let wait = doubled.min(self.max);
                let spread = wait.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
                let wait = wish.map_or(spread, |wish| wish.max(spread).min(self.max));
                if age.saturating_add(wait) > self.give_up_after { Next::GiveUp } else { Next::Again(wait) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        max: Duration::from_secs(60),
        give_up_after: Duration::from_secs(3600),
    };

    fn check(class: Class, failures: u32, age_s: u64, jitter: f64, wish_s: Option<u64>, expected: Next) {
        let wish = wish_s.map(Duration::from_secs);
        let next = BACKOFF.next(class, failures, Duration::from_secs(age_s), jitter, wish);
        assert_eq!(next, expected, "{class:?} {failures} {age_s} {jitter} {wish_s:?}");
    }

    #[test]
    fn a_class_becomes_a_wait() {
        let again = |ms| Next::Again(Duration::from_millis(ms));
        check(Class::Transient, 1, 0, 1.0, None, again(1_000));
        check(Class::Transient, 1, 0, 0.0, None, again(500));
        check(Class::Transient, 4, 0, 1.0, None, again(8_000));
        check(Class::Transient, 40, 0, 1.0, None, again(60_000));
        check(Class::Transient, u32::MAX, 0, 1.0, None, again(60_000));
        check(Class::Transient, 1, 0, 1.0, Some(7), again(7_000));
        check(Class::Transient, 1, 0, 1.0, Some(0), again(1_000));
        check(Class::Transient, 1, 0, 1.0, Some(86_400), again(60_000));
        check(Class::Transient, 1, 3_599, 1.0, None, again(1_000));
        check(Class::Transient, 1, 3_600, 1.0, None, Next::GiveUp);
        check(Class::Rejected, 1, 0, 1.0, None, Next::GiveUp);
        check(Class::Fatal, 1, 0, 1.0, None, Next::Stop);
    }

    #[test]
    fn a_jitter_out_of_range_is_clamped() {
        check(Class::Transient, 1, 0, f64::INFINITY, None, Next::Again(Duration::from_secs(1)));
        check(Class::Transient, 1, 0, -3.0, None, Next::Again(Duration::from_millis(500)));
    }
}
