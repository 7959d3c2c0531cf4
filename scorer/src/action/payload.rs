//! The body of a webhook, or of a record in a topic: made once, when the decision is, so that every try sends the same bytes.
//!
//! Layout (Standard Webhooks): `{"type": "interdict.decision.OUTCOME", "timestamp": ..., "data": {...}}`.

use std::collections::BTreeMap;

use interdict_features::decision::{ActionIntent, DecidedBy, DecisionRecord, EntityRef, Outcome, Reason};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use serde::Serialize;
use uuid::Uuid;

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    decision_id: Uuid,
    action: &'a str,
    target: &'a EntityRef,
    outcome: Outcome,
    decided_by: DecidedBy,
    score: Option<f64>,
    reasons: &'a [Reason],
    stream: &'a str,
    event_id: &'a str,
    event_time: Option<Timestamp>,
    columns: BTreeMap<&'a str, &'a Value>,
}

/// The body that tells of `intent` of `record`, with those of `columns` that the event has. Sensitive columns are in
/// records as their keyed hash already.
///
/// # Errors
/// Never for records that can be JSON themselves.
pub fn body(record: &DecisionRecord, intent: &ActionIntent, columns: &[String]) -> Result<String, serde_json::Error> {
    let kind = match record.outcome {
        Outcome::Approve => "interdict.decision.approve",
        Outcome::Review => "interdict.decision.review",
        Outcome::Block => "interdict.decision.block",
    };
    let columns = columns.iter().filter_map(|name| record.event.get_key_value(name));
    serde_json::to_string(&Body {
        kind,
        timestamp: record.decide_time,
        data: Data {
            decision_id: record.decision_id,
            action: &intent.action,
            target: &intent.target,
            outcome: record.outcome,
            decided_by: record.decided_by,
            score: record.score,
            reasons: &record.reasons,
            stream: &record.stream,
            event_id: &record.event_id,
            event_time: record.event_time,
            columns: columns.map(|(name, value)| (name.as_str(), value)).collect(),
        },
    })
}

/// The key of whom a body tells.
pub(super) fn target_key(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body.pointer("/data/target/key")?.as_str().map(str::to_owned)
}
