//! What the HTTP edge asks of the engine behind it.
//!
//! Embedded, the backend is the process's own engine behind its bounded command queue; distributed, it is a scorer
//! over Redis. The edge has already authenticated, parsed and typed everything that is handed over here: keys and ids
//! are canonical and masked as the stream's columns say, texts are bounded, instants are valid.
//!
//! Invariants:
//! - Every call is made on behalf of a [`Caller`]; what changes state carries its name to the audit log.
//! - A future may be dropped at any await (the client went away, the last-resort timeout fired): what was asked may
//!   or may not take effect, and asking again is safe.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, EntityRef, ListKind, RecordedFeature};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use interdict_store::port::{ListEntry, StoredDecision};
use tokio::time::Instant;
use uuid::Uuid;

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The name of the key that was presented; `local` on a loopback edge without keys.
    pub name: Arc<str>,
    /// The request's id, for logs.
    pub request_id: Arc<str>,
}

/// When a request reached the edge, and until when its answer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// The receipt by the wall clock: the arrival time of what the request brings.
    pub received: Timestamp,
    /// The receipt by the clock that deadlines are measured with.
    pub start: Instant,
    /// The answer is wanted by then.
    pub deadline: Instant,
}

/// One event to be judged now.
#[derive(Clone, Debug)]
pub struct DecideRequest {
    /// Exactly one change: op `Request`, version `Version::REQUEST`, arrival = receipt, position 0 (the input log
    /// gives the real one). Its id is not null; its time may lie anywhere.
    pub batch: ChangeBatch,
    /// The event's id as decision ids are made of it.
    pub event_id: String,
    /// The caller's idempotency key, at most 255 visible ASCII characters. It is the caller's own: keys of two callers
    /// never meet. What identifies the decision is the event id; this only guards against reuse.
    pub idempotency_key: Option<String>,
    /// SHA-256 over the stream and the decoded cells: equal for equal events, however their JSON was written.
    pub body_hash: [u8; 32],
    /// Receipt and deadline.
    pub budget: Budget,
    /// Who asks.
    pub caller: Caller,
}

/// A decision, as it stands in the store or on its way there.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The record.
    pub record: DecisionRecord,
    /// The log could not take the record in time; it waits in the spill.
    pub unlogged: bool,
    /// The decision existed already and was handed out again.
    pub replayed: bool,
}

/// What came of a request for a decision.
#[derive(Clone, PartialEq, Debug)]
pub enum Decided {
    /// There is a decision.
    Judged(Box<Answer>),
    /// The condition under which the stream is judged does not hold for the event. It was taken all the same: it counts in the history
    /// of its entities, and may be judged later when its row changes.
    NotJudged,
}

/// The instant a read is made as of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsOf {
    /// The receipt of the request ([`Budget::received`]).
    Now,
    /// This instant.
    At(Timestamp),
}

/// A read of everything known of one key.
#[derive(Clone, PartialEq, Debug)]
pub struct EntityRead {
    /// The entity's index in the definitions.
    pub entity: usize,
    /// The key, one value per key column, each an integer or a text.
    pub key: Vec<Value>,
    /// The same as records and lists name it.
    pub reference: EntityRef,
    /// The instant to read as of.
    pub as_of: AsOf,
    /// How many recent decisions are wanted at most, 0 to 100.
    pub decisions_max: usize,
    /// Receipt and deadline.
    pub budget: Budget,
    /// Who asks.
    pub caller: Caller,
}

/// Everything known of one key.
#[derive(Clone, Debug)]
pub struct EntityAnswer {
    /// Whether there is any state of the key. An unknown key is an answer, not an error; its features are those of
    /// empty windows.
    pub is_known: bool,
    /// The instant it was read as of.
    pub as_of: Timestamp,
    /// The features of the entity's groups, in the order of the definitions.
    pub features: Vec<RecordedFeature>,
    /// Entries on any list, expired ones left out.
    pub lists: Vec<ListEntry>,
    /// The newest decisions, newest first: their stored records (JSON).
    pub decisions: Vec<Bytes>,
}

/// What a transaction turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// Fraud.
    Fraud,
    /// Genuine.
    Genuine,
    /// Not known any more: an earlier label is taken back.
    Unknown,
}

/// A label for one event, which may come before its event.
#[derive(Clone, PartialEq, Debug)]
pub struct LabelRequest {
    /// The index of the labelled stream in the definitions (never that of a label stream).
    pub stream: usize,
    /// The event's id, an integer or a text.
    pub id: Value,
    /// The same as decision ids are made of it.
    pub event_id: String,
    /// The label.
    pub label: Label,
    /// When it was reported; the receipt when the caller did not say.
    pub reported_at: Timestamp,
    /// Receipt and deadline.
    pub budget: Budget,
    /// Who asks.
    pub caller: Caller,
}

/// Something was appended to the input log and will be applied in its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Its position in the input log.
    pub position: u64,
}

/// Which list entries are wanted. Order: list, entity, key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListsRead {
    /// Only this list.
    pub list: Option<ListKind>,
    /// Only this entity.
    pub entity: Option<String>,
    /// Only entries after this one.
    pub after: Option<(ListKind, EntityRef)>,
    /// At most so many, 1 to 10,000.
    pub limit: usize,
    /// Entries that ended before are left out.
    pub budget: Budget,
    /// Who asks.
    pub caller: Caller,
}

/// Some list entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListsPage {
    /// In order of list, entity and key.
    pub entries: Vec<ListEntry>,
    /// Whether others follow.
    pub has_more: bool,
}

impl ListsRead {
    /// The page this read asks for, of all entries in order of list, entity and key.
    #[must_use]
    pub fn page_of(&self, all: Vec<ListEntry>) -> ListsPage {
        let wanted = |entry: &ListEntry| {
            self.list.is_none_or(|list| entry.list == list)
                && self.entity.as_ref().is_none_or(|entity| entry.entity.entity == *entity)
                && entry.expires.is_none_or(|expires| expires > self.budget.received)
                && self.after.as_ref().is_none_or(|(list, entity)| (entry.list, &entry.entity) > (*list, entity))
        };
        let mut rest = all.into_iter().filter(wanted);
        let entries: Vec<ListEntry> = rest.by_ref().take(self.limit).collect();
        ListsPage { has_more: rest.next().is_some(), entries }
    }
}

/// Puts an entity on a list by hand, or replaces its entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockSet {
    /// The entry: manual block or allow, author = the caller's name, created = receipt, no decision.
    pub entry: ListEntry,
    /// Receipt and deadline.
    pub budget: Budget,
    /// Who asks; goes to the audit log.
    pub caller: Caller,
}

/// Takes an entity off a list by hand. Off the list of automatic blocks it is an unblocking, a ledgered action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRemove {
    /// Which list.
    pub list: ListKind,
    /// Who.
    pub entity: EntityRef,
    /// Why; goes to the audit log.
    pub reason: String,
    /// Receipt and deadline.
    pub budget: Budget,
    /// Who asks; goes to the audit log.
    pub caller: Caller,
}

/// What became of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// The entry is gone.
    Removed,
    /// There was none.
    Absent,
}

/// A registered model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelEntry {
    /// Model name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 over the bundle, hex.
    pub bundle_hash: String,
    /// When it was registered.
    pub registered: Timestamp,
    /// Aliases that point at it (`champion` of `model@champion`).
    pub aliases: Vec<String>,
    /// What it does in this process (`champion`, `fast`, `shadow`, `challenger`); `None`: it is not loaded.
    pub role: Option<String>,
    /// Why it could not be activated, when it was asked to be.
    pub refused: Option<String>,
}

/// One reason why the process cannot serve yet or any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotReady {
    /// Stable code: `model_missing`, `store_unreachable`, `outbox_full`, ...
    pub code: &'static str,
    /// Text for an operator; readable without a key, so it names no values, hosts or paths.
    pub message: String,
}

/// A field of a request that is wrong.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FieldProblem {
    /// Its name, `event.amount`; never its value.
    pub field: String,
    /// What is wrong and what to send instead.
    pub problem: String,
}

/// Why the backend gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A queue or the spill is full; nothing was done.
    #[error("{what} is full")]
    Overloaded {
        /// Which bound was met.
        what: &'static str,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// There is nothing under this name or id.
    #[error("no such {what}")]
    NotFound {
        /// `decision`, `entity`, ...
        what: &'static str,
    },
    /// The request does not fit; nothing was done.
    #[error("the request does not fit ({} fields)", .0.len())]
    Invalid(Vec<FieldProblem>),
    /// A part that is needed (store, log, model) does not answer; trying again may help.
    #[error("{what} is not available")]
    Unavailable {
        /// Which part.
        what: &'static str,
        /// Why; for the log, never for the caller.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The deadline passed before anything was decided; nothing was done.
    #[error("the deadline passed before the event was decided")]
    DeadlineBeforeDeciding,
    /// The event has no id by which a second request for it could be known.
    #[error("the event has no stable id")]
    UnstableId,
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used with another request")]
    IdempotencyKeyReused,
    /// A mistake of ours.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The engine behind the edge.
///
/// Every method answers by its request's [`Budget::deadline`] whatever store, model or log do; an answer that cannot
/// be had by then is [`BackendError::DeadlineBeforeDeciding`] or [`BackendError::Unavailable`]. The edge cuts a call
/// off shortly after the deadline as a last resort.
pub trait Backend: Send + Sync + 'static {
    /// Decides on an event, or hands out the decision that exists for it. After Ok the decision is claimed and its
    /// actions' intent durable, unless the answer says `unlogged`: then it will be, or the process has died. Whatever
    /// was told under a decision's id is what [`Self::decision`] returns once it is stored.
    ///
    /// # Errors
    /// [`BackendError::IdempotencyKeyReused`] when the caller's key was used with another [`DecideRequest::body_hash`].
    fn decide(&self, request: DecideRequest) -> impl Future<Output = Result<Decided, BackendError>> + Send;

    /// Reads everything known of a key.
    fn read(&self, read: EntityRead) -> impl Future<Output = Result<EntityAnswer, BackendError>> + Send;

    /// A stored decision with what was appended under its id.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when there is none.
    fn decision(&self, id: Uuid, budget: Budget) -> impl Future<Output = Result<StoredDecision, BackendError>> + Send;

    /// Appends a label to the input log. After Ok it survives the death of the process.
    fn label(&self, label: LabelRequest) -> impl Future<Output = Result<Accepted, BackendError>> + Send;

    /// Entries of the block and allow lists.
    fn blocks(&self, read: ListsRead) -> impl Future<Output = Result<ListsPage, BackendError>> + Send;

    /// Sets a manual block or allow entry. After Ok every later decision of this process sees it, and act and author
    /// are in the audit log.
    fn set_block(&self, set: BlockSet) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Removes a list entry. After Ok no later decision of this process sees it, and act and author are in the audit
    /// log.
    fn remove_block(&self, remove: BlockRemove) -> impl Future<Output = Result<Removal, BackendError>> + Send;

    /// The registered models.
    fn models(&self, budget: Budget) -> impl Future<Output = Result<Vec<ModelEntry>, BackendError>> + Send;

    /// Why the process is not ready to serve; empty when it is. Answers at once, from what is known.
    fn ready(&self) -> impl Future<Output = Vec<NotReady>> + Send;
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}
