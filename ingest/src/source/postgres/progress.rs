//! How far the capture is: what the engine confirms, and how far the slot lags behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use interdict_features::time::{Span, Timestamp};

/// Commits whose confirmation is awaited at most; beyond it the newest ones are counted with the one before them.
const COMMITS_MAX: usize = 4_096;

/// Tells a capture up to which position everything it delivered is durable. Clones speak to the same capture.
#[derive(Clone, Debug, Default)]
pub struct PostgresHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    confirmed: AtomicU64,
    beats: AtomicU64,
    stands_by: AtomicBool,
    /// End and time of delivered commits that are not confirmed, oldest first.
    commits: Mutex<VecDeque<(u64, Timestamp)>>,
}

impl PostgresHandle {
    /// Everything up to `position`, that of a [`crate::source::Delivery`], is durable: the server may forget its log
    /// before it, and delivers nothing of it again. Never shrinks. Does not block; the server hears of it within a
    /// second or two.
    pub fn confirm(&self, position: u64) {
        self.shared.confirmed.fetch_max(position, Ordering::AcqRel);
    }

    /// The highest position that was confirmed; 0 before the first.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.shared.confirmed.load(Ordering::Acquire)
    }

    /// Whether another session was found to have the slot, and none of this capture's since.
    #[must_use]
    pub fn stands_by(&self) -> bool {
        self.shared.stands_by.load(Ordering::Acquire)
    }

    /// Notes that another session has the slot.
    pub(super) fn stand_by(&self) {
        self.shared.stands_by.store(true, Ordering::Release);
    }

    /// Notes that no other session has the slot.
    pub(super) fn linked(&self) {
        self.shared.stands_by.store(false, Ordering::Release);
    }

    /// Notes that a transaction was delivered.
    pub(super) fn delivered(&self, end: u64, committed: Timestamp) {
        let mut commits = self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let confirmed = self.confirmed();
        while commits.front().is_some_and(|(end, _)| *end <= confirmed) {
            commits.pop_front();
        }
        let is_full = commits.len() >= COMMITS_MAX;
        match commits.back_mut() {
            Some(last) if last.0 >= end => {}
            Some(last) if is_full => last.0 = end,
            _ => commits.push_back((end, committed)),
        }
    }

    /// For how long the oldest delivered transaction that is not confirmed has waited at `now`, by the server's clock.
    pub(super) fn lag(&self, now: Timestamp) -> Span {
        let mut commits = self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let confirmed = self.confirmed();
        while commits.front().is_some_and(|(end, _)| *end <= confirmed) {
            commits.pop_front();
        }
        commits.front().map_or(Span::ZERO, |(_, committed)| now.since(*committed).max(Span::ZERO))
    }

    pub(super) fn beat(&self) {
        self.shared.beats.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_confirmation_never_shrinks_and_is_shared() {
        let handle = PostgresHandle::default();
        let other = handle.clone();
        for (told, expected) in [(5, 5), (3, 5), (9, 9)] {
            other.confirm(told);
            assert_eq!(handle.confirmed(), expected);
        }
    }

    #[test]
    fn the_lag_is_that_of_the_oldest_commit_that_waits() {
        let handle = PostgresHandle::default();
        assert_eq!(handle.lag(at(100)), Span::ZERO);
        handle.delivered(10, at(50));
        handle.delivered(20, at(70));
        handle.delivered(15, at(71));
        for (confirmed, expected) in [(0, 50), (9, 50), (10, 30), (20, 0)] {
            handle.confirm(confirmed);
            assert_eq!(handle.lag(at(100)), at(expected).since(at(0)), "confirmed {confirmed}");
        }
    }

    #[test]
    fn commits_that_wait_are_bounded() {
        let handle = PostgresHandle::default();
        let many = COMMITS_MAX as u64 + 1_000;
        for end in 1..=many {
            handle.delivered(end, at(1));
        }
        assert_eq!(handle.shared.commits.lock().unwrap().len(), COMMITS_MAX);
        handle.confirm(many - 1);
        assert_ne!(handle.lag(at(2)), Span::ZERO, "the newest one still waits");
        handle.confirm(many);
        assert_eq!(handle.lag(at(2)), Span::ZERO);
    }
}
