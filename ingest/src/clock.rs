//! The wall clock, for what is shown and never for what is decided.

use interdict_features::time::Timestamp;

#[expect(clippy::disallowed_methods, reason = "ages and instants that metrics show are those of the wall clock")]
pub(crate) fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
