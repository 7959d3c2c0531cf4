//! The published shape of decision records and list entries.
//!
//! Records are handed out exactly as they are stored; these shapes only describe them in `/openapi.json`. A test
//! reads a full record through them and back, so that the two cannot part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Everything about one decision.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = DecisionRecord)]
pub(super) struct RecordShape {
    /// The decision's id.
    decision_id: Uuid,
    /// The caller's idempotency key, for requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    /// The stream of the judged event.
    stream: String,
    /// The event's id.
    event_id: String,
    /// Which judgement of this event it is, from 0.
    judgement: u32,
    /// Where the judged change was delivered.
    position: SeenPositionShape,
    /// The event's own time.
    #[schema(format = DateTime)]
    event_time: Option<String>,
    /// When it reached us.
    #[schema(format = DateTime)]
    arrival_time: Option<String>,
    /// When it was decided.
    #[schema(format = DateTime)]
    decide_time: String,
    /// The instant the windows were read as of, per entity.
    as_of: BTreeMap<String, String>,
    /// Keys of the event's entities.
    entities: Vec<EntityRefShape>,
    /// What was decided.
    outcome: OutcomeShape,
    /// The champion's probability of fraud.
    score: Option<f64>,
    /// Thresholds in force.
    thresholds: Option<ThresholdsShape>,
    /// Rules that hit, lacked a value or failed.
    rules: Vec<RuleResultShape>,
    /// Models asked.
    models: Vec<ModelScoreShape>,
    /// The feature vector.
    features: Vec<RecordedFeatureShape>,
    /// The event's columns, sensitive ones as their keyed hash.
    event: BTreeMap<String, serde_json::Value>,
    /// Positions seen per partition.
    seen: Vec<SeenPositionShape>,
    /// List entries met.
    list_hits: Vec<ListHitShape>,
    /// Why, in order of weight.
    reasons: Vec<ReasonShape>,
    /// What settled it.
    decided_by: DecidedByShape,
    /// The deadline given, microseconds from receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_micros: Option<u64>,
    /// What was left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_micros: Option<i64>,
    /// Features that were missing or stale and mattered.
    degraded: Vec<String>,
    /// Actions wanted.
    actions: Vec<ActionShape>,
    /// Experiment arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arm: Option<String>,
    /// Judged from a snapshot after a gap, not live.
    late: bool,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Outcome)]
pub(super) enum OutcomeShape {
    /// Goes through.
    Approve,
    /// A person looks at it.
    Review,
    /// Is stopped.
    Block,
}

/// What settled the outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DecidedBy)]
pub(super) enum DecidedByShape {
    /// The model's score.
    Model,
    /// The fast model's score.
    FastModel,
    /// A rule.
    Rules,
    /// A list.
    List,
    /// The policy for events that could not be judged, or not in time.
    Default,
}

/// The three lists, in the order in which they bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ListKind)]
pub(super) enum ListKindShape {
    /// Blocked by a person.
    ManualBlock,
    /// Always let through.
    Allow,
    /// Blocked by a decision.
    AutomaticBlock,
}

/// Position within a source partition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SeenPosition)]
pub(super) struct SeenPositionShape {
    /// `source/partition`.
    partition: String,
    /// The position.
    position: u64,
}

/// One entity.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = EntityRef)]
pub(super) struct EntityRefShape {
    /// The entity's name.
    entity: String,
    /// Its key as text.
    key: String,
}

/// Score thresholds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Thresholds)]
pub(super) struct ThresholdsShape {
    /// At or over it: review.
    review: f64,
    /// At or over it: block.
    block: f64,
}

/// What one rule said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = RuleResult)]
pub(super) struct RuleResultShape {
    /// Stable id.
    id: String,
    /// Version of its text.
    version: u32,
    /// Whether it held.
    hit: bool,
    /// Names it read that were null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
    /// Why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What one model said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ModelScore)]
pub(super) struct ModelScoreShape {
    /// Its name.
    name: String,
    /// Its version.
    version: String,
    /// SHA-256 of the bundle, hex.
    bundle_hash: String,
    /// Probability of fraud; null when the model failed.
    score: Option<f64>,
    /// Time it took, microseconds.
    micros: u64,
    /// `champion`, `fast`, `shadow` or `challenger`.
    role: String,
}

/// One feature.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = RecordedFeature)]
pub(super) struct RecordedFeatureShape {
    /// Its name.
    name: String,
    /// Its value.
    value: serde_json::Value,
    /// Sum of its qualities: 1 no key, 2 nothing known of the key, 4 truncated, 8 tiled, 16 inexact, 32 stale.
    #[serde(default, skip_serializing_if = "is_zero")]
    flags: u32,
    /// Of a tiled read: how many events lie in tiles that the window's edges cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    edge_events: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A list entry that the event met.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ListHit)]
pub(super) struct ListHitShape {
    /// Which list.
    list: ListKindShape,
    /// Who is on it.
    entity: EntityRefShape,
    /// Why.
    reason: String,
}

/// A reason.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Reason)]
pub(super) struct ReasonShape {
    /// Stable code.
    code: String,
    /// For a person.
    text: String,
}

/// An action that the decision wants done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ActionIntent)]
pub(super) struct ActionShape {
    /// The configured action.
    action: String,
    /// Whom it condemns.
    target: EntityRefShape,
}

/// An entry of a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ListEntry)]
pub(super) struct ListEntryShape {
    /// Which list.
    list: ListKindShape,
    /// Who is on it.
    entity: EntityRefShape,
    /// Why.
    reason: String,
    /// The decision that put it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Uuid>,
    /// Who put it there: a key's name, or `decision`.
    author: String,
    /// When it was put there.
    #[schema(format = DateTime)]
    created: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Every field present.
    fn full_record() -> Value {
        let entity = json!({"entity": "customer", "key": "7"});
        let time = "2026-11-20T10:00:00Z";
        json!({
            "decision_id": Uuid::nil(), "idempotency_key": "k", "stream": "transactions", "event_id": "1",
            "judgement": 0, "position": {"partition": "requests/0", "position": 3}, "event_time": time,
            "arrival_time": time, "decide_time": time, "as_of": {"customer": time}, "entities": [entity],
            "outcome": "block", "score": 0.5, "thresholds": {"review": 0.25, "block": 0.75},
            "rules": [{"id": "r", "version": 2, "hit": false, "missing": ["a"], "error": "e"}],
            "models": [{
                "name": "m", "version": "1", "bundle_hash": "ab", "score": null, "micros": 5, "role": "champion",
            }],
            "features": [{"name": "f", "value": 1.5, "flags": 12, "edge_events": 4}],
            "event": {"amount": 12.5, "card": null}, "seen": [{"partition": "file/0", "position": 9}],
            "list_hits": [{"list": "manual_block", "entity": entity, "reason": "mule"}],
            "reasons": [{"code": "c", "text": "t"}], "decided_by": "fast_model", "deadline_micros": 1000,
            "left_micros": -3, "degraded": ["f"], "actions": [{"action": "a", "target": entity}], "arm": "b",
            "late": true,
        })
    }

    #[test]
    fn the_shape_of_a_record_is_that_of_the_record() {
        let full = full_record();
        let record: interdict_features::decision::DecisionRecord = serde_json::from_value(full.clone()).unwrap();
        let stored = serde_json::to_value(&record).unwrap();
        assert_eq!(stored, full, "the example holds every field of the record");
        let shape: RecordShape = serde_json::from_value(stored).unwrap();
        assert_eq!(serde_json::to_value(&shape).unwrap(), full);
    }

    #[test]
    fn the_shape_of_a_list_entry_is_that_of_the_entry() {
        let full = json!({
            "list": "automatic_block", "entity": {"entity": "customer", "key": "7"}, "reason": "r",
            "decision": Uuid::nil(), "author": "decision", "created": "2026-11-20T10:00:00Z",
            "expires": "2026-11-21T10:00:00Z",
        });
        let entry: interdict_store::port::ListEntry = serde_json::from_value(full.clone()).unwrap();
        assert_eq!(serde_json::to_value(&entry).unwrap(), full);
        let shape: ListEntryShape = serde_json::from_value(full.clone()).unwrap();
        assert_eq!(serde_json::to_value(&shape).unwrap(), full);
    }
}
