use std::time::Duration;

use interdict_features::decision::{ActionIntent, EntityRef, SeenPosition};
use interdict_features::time::Timestamp;

use super::*;

fn transaction(id: i64, customer: i64, scenario: Option<Scenario>) -> Transaction {
    Transaction {
        id,
        time_micros: id,
        customer,
        terminal: 1,
        amount_minor: 1_000,
        device: 0,
        latitude: 0.0,
        longitude: 0.0,
        scenario,
        reported_micros: None,
    }
}

fn record(id: i64, customer: i64, outcome: Outcome, decided_by: DecidedBy) -> DecisionRecord {
    let target = EntityRef { entity: ACCOUNT.to_owned(), key: customer.to_string() };
    let blocks = outcome == Outcome::Block && decided_by != DecidedBy::List;
    DecisionRecord {
        decision_id: uuid::Uuid::nil(),
        idempotency_key: None,
        stream: "transactions".to_owned(),
        event_id: id.to_string(),
        judgement: 0,
        position: SeenPosition { partition: "simulation/0".to_owned(), position: 1 },
        event_time: None,
        arrival_time: None,
        decide_time: Timestamp::default(),
        as_of: std::collections::BTreeMap::new(),
        entities: vec![target.clone()],
        outcome,
        score: Some(0.9),
        thresholds: None,
        rules: Vec::new(),
        models: Vec::new(),
        features: Vec::new(),
        event: std::collections::BTreeMap::new(),
        seen: Vec::new(),
        list_hits: Vec::new(),
        reasons: Vec::new(),
        decided_by,
        deadline_micros: None,
        left_micros: None,
        degraded: Vec::new(),
        actions: if blocks { vec![ActionIntent { action: "block".to_owned(), target }] } else { Vec::new() },
        arm: None,
        late: false,
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn play(events: &[(i64, Option<Scenario>, Outcome, DecidedBy)]) -> Tally {
    let mut tally = Tally::default();
    let due = Instant::now();
    for (id, (customer, scenario, outcome, decided_by)) in (0..).zip(events) {
        tally.handed([(transaction(id, *customer, *scenario), due)]);
        tally.decided(&record(id, *customer, *outcome, *decided_by), due + Duration::from_millis(2));
    }
    tally
}

const FRAUD: Option<Scenario> = Some(Scenario::CardTesting);

#[test]
fn frauds_are_caught_by_block_and_review_and_missed_otherwise() {
    let tally = play(&[
        (1, FRAUD, Outcome::Review, DecidedBy::Model),
        (1, FRAUD, Outcome::Block, DecidedBy::Rules),
        (1, FRAUD, Outcome::Block, DecidedBy::List),
        (2, FRAUD, Outcome::Approve, DecidedBy::Model),
    ]);
    let counts = tally.counts();
    let fates = counts.frauds[usize::from(Scenario::CardTesting.number()) - 1];
    assert_eq!((fates.caught().payments, fates.missed.payments), (3, 1));
    assert_eq!(fates.blocked.minor, 2_000);
    assert_eq!(counts.all_frauds(), fates);
    assert_eq!((counts.accounts_blocked, counts.outcomes, tally.undecided()), (1, [1, 1, 2], 0));
    assert!((2_000..2_100).contains(&tally.percentiles().p99));
}

#[test]
fn what_a_blocked_account_loses_is_counted_by_what_it_was_blocked_for() {
    let tally = play(&[
        (1, FRAUD, Outcome::Block, DecidedBy::Model),
        (1, None, Outcome::Block, DecidedBy::List),
        (2, None, Outcome::Block, DecidedBy::Model),
        (2, None, Outcome::Block, DecidedBy::List),
        (2, None, Outcome::Block, DecidedBy::List),
        (3, None, Outcome::Review, DecidedBy::Model),
        (3, None, Outcome::Approve, DecidedBy::Model),
    ]);
    let genuine = tally.counts().genuine;
    assert_eq!(genuine.stopped_after_fraud.payments, 1);
    assert_eq!(genuine.blocked.payments, 1);
    assert_eq!(genuine.stopped_by_mistake.payments, 2);
    assert_eq!(genuine.reviewed.payments, 1);
    let shown: Vec<&Blocked> = tally.shown().collect();
    assert_eq!(shown.iter().map(|blocked| blocked.account.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(tally.example().map(|payment| payment.customer), Some(2));
}

#[test]
fn a_request_is_no_payment_of_the_simulation() {
    let mut tally = play(&[(1, None, Outcome::Approve, DecidedBy::Model)]);
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    tally.decided(&record(99, 1, Outcome::Block, DecidedBy::Rules), Instant::now());
    let counts = tally.counts();
    assert_eq!((counts.requests, counts.decided(), counts.accounts_blocked), (1, 1, 1));
}
