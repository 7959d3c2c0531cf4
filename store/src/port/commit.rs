//! What is written together: a commit, what it is made of, and the answer to it.

use std::sync::Arc;

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Append, ListEntry, ListWrite, Listed, OffsetMove, RowKey, Stamp, Unblock, WorkId};

/// When a commit must be on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// It survives the death of the process; a power failure may take what the last moments wrote.
    #[default]
    Process,
    /// It survives power failure once `commit` returns.
    Power,
}

/// Everything that is to be written together.
///
/// Where one commit names the same thing twice, order decides: of two claims of one id the first holds; of two writes
/// of one state, row or list entry the last does; a claim's own list entries come before [`Commit::lists`]. Two moves
/// of one offset follow each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commit {
    /// States, absolute: the newest bytes of each dirty (group, key).
    pub states: Vec<StateWrite>,
    /// Row records, absolute.
    pub rows: Vec<RowWrite>,
    /// Decisions to be claimed.
    pub claims: Vec<Claim>,
    /// Actions that belong to no claim, such as an analyst's unblocking: they enter the outbox behind those of the
    /// claims. Each has an id of its own in place of a decision's, under which its result is kept; one that is in the
    /// outbox already changes nothing.
    pub intents: Vec<Intent>,
    /// List entries to be set or removed.
    pub lists: Vec<ListWrite>,
    /// Entities that people let go: see [`Unblock`].
    pub unblocks: Vec<Unblock>,
    /// Entries that must be stored still as they were read, where several processes write: see `RedisStore::entries`.
    pub listed: Vec<Listed>,
    /// What must be stored still and is not written, where several processes write: else the whole commit is [`StoreError::Conflict`](crate::error::StoreError::Conflict).
    pub unchanged: Vec<Unchanged>,
    /// Entries for the logs.
    pub appends: Vec<Append>,
    /// Outbox entries that are finished; one that is not in the outbox (any more) changes nothing.
    pub finished: Vec<Finished>,
    /// What is to be appended under decisions beside results of actions: labels, late scores.
    pub notes: Vec<Note>,
    /// Offsets to be moved.
    pub offsets: Vec<OffsetMove>,
    /// Work that is left for whoever takes it: see `RedisStore::take_work`.
    pub work: Vec<Bytes>,
    /// Work that is done; a piece that is no longer in the queue changes nothing.
    pub done: Vec<WorkId>,
    /// What this commit must survive.
    pub durability: Durability,
}

/// One state to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateWrite {
    /// The entity's name.
    pub entity: Arc<str>,
    /// Its key, encoded.
    pub key: Box<[u8]>,
    /// The group's identity.
    pub group: u64,
    /// The state; `None` removes it.
    pub bytes: Option<Bytes>,
    /// After which event time nothing reads it any more; `None`: never expires.
    pub expires: Option<Timestamp>,
    /// What must be stored still, where several processes write: else the whole commit is [`StoreError::Conflict`](crate::error::StoreError::Conflict).
    pub expected: Option<Stamp>,
}

/// One row record to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowWrite {
    /// Where.
    pub key: RowKey,
    /// The record; `None` removes it.
    pub bytes: Option<Bytes>,
    /// After which event time nothing reads it any more.
    pub expires: Option<Timestamp>,
    /// As [`StateWrite::expected`].
    pub expected: Option<Stamp>,
}

/// A state or row record that a commit rests on and leaves as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unchanged {
    /// Where it stands.
    pub place: Place,
    /// What it was when it was read.
    pub expected: Stamp,
}

/// Where a state or row record stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A state.
    State {
        /// The entity's name.
        entity: Arc<str>,
        /// Its key, encoded.
        key: Box<[u8]>,
        /// The group's identity.
        group: u64,
    },
    /// A row record.
    Row(RowKey),
}

/// A decision to be stored where none is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its id.
    pub id: Uuid,
    /// Its record, JSON.
    pub record: Bytes,
    /// The entities under which it is found as a recent decision.
    pub entities: Vec<EntityRef>,
    /// Its actions: they enter the outbox with the record, if the claim succeeds. Each names this decision, and an
    /// action at most once.
    pub intents: Vec<Intent>,
    /// List entries that come into being with it, if the claim succeeds (automatic blocks).
    pub lists: Vec<ListEntry>,
}

/// An action that is to be done, because of a decision or of a person's act.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The decision, or the act's own id.
    pub decision: Uuid,
    /// The configured action's name.
    pub action: String,
    /// What the action needs, JSON.
    pub payload: String,
    /// When it was decided.
    pub created: Timestamp,
}

/// An outbox entry whose action is done or given up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// The decision.
    pub decision: Uuid,
    /// The action.
    pub action: String,
    /// What came of it, appended under the decision's id (JSON).
    pub result: String,
}

/// Something that is appended under a decision's id. The same text under the same id is kept once, so that a replay
/// changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The decision; it need not exist yet.
    pub decision: Uuid,
    /// The text, JSON.
    pub text: String,
}

/// What became of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClaimOutcome {
    /// The record is stored and has this place in the decision log.
    Claimed {
        /// Position in the log [`LogName::DECISIONS`](super::LogName::DECISIONS).
        position: u64,
    },
    /// Another record was there first; it holds.
    Existing(Bytes),
}

/// The answer to a [`Commit`].
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Per claim.
    pub claims: Vec<ClaimOutcome>,
    /// Per append: its position in its log.
    pub appended: Vec<u64>,
}
