//! The clocks of the shell.

use std::time::Instant;

use interdict_features::time::Timestamp;

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the shell's one place that reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The clock that durations are measured with.
#[expect(clippy::disallowed_methods, reason = "the shell's one place that reads the steady clock")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
