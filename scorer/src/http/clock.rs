//! The edge's one reading of the clocks: when a request was received.

use interdict_features::time::Timestamp;
use tokio::time::Instant;

/// When a request was received, by both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Receipt {
    /// By the wall clock.
    pub(super) at: Timestamp,
    /// By the clock that deadlines are measured with.
    pub(super) instant: Instant,
}

impl Receipt {
    /// Reads both clocks.
    #[expect(clippy::disallowed_methods, reason = "the shell's one reading of the wall clock per request")]
    pub(super) fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        Self { at: Timestamp::from_micros(micros), instant: Instant::now() }
    }
}
