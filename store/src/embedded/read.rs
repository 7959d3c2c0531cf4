//! Reads. Each takes one snapshot, so that it sees a commit whole or not at all.

use std::ops::Bound;

use bytes::Bytes;
use fjall::{Guard, Keyspace, Readable, Snapshot};
use interdict_features::decision::{EntityRef, ListKind};
use uuid::Uuid;

use super::engine::Engine;
use super::layout;
use crate::error::StoreError;
use crate::port::{Fetched, Intent, ListEntry, Offset, OutboxPlace, Query, RECENT_DECISIONS_MAX, StoredDecision};

fn get(engine: &Engine, snapshot: &Snapshot, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let value = snapshot.get(keyspace, key).map_err(|error| engine.failure(error))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

pub(super) fn pair(engine: &Engine, entry: Guard) -> Result<(fjall::UserKey, fjall::UserValue), StoreError> {
    entry.into_inner().map_err(|error| engine.failure(error))
}

/// A number stored in `meta`.
pub(super) fn number(engine: &Engine, snapshot: &Snapshot, key: &[u8]) -> Result<Option<u64>, StoreError> {
    match snapshot.get(&engine.meta, key).map_err(|error| engine.failure(error))? {
        Some(value) => layout::position_at_end("number", &value).map(Some),
        None => Ok(None),
    }
}

/// The text stored in `meta`.
pub(super) fn text(engine: &Engine, snapshot: &Snapshot, key: &[u8]) -> Result<Option<String>, StoreError> {
    let Some(value) = snapshot.get(&engine.meta, key).map_err(|error| engine.failure(error))? else { return Ok(None) };
    String::from_utf8(value.to_vec()).map(Some).map_err(|error| layout::corrupt("text", &error.to_string()))
}

/// Where a decision stands in the log.
pub(super) fn decision_position(engine: &Engine, snapshot: &Snapshot, id: Uuid) -> Result<Option<u64>, StoreError> {
    match snapshot.get(&engine.claims, id.as_bytes()).map_err(|error| engine.failure(error))? {
        Some(position) => layout::position_at_end("claim", &position).map(Some),
        None => Ok(None),
    }
}

/// A decision's record.
pub(super) fn record(engine: &Engine, snapshot: &Snapshot, position: u64) -> Result<Bytes, StoreError> {
    get(engine, snapshot, &engine.decisions, &position.to_be_bytes())?
        .ok_or_else(|| layout::corrupt("decision", &format!("its record at position {position} is missing")))
}

/// What was appended under a decision.
pub(super) fn appended(engine: &Engine, snapshot: &Snapshot, decision: Uuid) -> Result<Vec<String>, StoreError> {
    let texts = snapshot.prefix(&engine.appended, decision.as_bytes()).map(|entry| {
        let (_, value) = pair(engine, entry)?;
        String::from_utf8(value.to_vec()).map_err(|error| layout::corrupt("text under a decision", &error.to_string()))
    });
    texts.collect()
}

/// Serves a [`Query`]. A key over the port's bound cannot have been stored: the answer is that nothing is there.
pub(super) fn fetch(engine: &Engine, query: &Query) -> Result<Fetched, StoreError> {
    let snapshot = engine.snapshot();
    let mut key = Vec::with_capacity(64);
    let mut fetched = Fetched::default();
    for wanted in &query.states {
        let mut states = Vec::with_capacity(wanted.groups.len());
        for group in wanted.groups.iter() {
            let known = layout::state_key(&mut key, &wanted.entity, &wanted.key, *group).is_ok();
            states.push(if known { perishable(engine, &snapshot, &engine.states, &key)? } else { None });
        }
        fetched.states.push(states);
    }
    for wanted in &query.rows {
        let known = layout::row_key(&mut key, wanted).is_ok();
        fetched.rows.push(if known { perishable(engine, &snapshot, &engine.rows, &key)? } else { None });
    }
    for id in &query.decisions {
        let position = decision_position(engine, &snapshot, *id)?;
        fetched.decisions.push(position.map(|position| record(engine, &snapshot, position)).transpose()?);
    }
    for entity in &query.lists {
        let mut entries = Vec::new();
        for kind in [ListKind::ManualBlock, ListKind::Allow, ListKind::AutomaticBlock] {
            let Ok(key) = layout::list_key(kind, entity) else { continue };
            if let Some(value) = snapshot.get(&engine.lists, key).map_err(|error| engine.failure(error))? {
                entries.push(layout::from_json("list entry", &value)?);
            }
        }
        fetched.lists.push(entries);
    }
    Ok(fetched)
}

fn perishable(
    engine: &Engine,
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    key: &[u8],
) -> Result<Option<Bytes>, StoreError> {
    match snapshot.get(keyspace, key).map_err(|error| engine.failure(error))? {
        Some(value) => Ok(Some(Bytes::copy_from_slice(layout::split_perishable(&value)?.1))),
        None => Ok(None),
    }
}

/// A source's offsets, in order of partition.
pub(super) fn offsets(engine: &Engine, snapshot: &Snapshot, source: &str) -> Result<Vec<Offset>, StoreError> {
    let prefix = layout::offset_prefix(source)?;
    let offsets = snapshot.prefix(&engine.meta, &prefix).map(|entry| {
        let (key, value) = pair(engine, entry)?;
        let partition =
            <[u8; 4]>::try_from(&key[prefix.len()..]).map_err(|error| layout::corrupt("offset", &error.to_string()))?;
        let position = layout::position_at_end("offset", &value)?;
        Ok(Offset { partition: u32::from_be_bytes(partition), position })
    });
    offsets.collect()
}

/// A decision with what was appended under its id.
pub(super) fn decision(engine: &Engine, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
    let snapshot = engine.snapshot();
    let Some(position) = decision_position(engine, &snapshot, id)? else { return Ok(None) };
    let record = record(engine, &snapshot, position)?;
    Ok(Some(StoredDecision { record, appended: appended(engine, &snapshot, id)? }))
}

/// The newest decisions of an entity.
pub(super) fn recent(engine: &Engine, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
    let Ok(prefix) = layout::recent_prefix(entity) else { return Ok(Vec::new()) };
    let snapshot = engine.snapshot();
    let newest = snapshot.prefix(&engine.recent, prefix).rev().take(limit.min(RECENT_DECISIONS_MAX));
    let records = newest.map(|entry| {
        let key = entry.key().map_err(|error| engine.failure(error))?;
        record(engine, &snapshot, layout::position_at_end("recent decision", &key)?)
    });
    records.collect()
}

/// All list entries.
pub(super) fn lists(engine: &Engine) -> Result<Vec<ListEntry>, StoreError> {
    let snapshot = engine.snapshot();
    let entries = snapshot.iter(&engine.lists).map(|entry| layout::from_json("list entry", &pair(engine, entry)?.1));
    entries.collect()
}

/// Every state or row record with its key, both as they are stored, in order of key.
pub(super) fn images(engine: &Engine, keyspace: &fjall::Keyspace) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let snapshot = engine.snapshot();
    let entries = snapshot.iter(keyspace).map(|entry| {
        let (key, value) = pair(engine, entry)?;
        let (_expires, body) = layout::split_perishable(&value)?;
        Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(body)))
    });
    entries.collect()
}

/// The oldest unfinished actions from a key on.
pub(super) fn outbox(
    engine: &Engine,
    from: Bound<&[u8]>,
    limit: usize,
) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
    let snapshot = engine.snapshot();
    let entries = snapshot.range::<&[u8], _>(&engine.outbox, (from, Bound::Unbounded)).take(limit);
    let entries = entries.map(|entry| {
        let (key, value) = pair(engine, entry)?;
        Ok((OutboxPlace(Box::from(&key[..])), layout::from_json("outbox entry", &value)?))
    });
    entries.collect()
}

/// How many actions are unfinished.
pub(super) fn outbox_entries(engine: &Engine, snapshot: &Snapshot) -> Result<usize, StoreError> {
    snapshot.len(&engine.outbox).map_err(|error| engine.failure(error))
}
