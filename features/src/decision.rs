//! Decisions and their records: what the scorer makes, the API returns, the log stores and the monitor reads.
//!
//! Invariant: a record never changes once it is stored under its id; action results, labels and late scores are
//! appended beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;
use crate::value::Value;
use crate::vector::{Flags, Reading};

/// What becomes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Goes through.
    Approve,
    /// A person looks at it.
    Review,
    /// Is stopped, and its actions run.
    Block,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Approve, Self::Review, Self::Block];
}

/// What settled the outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The model's score against the thresholds.
    Model,
    /// The fast model, because the other did not answer in time.
    FastModel,
    /// A rule.
    Rules,
    /// A block or allow list.
    List,
    /// The policy for events that could not be judged, or not in time.
    Default,
}

impl DecidedBy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Model, Self::FastModel, Self::Rules, Self::List, Self::Default];
}

/// The namespace of decision ids (DESIGN 3.16): UUIDv5 of the URL namespace and `https://interdict.dev/decision`.
fn decision_namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, b"https://interdict.dev/decision")
}

/// The id of the decision on the `n`-th judgement (from 0) of an event: UUIDv5 of (namespace, stream, event id, n).
/// The parts are joined with their lengths, so that no two lists of parts give one id.
#[must_use]
pub fn decision_id(namespace: &str, stream: &str, event_id: &str, n: u32) -> Uuid {
    let name = format!("{}:{namespace}{}:{stream}{}:{event_id}{n}", namespace.len(), stream.len(), event_id.len());
    Uuid::new_v5(&decision_namespace(), name.as_bytes())
}

/// What one rule said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuleResult {
    /// Stable id.
    pub id: String,
    /// Version of the rule's text.
    pub version: u32,
    /// Whether it held.
    pub hit: bool,
    /// Names it read that were null; a rule on null is not hit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What one model said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelScore {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the bundle, hex.
    pub bundle_hash: String,
    /// Probability of fraud, `None` when the model failed.
    pub score: Option<f64>,
    /// Time the model took, microseconds.
    pub micros: u64,
    /// `champion`, `fast`, `shadow` or `challenger`.
    pub role: String,
}

/// The score thresholds in force.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Thresholds {
    /// At or over it: review.
    pub review: f64,
    /// At or over it: block.
    pub block: f64,
}

/// Key of one entity of the event, as text; composite keys are joined with `|`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EntityRef {
    /// The entity's name.
    pub entity: String,
    /// Its key.
    pub key: String,
}

/// A list entry that the event's entities met.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListHit {
    /// Which list.
    pub list: ListKind,
    /// The entity that is on it.
    pub entity: EntityRef,
    /// Why it is on it.
    pub reason: String,
}

/// The three lists, in the order in which they bind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListKind {
    /// Blocked by a person.
    ManualBlock,
    /// Always let through.
    Allow,
    /// Blocked by an earlier decision.
    AutomaticBlock,
}

/// A reason for the outcome, fit to be shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code: a rule's id, `score_block`, `score_review`, `manual_block`, ...
    pub code: String,
    /// Text for a person.
    pub text: String,
}

/// An action a decision wants done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActionIntent {
    /// The configured action's name.
    pub action: String,
    /// The entity it condemns.
    pub target: EntityRef,
}

/// One feature as the decision saw it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "FlatFeature")]
pub struct RecordedFeature {
    /// Its name.
    pub name: std::sync::Arc<str>,
    /// Value and qualities.
    #[serde(flatten)]
    pub reading: Reading,
}

/// How a feature is written. Reading it by way of `flatten` would gather every value before it is known what it is; the monitor reads
/// millions.
#[derive(Deserialize)]
struct FlatFeature {
    name: std::sync::Arc<str>,
    value: Value,
    #[serde(default)]
    flags: Flags,
    #[serde(default)]
    edge_events: u32,
}

impl From<FlatFeature> for RecordedFeature {
    fn from(FlatFeature { name, value, flags, edge_events }: FlatFeature) -> Self {
        Self { name, reading: Reading { value, flags, edge_events } }
    }
}

/// How far the decision had seen one source partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenPosition {
    /// `source/partition`.
    pub partition: String,
    /// Position of the last change that was applied before the decision, the judged one included.
    pub position: u64,
}

/// Everything about one decision (DESIGN section 6).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// UUIDv5 of (namespace, stream, event id, n).
    pub decision_id: Uuid,
    /// The caller's key, for requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The stream of the judged event.
    pub stream: String,
    /// Its id.
    pub event_id: String,
    /// Which judgement of this event it is, from 0.
    pub judgement: u32,
    /// Where the judged change was delivered.
    pub position: SeenPosition,
    /// The event's own time.
    pub event_time: Option<Timestamp>,
    /// When it reached us: commit time, broker timestamp or receipt.
    pub arrival_time: Option<Timestamp>,
    /// When it was decided, by the wall clock.
    pub decide_time: Timestamp,
    /// The instant the windows were read as of, per entity name.
    pub as_of: BTreeMap<String, Timestamp>,
    /// Keys of the event's entities.
    pub entities: Vec<EntityRef>,
    /// What was decided.
    pub outcome: Outcome,
    /// The champion's probability of fraud.
    pub score: Option<f64>,
    /// Thresholds in force.
    pub thresholds: Option<Thresholds>,
    /// Rules that hit, lacked a value or failed; the others held nothing.
    pub rules: Vec<RuleResult>,
    /// Models asked.
    pub models: Vec<ModelScore>,
    /// The feature vector.
    pub features: Vec<RecordedFeature>,
    /// The event's columns (sensitive ones as their keyed hash).
    pub event: BTreeMap<String, Value>,
    /// Positions seen per partition.
    pub seen: Vec<SeenPosition>,
    /// List entries met.
    pub list_hits: Vec<ListHit>,
    /// Why, in order of weight.
    pub reasons: Vec<Reason>,
    /// What settled it.
    pub decided_by: DecidedBy,
    /// The deadline given, microseconds from receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_micros: Option<u64>,
    /// What was left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_micros: Option<i64>,
    /// Names of features that were missing or stale and mattered to model or rules.
    pub degraded: Vec<String>,
    /// Actions wanted.
    pub actions: Vec<ActionIntent>,
    /// Experiment arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// Judged from a snapshot after a gap, not live.
    #[serde(default)]
    pub late: bool,
}

impl DecisionRecord {
    /// When the event reached us, where its source told: commit time, broker timestamp or receipt. `None` where the event's own time
    /// stands for it (files), and for a late one: that its snapshot was taken then says nothing of how long anything took.
    #[must_use]
    pub fn arrived_at(&self) -> Option<Timestamp> {
        self.arrival_time.filter(|arrival| !self.late && Some(*arrival) != self.event_time)
    }

    /// When the source committed the event, where it told; a request was received, not committed.
    #[must_use]
    pub fn committed_at(&self) -> Option<Timestamp> {
        self.arrived_at().filter(|_| self.deadline_micros.is_none())
    }

    /// The record without clocks and durations: what two runs over the same events must agree on.
    #[must_use]
    pub fn without_clocks(mut self) -> Self {
        self.decide_time = Timestamp::default();
        self.left_micros = None;
        self.deadline_micros = None;
        for model in &mut self.models {
            model.micros = 0;
        }
        self
    }
}
