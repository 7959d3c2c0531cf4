//! The store's logs of what came over HTTP and of what people did, trimmed from the front.
//!
//! Invariants:
//! - An entry of the input log goes only once it is applied and its offset stored, and older than `input_log_keep`.
//! - Entries go from the front, so that none is missing between two that are there. One without a time of its own is as old as the
//!   next one that has one.
//! - A step looks at a bounded number of entries and trims before the next one: a crash in between loses no more than that work.

use interdict_features::time::{Span, Timestamp};
use interdict_store::error::StoreError;
use interdict_store::port::{LogName, Store};
use serde::Deserialize;

use super::input_log;

/// Entries looked at in one step, and steps in one go.
const STEP_ENTRIES: usize = 1_000;
const STEPS_MAX: usize = 100;

/// How long entries are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keep {
    /// Requests and labels: what an audit and a replay read.
    pub(crate) input: Span,
    /// What people did.
    pub(crate) audit: Span,
}

impl Default for Keep {
    fn default() -> Self {
        Self { input: Span::from_micros(90 * Span::DAY.micros()), audit: Span::from_micros(400 * Span::DAY.micros()) }
    }
}

/// The time of an entry.
#[derive(Deserialize)]
struct Dated {
    #[serde(alias = "received")]
    at: Option<Timestamp>,
    /// One of several scorers applied the entry in the commit that appended it.
    place: Option<serde::de::IgnoredAny>,
}

/// Trims both logs as of `now`; how many entries went.
pub(crate) async fn trim<S: Store>(store: &S, keep: Keep, now: Timestamp) -> Result<u64, StoreError> {
    let applied = input_log::applied_end(store).await?;
    let input = trim_one(store, LogName::INPUT, now.minus(keep.input), applied).await?;
    Ok(input + trim_one(store, LogName::AUDIT, now.minus(keep.audit), u64::MAX).await?)
}

/// Trims entries before position `below` and from before `since`.
async fn trim_one<S: Store>(store: &S, log: LogName, since: Timestamp, below: u64) -> Result<u64, StoreError> {
    let (mut next, mut trimmed) = (0, 0);
    let mut kept_from = None;
    for _ in 0..STEPS_MAX {
        let entries = store.read_log(log, next, STEP_ENTRIES).await?;
        let Some(&(first, _)) = entries.first() else { break };
        let dated = entries.iter().map(|(position, bytes)| (*position, serde_json::from_slice::<Dated>(bytes).ok()));
        let is_applied = |(position, dated): &(u64, Option<Dated>)| {
            *position < below || dated.as_ref().is_some_and(|dated| dated.place.is_some())
        };
        let times = dated.take_while(is_applied).map(|(position, dated)| (position, dated.and_then(|dated| dated.at)));
        let is_old = |at: &Option<Timestamp>| at.is_none_or(|at| at < since);
        let old: Vec<(u64, Option<Timestamp>)> = times.take_while(|(_, at)| is_old(at)).collect();
        next = first + entries.len() as u64;
        if let Some((last, _)) = old.iter().rfind(|(_, at)| at.is_some()) {
            store.trim_log(log, last + 1).await?;
            trimmed += last + 1 - kept_from.unwrap_or(first);
            kept_from = Some(last + 1);
        } else {
            kept_from = kept_from.or(Some(first));
        }
        if old.len() < entries.len() {
            break;
        }
    }
    Ok(trimmed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
    use interdict_store::port::{Append, Commit, OffsetMove};

    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_micros(day * Span::DAY.micros())
    }

    async fn append(store: &EmbeddedStore, log: LogName, day: Option<i64>) {
        let key = if log == LogName::INPUT { "received" } else { "at" };
        let entry = day.map_or_else(|| serde_json::json!({}), |day| serde_json::json!({ key: at(day) }));
        let appends = vec![Append { log, bytes: Bytes::from(entry.to_string()) }];
        store.commit(Commit { appends, ..Commit::default() }).await.unwrap();
    }

    async fn apply(store: &EmbeddedStore, from: Option<u64>, to: u64) {
        let offsets = vec![OffsetMove { source: input_log::SOURCE.to_owned(), partition: 0, from, to }];
        store.commit(Commit { offsets, ..Commit::default() }).await.unwrap();
    }

    async fn first(store: &EmbeddedStore, log: LogName) -> Option<u64> {
        store.read_log(log, 0, 1).await.unwrap().first().map(|(position, _)| *position)
    }

    #[tokio::test]
    async fn what_is_old_and_applied_goes_from_the_front() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        store.offsets(input_log::SOURCE, "input-log").await.unwrap();
        // The fourth is younger than the one behind it; two have no time.
        for day in [Some(1), None, Some(2), Some(50), Some(3), None] {
            append(&store, LogName::INPUT, day).await;
            append(&store, LogName::AUDIT, day).await;
        }
        let keep = Keep::default();
        assert_eq!(trim(&store, keep, at(100)).await.unwrap(), 0, "nothing is applied, and an act is kept for longer");
        apply(&store, None, 1).await;
        assert_eq!(trim(&store, keep, at(100)).await.unwrap(), 1, "the second has no time and may be younger");
        assert_eq!(first(&store, LogName::INPUT).await, Some(1));
        apply(&store, Some(1), 5).await;
        assert_eq!(trim(&store, keep, at(100)).await.unwrap(), 2);
        assert_eq!(first(&store, LogName::INPUT).await, Some(3));
        assert_eq!(trim(&store, keep, at(100)).await.unwrap(), 0);
        assert_eq!(trim(&store, keep, at(450)).await.unwrap(), 2 + 3);
        assert_eq!((first(&store, LogName::INPUT).await, first(&store, LogName::AUDIT).await), (Some(5), Some(3)));
        assert_eq!(store.log_next(LogName::INPUT).await.unwrap(), 6, "numbering goes on");
    }

    #[tokio::test]
    async fn many_entries_go_in_steps() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let entry =
            |day| Append { log: LogName::AUDIT, bytes: Bytes::from(serde_json::json!({ "at": at(day) }).to_string()) };
        let appends = (0..2_500).map(|_| entry(1)).chain([entry(500)]).collect();
        store.commit(Commit { appends, ..Commit::default() }).await.unwrap();
        assert_eq!(trim(&store, Keep::default(), at(600)).await.unwrap(), 2_500);
        assert_eq!(first(&store, LogName::AUDIT).await, Some(2_500));
    }
}
