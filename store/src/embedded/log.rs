//! The logs: numbered entries, trimmed from the front.
//!
//! Invariant: the mark of what is trimmed moves with the batch that removes the entries, so that numbering goes on after
//! the last entry is gone. The decision log's entries are the records themselves: trimming it moves the mark alone.

use bytes::Bytes;
use fjall::{Readable, Snapshot};

use super::engine::Engine;
use super::{layout, read};
use crate::error::StoreError;
use crate::port::{Durability, LogName};

/// Log entries removed under one hold of the commit lock.
const TRIM_STEP_ENTRIES: u64 = 4096;

/// The position after a log's newest entry.
pub(super) fn next(engine: &Engine, snapshot: &Snapshot, log: LogName) -> Result<u64, StoreError> {
    let newest = if log == LogName::DECISIONS {
        snapshot.last_key_value(&engine.decisions)
    } else {
        snapshot.prefix(&engine.logs, layout::log_prefix(log)?).next_back()
    };
    let start = first(engine, snapshot, log)?;
    let Some(newest) = newest else { return Ok(start) };
    let key = newest.key().map_err(|error| engine.failure(error))?;
    Ok(start.max(layout::position_at_end("log entry", &key)? + 1))
}

/// The first position of a log that is not trimmed.
pub(super) fn first(engine: &Engine, snapshot: &Snapshot, log: LogName) -> Result<u64, StoreError> {
    Ok(read::number(engine, snapshot, &layout::log_first_key(log)?)?.unwrap_or(0))
}

/// Entries of a log.
pub(super) fn entries(
    engine: &Engine,
    log: LogName,
    position: u64,
    limit: usize,
) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let snapshot = engine.snapshot();
    let from = position.max(first(engine, &snapshot, log)?);
    let (keyspace, prefix) = if log == LogName::DECISIONS {
        (&engine.decisions, Vec::new())
    } else {
        (&engine.logs, layout::log_prefix(log)?)
    };
    let range = layout::at_position(&prefix, from)..=layout::at_position(&prefix, u64::MAX);
    let entries = snapshot.range(keyspace, range).take(limit).map(|entry| {
        let (key, value) = read::pair(engine, entry)?;
        Ok((layout::position_at_end("log entry", &key)?, Bytes::copy_from_slice(&value)))
    });
    entries.collect()
}

/// Removes a bounded number of entries before `position`; whether that was all.
pub(super) fn trim_step(engine: &Engine, log: LogName, position: u64) -> Result<bool, StoreError> {
    let snapshot = engine.snapshot();
    let start = first(engine, &snapshot, log)?;
    let end = position.min(next(engine, &snapshot, log)?);
    if start >= end {
        return Ok(true);
    }
    let mut batch = engine.batch(0);
    let mut step_end = end;
    if log != LogName::DECISIONS {
        step_end = end.min(start + TRIM_STEP_ENTRIES);
        let prefix = layout::log_prefix(log)?;
        for position in start..step_end {
            batch.remove(&engine.logs, layout::at_position(&prefix, position).as_slice());
        }
    }
    batch.insert(&engine.meta, layout::log_first_key(log)?.as_slice(), step_end.to_be_bytes());
    engine.write(batch, Durability::Process)?;
    Ok(step_end == end)
}
