//! Keys, fields and values in Redis: the only place that knows their bytes, beside the scripts.
//!
//! Layout, format 3. `NS` is the namespace (letters, digits, `-`, `_`); `name` is a text's length in bytes, a colon, the
//! text and a colon, so that no two pairs of name and key give one Redis key. All keys of a namespace carry one hash tag
//! (what stands in braces), so that they sit in one slot of a cluster and one script may touch them all.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `{NS}:e` name(entity) key, group, 8 bytes | string | expiry i64, stamp and state |
//! | `{NS}:r` name(stream) id | string | expiry i64, stamp and row record |
//! | `{NS}:d:` decision id, 16 bytes | string | decision record |
//! | `{NS}:t:` decision id, 16 bytes | list | texts appended under it, oldest first |
//! | `{NS}:n` name(entity) key | list | ids of the entity's newest decisions, newest first |
//! | `{NS}:meta` | hash | `format`, `sequence` (number of the last commit), `decisions` and `log:NAME` (next positions), `intents` (outbox entries ever), `sweep`, `swept`, `late` (see `expiry`) |
//! | `{NS}:offsets` | hash | partition `:` source to position |
//! | `{NS}:sources` | hash | source to incarnation |
//! | `{NS}:lists` | hash | kind (`0` manual block, `1` allow, `2` automatic block) name(entity) key to entry, JSON |
//! | `{NS}:unblocks` | sorted set | name(entity) key by the microsecond at which a person let it go last |
//! | `{NS}:intents` | hash | id of decision or act, and action, to intent, JSON |
//! | `{NS}:outbox` | sorted set | the same ids and actions by number, oldest first |
//! | `{NS}:log:decisions` | stream | entry `1-POSITION`: decision id |
//! | `{NS}:log:NAME` | stream | entry `1-POSITION`: the entry |
//! | `{NS}:work` | stream | pieces of work; its group `scorers` knows who has taken which |
//! | `{NS}:leases` | hash | lease to holder, epoch and end (ms); of those named by their holder (`leases.lua`) only what is held |
//! | `{NS}:bundles` | hash | name(model) version to registry entry, JSON |
//! | `{NS}:aliases` | hash | `model@alias` to version |
//! | `{NS}:writer:UUID` | hash | what became of this process's commits that it may ask about again (see `ledger`) |
//! | `{NS}:probe` | nothing | never written: whoever asks for it learns whether the server holds the whole slot (see `scripts`) |
//!
//! States are strings and not fields of a hash per entity: one command writes and reads thousands of them, which costs
//! the server a fifth less, and a sweep looks at heads alone.
//!
//! A stamp is XXH3-64 of the bytes behind it, big-endian. An expiry is microseconds since the epoch, big-endian, or the largest i64 for never. Other numbers are decimal texts.
//! An offset's position is compared as text: scripts count in doubles.

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use uuid::Uuid;

use crate::error::StoreError;
use crate::port::{KEY_BYTES_MAX, LogName, OutboxPlace, RowKey, SourcePosition, Stamp, VALUE_BYTES_MAX};

/// The format that this version reads and writes.
pub(super) const FORMAT: &str = "3";

/// Bytes before a state or row record.
const HEAD_BYTES: usize = 16;

/// The keys of one namespace.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    namespace: String,
}

impl Layout {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    fn single(&self, name: &str) -> Vec<u8> {
        format!("{{{}}}:{name}", self.namespace).into_bytes()
    }

    pub(super) fn meta(&self) -> Vec<u8> {
        self.single("meta")
    }

    pub(super) fn offsets(&self) -> Vec<u8> {
        self.single("offsets")
    }

    pub(super) fn sources(&self) -> Vec<u8> {
        self.single("sources")
    }

    pub(super) fn lists(&self) -> Vec<u8> {
        self.single("lists")
    }

    pub(super) fn unblocks(&self) -> Vec<u8> {
        self.single("unblocks")
    }

    pub(super) fn intents(&self) -> Vec<u8> {
        self.single("intents")
    }

    pub(super) fn outbox(&self) -> Vec<u8> {
        self.single("outbox")
    }

    pub(super) fn work(&self) -> Vec<u8> {
        self.single("work")
    }

    pub(super) fn leases(&self) -> Vec<u8> {
        self.single("leases")
    }

    pub(super) fn bundles(&self) -> Vec<u8> {
        self.single("bundles")
    }

    pub(super) fn aliases(&self) -> Vec<u8> {
        self.single("aliases")
    }

    pub(super) fn log(&self, log: LogName) -> Vec<u8> {
        self.single(&format!("log:{}", log.0))
    }

    pub(super) fn writer(&self, writer: Uuid) -> Vec<u8> {
        self.single(&format!("writer:{writer}"))
    }

    /// The key that is never there.
    pub(super) fn probe(&self) -> Vec<u8> {
        self.single("probe")
    }

    /// Writes a state's key into `out`, which is cleared.
    pub(super) fn state(&self, out: &mut Vec<u8>, entity: &str, key: &[u8], group: u64) -> Result<(), StoreError> {
        self.owned(out, 'e', entity, key)?;
        out.extend(group.to_be_bytes());
        Ok(())
    }

    /// Writes a row record's key into `out`, which is cleared.
    pub(super) fn row(&self, out: &mut Vec<u8>, key: &RowKey) -> Result<(), StoreError> {
        self.owned(out, 'r', &key.stream, &key.id)
    }

    /// The key of an entity's newest decisions.
    pub(super) fn recent(&self, entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        self.owned(&mut out, 'n', &entity.entity, entity.key.as_bytes())?;
        Ok(out)
    }

    /// The key of a decision's record.
    pub(super) fn decision(&self, id: Uuid) -> Vec<u8> {
        [self.decision_head().as_slice(), id.as_bytes()].concat()
    }

    /// The key of what is appended under a decision.
    pub(super) fn texts(&self, id: Uuid) -> Vec<u8> {
        [self.single("t:").as_slice(), id.as_bytes()].concat()
    }

    /// What stands before the id in the key of a decision's record.
    pub(super) fn decision_head(&self) -> Vec<u8> {
        self.single("d:")
    }

    /// The pattern of the keys of states and row records.
    pub(super) fn perishable_pattern(&self) -> String {
        format!("{{{}}}:[er][0-9]*", self.namespace)
    }

    /// The pattern of the keys of an entity's states in a group, and perhaps of more.
    pub(super) fn group_pattern(&self, entity: &str, group: u64) -> Vec<u8> {
        let mut out = format!("{{{}}}:e{}:", self.namespace, entity.len()).into_bytes();
        let literal = entity.bytes().chain([b':']);
        let behind = group.to_be_bytes();
        escaped(&mut out, literal);
        out.push(b'*');
        escaped(&mut out, behind.into_iter());
        out
    }

    fn owned(&self, out: &mut Vec<u8>, kind: char, name: &str, key: &[u8]) -> Result<(), StoreError> {
        bounded("key", name.len() + key.len())?;
        out.clear();
        out.extend(format!("{{{}}}:{kind}", self.namespace).into_bytes());
        push_named(out, name, key);
        Ok(())
    }
}

/// Appends bytes to a pattern that stand for themselves.
fn escaped(out: &mut Vec<u8>, literal: impl Iterator<Item = u8>) {
    for byte in literal {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

fn push_named(out: &mut Vec<u8>, name: &str, key: &[u8]) {
    out.extend(format!("{}:{name}:", name.len()).into_bytes());
    out.extend(key);
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

/// The field of a list entry.
pub(super) fn list_field(kind: ListKind, entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![match kind {
        ListKind::ManualBlock => b'0',
        ListKind::Allow => b'1',
        ListKind::AutomaticBlock => b'2',
    }];
    out.extend(unblock_member(entity)?);
    Ok(out)
}

/// The member of an entity that was let go: what stands behind the kind in the fields of its list entries.
pub(super) fn unblock_member(entity: &EntityRef) -> Result<Vec<u8>, StoreError> {
    bounded("entity", entity.entity.len() + entity.key.len())?;
    let mut out = Vec::new();
    push_named(&mut out, &entity.entity, entity.key.as_bytes());
    Ok(out)
}

/// The field of a log's next position.
pub(super) fn next_field(log: LogName) -> String {
    if log == LogName::DECISIONS { log.0.to_owned() } else { format!("log:{}", log.0) }
}

/// The field of an offset.
pub(super) fn offset_field(source: &str, partition: u32) -> Result<Vec<u8>, StoreError> {
    bounded("source name", source.len())?;
    Ok(format!("{partition}:{source}").into_bytes())
}

/// What an offset's field and value say.
pub(super) fn source_position(field: &[u8], position: &[u8]) -> Result<SourcePosition, StoreError> {
    let of_field = || {
        let (partition, source) = std::str::from_utf8(field).ok()?.split_once(':')?;
        Some((source.to_owned(), partition.parse().ok()?))
    };
    let (source, partition) = of_field().ok_or_else(|| corrupt("offset", "its field names no partition"))?;
    Ok(SourcePosition { source, partition, position: number("offset", position)? })
}

/// The partition in an offset's field, if it belongs to `source`.
pub(super) fn partition_of(field: &[u8], source: &str) -> Option<u32> {
    let (partition, name) = std::str::from_utf8(field).ok()?.split_once(':')?;
    if name == source { partition.parse().ok() } else { None }
}

/// The field of a registered bundle.
pub(super) fn bundle_field(name: &str, version: &str) -> Result<Vec<u8>, StoreError> {
    bounded("bundle name", name.len() + version.len())?;
    let mut out = Vec::new();
    push_named(&mut out, name, version.as_bytes());
    Ok(out)
}

/// Refuses an alias over the port's bound.
pub(super) fn bounded_alias(alias: &str) -> Result<(), StoreError> {
    bounded("alias", alias.len())
}

/// The field of an outbox entry.
pub(super) fn intent_field(decision: Uuid, action: &str) -> Result<Vec<u8>, StoreError> {
    bounded("action name", action.len())?;
    Ok([decision.as_bytes(), action.as_bytes()].concat())
}

/// The place of an outbox entry by its number, as the server writes it.
pub(super) fn outbox_place(number: &[u8]) -> Result<OutboxPlace, StoreError> {
    let number: u64 = self::number("outbox entry", number)?;
    Ok(OutboxPlace(Box::new(number.to_be_bytes())))
}

/// The number of the entry at a place, as the server reads it.
pub(super) fn outbox_number(OutboxPlace(place): &OutboxPlace) -> Vec<u8> {
    let number = place.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
    number.to_string().into_bytes()
}

/// Writes the head of a state or row record into `out`, which is cleared.
pub(super) fn perishable_value(out: &mut Vec<u8>, expires: Option<Timestamp>, body: &[u8]) {
    out.clear();
    out.extend(expires.map_or(i64::MAX, Timestamp::micros).to_be_bytes());
    out.extend(twox_hash::XxHash3_64::oneshot(body).to_be_bytes());
    out.extend(body);
}

/// What a stamp is in the head of a stored value; nothing where nothing is stored.
pub(super) fn stamp_bytes(stamp: Stamp) -> Vec<u8> {
    stamp.0.map(|hash| hash.to_be_bytes().to_vec()).unwrap_or_default()
}

/// Stamp and body of a stored state or row record.
pub(super) fn perishable(value: Vec<u8>) -> Result<(Stamp, Bytes), StoreError> {
    let stamp = value.split_first_chunk::<8>().and_then(|(_expiry, rest)| rest.first_chunk::<8>());
    let stamp = stamp.ok_or_else(|| corrupt("state or row record", "it is shorter than its head"))?;
    let stamp = Stamp(Some(u64::from_be_bytes(*stamp)));
    Ok((stamp, Bytes::from(value).slice(HEAD_BYTES..)))
}

/// The day in which an instant lies.
pub(super) fn day(instant: Timestamp) -> i64 {
    instant.micros().div_euclid(Span::DAY.micros())
}

/// The id of a log's entry.
pub(super) fn log_id(position: u64) -> String {
    format!("1-{position}")
}

/// The position in the id of a log's entry.
pub(super) fn log_position(id: &[u8]) -> Result<u64, StoreError> {
    let position = std::str::from_utf8(id).ok().and_then(|id| id.strip_prefix("1-")?.parse().ok());
    position.ok_or_else(|| corrupt("log entry", "its id is no position"))
}

/// A stored decimal number.
pub(super) fn number<T: std::str::FromStr>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| corrupt(what, "it is no number"))
}

/// A stored text.
pub(super) fn text(what: &'static str, bytes: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(bytes).map_err(|error| corrupt(what, &error.to_string()))
}

/// Bytes that are not what this format says.
pub(super) fn corrupt(what: &'static str, why: &str) -> StoreError {
    StoreError::Corrupt {
        what,
        why: format!(
            "{why}; restore the database from a copy, or use a new namespace and let it be filled from the source"
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
