//! Decision records for tests: seeded by their number, with everything a record can hold.

use std::collections::BTreeMap;

use interdict_features::decision::{
    ActionIntent, DecidedBy, DecisionRecord, EntityRef, ListHit, ListKind, ModelScore, Outcome, Reason,
    RecordedFeature, RuleResult, SeenPosition, Thresholds, decision_id,
};
use interdict_features::time::{Span, Timestamp};
use interdict_features::value::Value;
use interdict_features::vector::{Flags, Reading};

pub(crate) const MODEL: &str = "handbook";
pub(crate) const VERSION: &str = "1";

/// A feature with this value.
pub(crate) fn feature(name: &str, value: Value) -> RecordedFeature {
    RecordedFeature { name: name.into(), reading: Reading { value, flags: Flags::NONE, edge_events: 0 } }
}

/// The `index`-th of a stream of decisions, ten minutes apart, so that a few batches touch many hours.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn record(index: u64) -> DecisionRecord {
    let entity = EntityRef { entity: "customer".into(), key: format!("{}", index % 17) };
    let time = Timestamp::from_micros(1_522_540_800_000_000 + 600_000_000 * i64::try_from(index).unwrap() / 6);
    let amount = index as f64 / 3.0;
    let outcome = [Outcome::Approve, Outcome::Approve, Outcome::Review, Outcome::Block][(index % 4) as usize];
    let ratio = if index.is_multiple_of(3) { Value::Null } else { Value::Double(1.0 / (index as f64 + 0.1)) };
    let device = if index.is_multiple_of(5) { Value::Null } else { Value::Text("phone".into()) };
    let mut features = vec![
        feature("customer_spend.tx_count_7d", Value::Int(i64::try_from(index % 9).unwrap())),
        feature("customer_spend.amount_avg_7d", Value::Double(amount)),
        feature("terminal_risk.fraud_ratio_7d", ratio),
        feature("is_weekend", Value::Bool(index.is_multiple_of(2))),
        feature("device.kind", device),
    ];
    features[1].reading.flags = Flags::TRUNCATED.with(Flags::TILED);
    features[1].reading.edge_events = 3;
    DecisionRecord {
        decision_id: decision_id("test", "transactions", &index.to_string(), 0),
        idempotency_key: index.is_multiple_of(7).then(|| format!("key \"{index}\"")),
        stream: "transactions".into(),
        event_id: index.to_string(),
        judgement: 0,
        position: SeenPosition { partition: "file/0".into(), position: index },
        event_time: Some(time),
        arrival_time: index.is_multiple_of(2).then(|| time.plus(Span::SECOND)),
        decide_time: time.plus(Span::from_micros(1_234_567)),
        as_of: BTreeMap::from([("customer".into(), time), ("terminal".into(), time)]),
        entities: vec![entity.clone(), EntityRef { entity: "terminal".into(), key: "a|b".into() }],
        outcome,
        score: (!index.is_multiple_of(11)).then_some(0.1 + amount / 1e3),
        thresholds: Some(Thresholds { review: 0.5, block: 0.9 }),
        rules: vec![RuleResult { id: "r1".into(), version: 2, hit: true, missing: vec!["x".into()], error: None }],
        models: vec![ModelScore {
            name: MODEL.into(),
            version: VERSION.into(),
            bundle_hash: "00ff".into(),
            score: Some(0.1 + amount / 1e3),
            micros: 5,
            role: "champion".into(),
        }],
        features,
        event: BTreeMap::from([("amount".into(), Value::Double(amount)), ("note".into(), Value::Text("ü\n".into()))]),
        seen: vec![SeenPosition { partition: "file/0".into(), position: index }],
        list_hits: vec![ListHit { list: ListKind::Allow, entity: entity.clone(), reason: "known".into() }],
        reasons: vec![Reason { code: "score_review".into(), text: "the score".into() }],
        decided_by: DecidedBy::Model,
        deadline_micros: None,
        left_micros: Some(-5),
        degraded: vec!["terminal_risk.fraud_ratio_7d".into()],
        actions: vec![ActionIntent { action: "block".into(), target: entity }],
        arm: None,
        late: false,
    }
}
