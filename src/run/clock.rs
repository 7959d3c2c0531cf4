//! The clocks of the shell.
//!
//! Invariant: within a process the wall clock never goes back: of a block and an unblocking of one account the later
//! one counts.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use interdict_features::time::Timestamp;

/// The latest instant that was told.
static LATEST: AtomicI64 = AtomicI64::new(0);

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the shell's one place that reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(LATEST.fetch_max(micros, Ordering::Relaxed).max(micros))
}

/// The clock that durations are measured with.
#[expect(clippy::disallowed_methods, reason = "the shell's one place that reads the steady clock")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
