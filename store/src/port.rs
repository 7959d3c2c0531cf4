//! The port: what every store offers, in the shape that one pipelined round trip to Redis can serve.
//!
//! Reads are batched ([`Query`] asks for everything that a decision or a micro-batch needs); writes are batched and
//! conditional ([`Commit`]).

mod commit;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::StoreError;

pub use commit::{
    Claim, ClaimOutcome, Commit, Committed, Durability, Finished, Intent, Note, Place, RowWrite, StateWrite, Unchanged,
};

/// Everything that is to be read at once. Answers come in the order of the questions.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// States of entities.
    pub states: Vec<StateQuery>,
    /// Row records.
    pub rows: Vec<RowKey>,
    /// Decision records.
    pub decisions: Vec<Uuid>,
    /// Entities whose list entries are wanted.
    pub lists: Vec<EntityRef>,
}

/// Groups of one entity key.
#[derive(Clone, Debug)]
pub struct StateQuery {
    /// The entity's name.
    pub entity: Arc<str>,
    /// Its key, encoded.
    pub key: Box<[u8]>,
    /// Identities of the groups wanted.
    pub groups: Arc<[u64]>,
}

/// Where one row record stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RowKey {
    /// The stream's name.
    pub stream: Arc<str>,
    /// The event id, encoded.
    pub id: Box<[u8]>,
}

/// The answers to a [`Query`].
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Per state query, per group: the state's bytes.
    pub states: Vec<Vec<Option<Bytes>>>,
    /// Per row: the record's bytes.
    pub rows: Vec<Option<Bytes>>,
    /// Per decision: the record's bytes.
    pub decisions: Vec<Option<Bytes>>,
    /// Per entity: its entries on all lists, expired ones included (time is the caller's).
    pub lists: Vec<Vec<ListEntry>>,
}

/// What a state or row record was when it was read: equal for equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp(pub(crate) Option<u64>);

impl Stamp {
    /// Nothing was stored.
    pub const ABSENT: Self = Self(None);
}

/// How far one partition of a source is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePosition {
    /// The source's name.
    pub source: String,
    /// Its partition.
    pub partition: u32,
    /// Position of the last change applied.
    pub position: u64,
}

/// The answers to a [`Query`], all of one instant, and what a commit that rests on them has to say.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The answers.
    pub fetched: Fetched,
    /// Per state query, per group.
    pub states: Vec<Vec<Stamp>>,
    /// Per row.
    pub rows: Vec<Stamp>,
    /// How far every source was applied to what was read.
    pub positions: Vec<SourcePosition>,
}

/// A piece of work in the queue, as it is known there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WorkId(pub(crate) String);

/// Who has what a store has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replicated {
    /// No replicas are configured to be waited for.
    Nobody,
    /// The configured number of replicas, of the server that answers now: where it has taken over from the one that was read, it may lack what
    /// that one showed.
    Confirmed,
}

/// Where an action stands in the outbox: those that enter later stand behind it. Good for the store that gave it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutboxPlace(pub(crate) Box<[u8]>);

/// An entry of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListEntry {
    /// Which list.
    pub list: ListKind,
    /// Who is on it.
    pub entity: EntityRef,
    /// Why.
    pub reason: String,
    /// The decision that put it there, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Uuid>,
    /// Who put it there: a key's name, or `decision`.
    pub author: String,
    /// When it was put there.
    pub created: Timestamp,
    /// When it ends; `None`: when it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// A change of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListWrite {
    /// Adds or replaces the entity's entry on a list.
    Set(ListEntry),
    /// Removes the entity's entry from a list.
    Remove {
        /// Which list.
        list: ListKind,
        /// Who.
        entity: EntityRef,
    },
}

/// What a person let go, whatever else is on its way: of a claim that comes later an automatic block of before, or of the same instant, is not
/// entered. It is remembered for [`UNBLOCKS_KEPT`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unblock {
    /// Who.
    pub entity: EntityRef,
    /// When; of several the latest counts.
    pub at: Timestamp,
}

/// What was read of an entity's list entries: a commit that carries it is [`StoreError::Conflict`] once any of it has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub(crate) entity: EntityRef,
    /// Per list, as it is stored.
    pub(crate) entries: Vec<(ListKind, Option<Bytes>)>,
    pub(crate) unblocked: Option<Timestamp>,
}

impl Listed {
    /// When a person let the entity go last, as far as that is remembered.
    #[must_use]
    pub fn unblocked(&self) -> Option<Timestamp> {
        self.unblocked
    }
}

/// A log: entries in order, numbered from 0 without gaps, trimmed from the front.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogName(pub &'static str);

impl LogName {
    /// Requests, labels, pushes and list changes that came over HTTP.
    pub const INPUT: Self = Self("input");
    /// Decision records as they were claimed.
    pub const DECISIONS: Self = Self("decisions");
    /// Dead letters that are still to be produced to topics.
    pub const DEAD_LETTERS: Self = Self("dead-letters");
    /// Administrative acts.
    pub const AUDIT: Self = Self("audit");
}

/// An entry for a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// Which log; decisions enter theirs by being claimed.
    pub log: LogName,
    /// The entry.
    pub bytes: Bytes,
}

/// Moves a source's offset from the value its writer left it at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetMove {
    /// The source's name.
    pub source: String,
    /// Its partition.
    pub partition: u32,
    /// The stored position must be this one (`None`: none stored yet).
    pub from: Option<u64>,
    /// The position of the last change applied.
    pub to: u64,
}

/// A stored offset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offset {
    /// Partition of the source.
    pub partition: u32,
    /// Position of the last change applied.
    pub position: u64,
}

/// One decision with what was appended under its id.
#[derive(Clone, Debug)]
pub struct StoredDecision {
    /// The record, JSON.
    pub record: Bytes,
    /// Results of actions, labels and late scores, in the order they came (JSON each).
    pub appended: Vec<String>,
}

/// A bundle as the registry knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegistryEntry {
    /// Model name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 over the bundle's files, hex.
    pub hash: String,
    /// Where its folder is.
    pub location: String,
    /// When it was registered.
    pub registered: Timestamp,
}

/// All registered bundles, in order of name and version, and the aliases (`model@name` to version), in order of alias.
pub type Registered = (Vec<RegistryEntry>, Vec<(String, String)>);

/// How long before the newest [`Unblock`] others are remembered: no commit is on its way for longer.
pub const UNBLOCKS_KEPT: Span = Span::from_micros(7 * Span::DAY.micros());

/// How much longer than asked a store may keep what expired.
pub const EXPIRY_SLACK: Span = Span::DAY;

/// The longest key (entity name and key, stream and event id, ...) and the longest text in a key, bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// The largest single value, bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How many of an entity's newest decisions are found by [`Store::recent_decisions`].
pub const RECENT_DECISIONS_MAX: usize = 100;

/// What every store offers. All positions and answers are in the order of the questions.
///
/// Durability: after `commit` returns Ok, everything in it is visible to every later call on this store and
/// survives as [`Durability`] says. A future that is dropped may or may not have taken effect; repeating it is safe
/// for claims (the first record is handed back) and detected for offsets ([`StoreError::Fenced`]). The same holds for a
/// commit that failed with an error of class Transient or Fatal; one that failed as Rejected, [`StoreError::Fenced`],
/// [`StoreError::Conflict`], [`StoreError::OutboxFull`] or [`StoreError::WorkFull`] wrote nothing.
///
/// The outbox is bounded, by its capacity or by one commit: an empty one takes a commit however many intents it brings, which
/// would find no room for ever otherwise.
///
/// The embedded store does its short blocking work inside the futures: poll them on a thread that may block, or use its
/// synchronous methods.
pub trait Store: Send + Sync + 'static {
    /// Reads everything a decision or a micro-batch needs in one round trip.
    fn fetch(&self, query: &Query) -> impl Future<Output = Result<Fetched, StoreError>> + Send;

    /// Writes everything together.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// The stored offsets of a source, checked against its identity: `incarnation` is stored by the first call and binds
    /// once an offset is stored; until then nothing was applied, and another one takes its place.
    fn offsets(&self, source: &str, incarnation: &str) -> impl Future<Output = Result<Vec<Offset>, StoreError>> + Send;

    /// The stored offsets of a source, whatever its identity: what the stored states hold of it.
    fn positions(&self, source: &str) -> impl Future<Output = Result<Vec<Offset>, StoreError>> + Send;

    /// A decision with what was appended under its id.
    fn decision(&self, id: Uuid) -> impl Future<Output = Result<Option<StoredDecision>, StoreError>> + Send;

    /// The newest decisions of an entity, the last claimed first, at most [`RECENT_DECISIONS_MAX`].
    fn recent_decisions(
        &self,
        entity: &EntityRef,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Bytes>, StoreError>> + Send;

    /// All list entries, in order of list, entity and key.
    fn lists(&self) -> impl Future<Output = Result<Vec<ListEntry>, StoreError>> + Send;

    /// Unfinished actions behind a place of the outbox (`None`: all of them), oldest first, at most `limit`. A store that went back behind a
    /// commit gives places anew: who goes on behind one reads everything now and then.
    fn outbox(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(OutboxPlace, Intent)>, StoreError>> + Send;

    /// Waits until the configured replicas have everything that this store has shown so far, whoever committed it; returns at once where
    /// none are configured, as embedded.
    ///
    /// What a commit with [`Durability::Power`] writes is seen by others before the replicas have it: who acts on it outside of the store
    /// asks here before.
    fn replicated(&self) -> impl Future<Output = Result<Replicated, StoreError>> + Send;

    /// Work that was left for whoever takes it and is not done; embedded there is none.
    fn work_waiting(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Entries of a log from `position` on, at most `limit`, with their positions.
    fn read_log(
        &self,
        log: LogName,
        position: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(u64, Bytes)>, StoreError>> + Send;

    /// The position that the next entry of a log will have.
    fn log_next(&self, log: LogName) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Forgets the entries of a log before `position`; positions after the newest entry are taken as all entries, and
    /// numbering goes on. Of [`LogName::DECISIONS`] only the log is trimmed: the records stay under their ids.
    fn trim_log(&self, log: LogName, position: u64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes states and row records whose `expires` lies before `now`; returns how many. A store may keep one up to
    /// [`EXPIRY_SLACK`] longer, never shorter; one that was rewritten counts by its newest `expires`. It looks at a few at a time; dropped
    /// between two steps it leaves the rest for another time.
    fn expire(&self, now: Timestamp) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Removes the states of an entity's group for which `is_stale` holds; returns how many. It looks at a few at a time, beside readers
    /// and writers; a state that is written meanwhile stays as it is written. What was removed before an error is not counted. Dropped
    /// between two steps it leaves the rest for another time.
    fn prune(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Registers a bundle; the same (name, version) with another hash is refused.
    fn register(&self, entry: RegistryEntry) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All registered bundles and the aliases (`model@alias` to version).
    fn registry(&self) -> impl Future<Output = Result<Registered, StoreError>> + Send;

    /// Points `alias` (`model@name`) at a registered version of that model.
    fn set_alias(&self, alias: &str, version: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
}
