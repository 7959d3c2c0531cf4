use std::collections::BTreeMap;

use interdict_features::decision::{DecidedBy, Outcome, SeenPosition};
use interdict_features::time::Timestamp;

use super::*;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A decision under the id `number`.
pub(in super::super) fn record(number: u128, outcome: Outcome) -> DecisionRecord {
    DecisionRecord {
        decision_id: id(number),
        idempotency_key: None,
        stream: "transactions".to_owned(),
        event_id: number.to_string(),
        judgement: 0,
        position: SeenPosition { partition: "input/0".to_owned(), position: 0 },
        event_time: None,
        arrival_time: None,
        decide_time: Timestamp::default(),
        as_of: BTreeMap::new(),
        entities: Vec::new(),
        outcome,
        score: None,
        thresholds: None,
        rules: Vec::new(),
        models: Vec::new(),
        features: Vec::new(),
        event: BTreeMap::new(),
        seen: Vec::new(),
        list_hits: Vec::new(),
        reasons: Vec::new(),
        decided_by: DecidedBy::Default,
        deadline_micros: None,
        left_micros: None,
        degraded: Vec::new(),
        actions: Vec::new(),
        arm: None,
        late: false,
    }
}

#[test]
fn whoever_settles_first_is_followed_by_all() {
    let promises = Arc::new(Promises::default());
    let (first, second) = (promises.open(id(1)), promises.open(id(1)));
    let told = first.tell(|| record(1, Outcome::Review)).unwrap();
    assert_eq!(second.tell(|| record(1, Outcome::Approve)).unwrap(), told);
    assert_eq!(second.settle(record(1, Outcome::Block)), told);
    assert_eq!(promises.told(id(1)), Some(told.clone()));
    drop(first);
    assert_eq!(promises.open(id(1)).tell(|| record(1, Outcome::Block)).unwrap(), told, "the second is open still");
    drop(second);
    assert!(promises.is_empty());
    assert_eq!(promises.told(id(1)), None);
}

#[test]
fn what_was_told_cannot_be_refused_and_what_was_refused_is_not_told() {
    let promises = Arc::new(Promises::default());
    let (refused, other) = (promises.open(id(1)), promises.open(id(1)));
    assert_eq!(refused.refuse(Refusal::KeyReused), None);
    assert_eq!(refused.tell(|| record(1, Outcome::Review)), Err(Refusal::KeyReused));
    let told = other.tell(|| record(1, Outcome::Review)).unwrap();
    assert_eq!(other.refuse(Refusal::NotJudged), Some(told.clone()));
    assert_eq!(refused.tell(|| record(1, Outcome::Block)), Ok(told), "another caller was told, so it is stored");
}

#[test]
fn what_is_being_stored_is_known_to_who_comes_meanwhile() {
    let promises = Arc::new(Promises::default());
    let open = promises.open(id(1));
    let records = Arc::new(vec![record(1, Outcome::Block), record(2, Outcome::Approve)]);
    let announced = promises.announce(&records, 0).unwrap();
    let late = promises.open(id(2));
    assert_eq!(open.tell(|| record(1, Outcome::Review)).unwrap(), records[0]);
    assert_eq!(late.tell(|| record(2, Outcome::Review)).unwrap(), records[1]);
    assert_eq!(promises.open(id(3)).tell(|| record(3, Outcome::Review)).unwrap().outcome, Outcome::Review);
    drop((announced, open, late));
    assert_eq!(promises.open(id(2)).tell(|| record(2, Outcome::Review)).unwrap().outcome, Outcome::Review);
}

#[test]
fn nothing_is_stored_beside_what_was_told() {
    let promises = Arc::new(Promises::default());
    let (open, early) = (promises.open(id(1)), promises.open(id(2)));
    let told = early.tell(|| record(2, Outcome::Review)).unwrap();
    let records = Arc::new(vec![record(1, Outcome::Block), record(2, Outcome::Approve)]);
    assert!(promises.announce(&records, 0).is_none());
    assert_eq!(promises.told(id(1)), None, "nothing is settled then");
    let records = Arc::new(vec![record(1, Outcome::Block), told]);
    assert!(promises.announce(&records, 1).is_some());
    assert_eq!(open.tell(|| record(1, Outcome::Review)).unwrap().outcome, Outcome::Block);
}

#[test]
fn callers_and_engine_agree_whatever_their_order() {
    for round in 0..200 {
        let promises = Arc::new(Promises::default());
        let told: Vec<DecisionRecord> = std::thread::scope(|scope| {
            let outer = promises.open(id(round));
            let engine = scope.spawn(|| promises.open(id(round)).settle(record(round, Outcome::Block)));
            let callers: Vec<_> = [Outcome::Review, Outcome::Approve]
                .into_iter()
                .map(|outcome| {
                    let promises = &promises;
                    scope.spawn(move || promises.open(id(round)).tell(|| record(round, outcome)).unwrap())
                })
                .collect();
            let mut told: Vec<DecisionRecord> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
            told.push(engine.join().unwrap());
            told.push(outer.tell(|| record(round, Outcome::Review)).unwrap());
            told
        });
        assert!(told.iter().all(|record| *record == told[0]), "{told:?}");
    }
}
