//! Keys and values on disk: the only place that knows their bytes.
//!
//! Layout, format 1 (numbers big-endian, so that bytes sort as numbers do; `text` is a text with 00 written as
//! 00 FF, ended by 00 01, so that texts sort as strings do and no text is the beginning of another):
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | 00 | the format, one byte |
//! | | 01 | number of the last commit, u64 |
//! | | 02 text(source) | the source's incarnation |
//! | | 03 text(source) partition u32 | offset, u64 |
//! | | 04 text(log) | first position not trimmed, u64 |
//! | | 05 text(name) text(version) | registry entry, JSON |
//! | | 06 text(alias) | version |
//! | | 07 id, 16 bytes, text(action) | the key in `outbox` of an action that belongs to no decision |
//! | | 08 text(entity) text(key) | when a person let it go last, i64 |
//! | `states` | u16 length of the entity's name, name, key, group u64 | expiry i64, state |
//! | `rows` | u16 length of the stream's name, name, event id | expiry i64, record |
//! | `decisions` | position u64 | record |
//! | `claims` | decision id, 16 bytes | position u64 |
//! | `appended` | decision id, number u32 | text |
//! | `recent` | text(entity) text(key) position u64 | empty |
//! | `lists` | kind u8, text(entity) text(key) | entry, JSON |
//! | `outbox` | position u64 of the decision, number u32 from 1 | intent, JSON |
//! | | position u64 of the next decision, 0 u32, number of the commit u64, number u32 | intent of no decision, JSON |
//! | `logs` | text(log) position u64 | entry |
//! | `expiry` | day u64, kind u8 (0 state, 1 row), the key there | empty |
//!
//! Invariant: an expiry is microseconds since the epoch, or the largest i64 for never; a day is the expiry's day since
//! the epoch with the sign bit flipped.

use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use uuid::Uuid;

use crate::error::StoreError;
use crate::port::{KEY_BYTES_MAX, LogName, RowKey, VALUE_BYTES_MAX};

/// The format that this version reads and writes.
pub(super) const FORMAT: u8 = 1;

pub(super) const FORMAT_KEY: [u8; 1] = [0];
pub(super) const SEQUENCE_KEY: [u8; 1] = [1];
const INCARNATION: u8 = 2;
const OFFSET: u8 = 3;
const LOG_FIRST: u8 = 4;
pub(super) const REGISTRY: u8 = 5;
pub(super) const ALIAS: u8 = 6;
const LOOSE: u8 = 7;
pub(super) const UNBLOCK: u8 = 8;

/// Bytes before a state or row record.
const HEAD_BYTES: usize = 8;

/// What an entry of the expiry index points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Perishable {
    State,
    Row,
}

fn bounded(what: &'static str, bytes: usize) -> Result<(), StoreError> {
    if bytes > KEY_BYTES_MAX {
        return Err(StoreError::TooLarge { what, bytes, limit: KEY_BYTES_MAX });
    }
    Ok(())
}

/// Refuses values over the port's bound.
pub(super) fn bounded_value(what: &'static str, bytes: usize) -> Result<(), StoreError> {
    if bytes > VALUE_BYTES_MAX {
        return Err(StoreError::TooLarge { what, bytes, limit: VALUE_BYTES_MAX });
    }
    Ok(())
}

fn push_text(key: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend([0, 1]);
}

/// Reads one text from the front of `key`.
pub(super) fn take_text<'a>(what: &'static str, key: &'a [u8]) -> Result<(String, &'a [u8]), StoreError> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        match (key.get(at), key.get(at + 1)) {
            (Some(0), Some(0xFF)) => {
                text.push(0);
                at += 2;
            }
            (Some(0), Some(1)) => break,
            (Some(0) | None, _) => return Err(corrupt(what, "its key ends within a text")),
            (Some(byte), _) => {
                text.push(*byte);
                at += 1;
            }
        }
    }
    let text = String::from_utf8(text).map_err(|error| corrupt(what, &error.to_string()))?;
    Ok((text, &key[at + 2..]))
}

fn push_named(out: &mut Vec<u8>, name: &str, key: &[u8]) -> Result<(), StoreError> {
    bounded("key", name.len() + key.len())?;
    let length = u16::try_from(name.len()).expect("KEY_BYTES_MAX is below 64 KB");
    out.extend(length.to_be_bytes());
    out.extend(name.as_bytes());
    out.extend(key);
    Ok(())
}

/// Writes a state's key into `out`, which is cleared.
pub(super) fn state_key(out: &mut Vec<u8>, entity: &str, key: &[u8], group: u64) -> Result<(), StoreError> {
    out.clear();
    push_named(out, entity, key)?;
    out.extend(group.to_be_bytes());
    Ok(())
}

/// The beginning of the keys of an entity's states.
pub(super) fn entity_prefix(entity: &str) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    push_named(&mut out, entity, &[])?;
    Ok(out)
}

/// Writes a row record's key into `out`, which is cleared.
pub(super) fn row_key(out: &mut Vec<u8>, key: &RowKey) -> Result<(), StoreError> {
    out.clear();
    push_named(out, &key.stream, &key.id)
}

/// Writes head and body of a state or row record into `out`, which is cleared.
pub(super) fn perishable_value(out: &mut Vec<u8>, expires: Option<Timestamp>, body: &[u8]) {
    out.clear();
    out.extend(expires.map_or(i64::MAX, Timestamp::micros).to_be_bytes());
    out.extend(body);
}

/// Splits a stored state or row record into expiry (microseconds) and body.
pub(super) fn split_perishable(value: &[u8]) -> Result<(i64, &[u8]), StoreError> {
    match value.split_first_chunk::<HEAD_BYTES>() {
        Some((head, body)) => Ok((i64::from_be_bytes(*head), body)),
        None => Err(corrupt("state or row record", "it is shorter than its head")),
    }
}

/// The day in which an instant lies, ordered as unsigned.
pub(super) fn day(instant: Timestamp) -> u64 {
    instant.micros().div_euclid(Span::DAY.micros()).cast_unsigned() ^ (1 << 63)
}

/// Writes an expiry entry's key into `out`, which is cleared.
pub(super) fn expiry_key(out: &mut Vec<u8>, day: u64, kind: Perishable, key: &[u8]) {
    out.clear();
    out.extend(day.to_be_bytes());
    out.push(match kind {
        Perishable::State => 0,
        Perishable::Row => 1,
    });
    out.extend(key);
}

/// Splits an expiry entry's key into day, kind and the key it points at.
pub(super) fn split_expiry(key: &[u8]) -> Result<(u64, Perishable, &[u8]), StoreError> {
    let (day, rest) = key.split_first_chunk::<8>().ok_or_else(|| corrupt("expiry entry", "its key is too short"))?;
    match rest.split_first() {
        Some((0, key)) => Ok((u64::from_be_bytes(*day), Perishable::State, key)),
        Some((1, key)) => Ok((u64::from_be_bytes(*day), Perishable::Row, key)),
        _ => Err(corrupt("expiry entry", "it points at nothing known")),
    }
}

fn entity_into(out: &mut Vec<u8>, entity: &EntityRef) -> Result<(), StoreError> {
    bounded("entity", entity.entity.len() + entity.key.len())?;
    push_text(out, &entity.entity);
    push_text(out, &entity.key);
    Ok(())
}

/// The beginning of the keys of an entity's recent decisions.
pub(super) fn recent_prefix(entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(entity.entity.len() + entity.key.len() + 12);
    entity_into(&mut out, entity)?;
    Ok(out)
}

/// The key of a list entry.
pub(super) fn list_key(kind: ListKind, entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(entity.entity.len() + entity.key.len() + 5);
    out.push(match kind {
        ListKind::ManualBlock => 0,
        ListKind::Allow => 1,
        ListKind::AutomaticBlock => 2,
    });
    entity_into(&mut out, entity)?;
    Ok(out)
}

/// The key under which it stands when an entity was let go.
pub(super) fn unblock_key(entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![UNBLOCK];
    entity_into(&mut out, entity)?;
    Ok(out)
}

fn tagged(tag: u8, what: &'static str, texts: &[&str]) -> Result<Vec<u8>, StoreError> {
    bounded(what, texts.iter().map(|text| text.len()).sum())?;
    let mut out = vec![tag];
    for text in texts {
        push_text(&mut out, text);
    }
    Ok(out)
}

/// The key of a source's incarnation.
pub(super) fn incarnation_key(source: &str) -> Result<Vec<u8>, StoreError> {
    tagged(INCARNATION, "source name", &[source])
}

/// The beginning of the keys of a source's offsets; the partition follows.
pub(super) fn offset_prefix(source: &str) -> Result<Vec<u8>, StoreError> {
    tagged(OFFSET, "source name", &[source])
}

/// The key of one offset.
pub(super) fn offset_key(source: &str, partition: u32) -> Result<Vec<u8>, StoreError> {
    let mut out = offset_prefix(source)?;
    out.extend(partition.to_be_bytes());
    Ok(out)
}

/// The key of the first position of a log that is not trimmed.
pub(super) fn log_first_key(log: LogName) -> Result<Vec<u8>, StoreError> {
    tagged(LOG_FIRST, "log name", &[log.0])
}

/// The key of a registered bundle.
pub(super) fn registry_key(name: &str, version: &str) -> Result<Vec<u8>, StoreError> {
    tagged(REGISTRY, "bundle name", &[name, version])
}

/// The key of an alias.
pub(super) fn alias_key(alias: &str) -> Result<Vec<u8>, StoreError> {
    tagged(ALIAS, "alias", &[alias])
}

/// The beginning of the keys of a log's entries; the position follows.
pub(super) fn log_prefix(log: LogName) -> Result<Vec<u8>, StoreError> {
    bounded("log name", log.0.len())?;
    let mut out = Vec::with_capacity(log.0.len() + 10);
    push_text(&mut out, log.0);
    Ok(out)
}

/// `prefix` followed by a position.
pub(super) fn at_position(prefix: &[u8], position: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 8);
    out.extend(prefix);
    out.extend(position.to_be_bytes());
    out
}

/// The key of one text appended under a decision.
pub(super) fn appended_key(decision: Uuid, number: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..16].copy_from_slice(decision.as_bytes());
    out[16..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The key of an outbox entry of the decision at `position`, its actions numbered from 1.
pub(super) fn outbox_key(position: u64, number: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&position.to_be_bytes());
    out[8..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The key of an outbox entry of no decision: behind those of all decisions before `decisions_next`.
pub(super) fn loose_key(decisions_next: u64, sequence: u64, number: u32) -> [u8; 24] {
    let mut out = [0; 24];
    out[..12].copy_from_slice(&outbox_key(decisions_next, 0));
    out[12..20].copy_from_slice(&sequence.to_be_bytes());
    out[20..].copy_from_slice(&number.to_be_bytes());
    out
}

/// Where the key of an outbox entry of no decision is found.
pub(super) fn loose_index_key(id: Uuid, action: &str) -> Result<Vec<u8>, StoreError> {
    bounded("action name", action.len())?;
    let mut out = vec![LOOSE];
    out.extend(id.as_bytes());
    push_text(&mut out, action);
    Ok(out)
}

/// The number in the last eight bytes.
pub(super) fn position_at_end(what: &'static str, bytes: &[u8]) -> Result<u64, StoreError> {
    match bytes.split_last_chunk::<8>() {
        Some((_, last)) => Ok(u64::from_be_bytes(*last)),
        None => Err(corrupt(what, "its position is too short")),
    }
}

/// Bytes that are not what this format says.
pub(super) fn corrupt(what: &'static str, why: &str) -> StoreError {
    StoreError::Corrupt {
        what,
        why: format!(
            "{why}; restore the store's folder from a copy, or move it away and let a new one be filled from the source"
        ),
    }
}

/// Reads stored JSON.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(what, &error.to_string()))
}

/// Writes JSON to be stored.
pub(super) fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Invalid { what, why: error.to_string() })
}
