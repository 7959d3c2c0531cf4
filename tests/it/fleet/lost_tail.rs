//! A Redis that comes back without its last moments while the monitor has taken from them.

use std::collections::BTreeMap;

use interdict_features::decision::{DecisionRecord, decision_id};
use uuid::Uuid;

use super::{Fleet, MONITOR};
use crate::captured::metric;
use crate::place::Caller;

/// Inserts payments, two of a customer.
pub(super) fn pay(fleet: &Fleet, ids: std::ops::RangeInclusive<i64>) {
    fleet.bank.ask(&format!(
        "INSERT INTO transactions SELECT n, timestamptz '2025-06-15 15:06:40+00' + interval '1 second' * n, n / 2, 5000 + n / 2, 5 FROM generate_series({}, {}) n",
        ids.start(),
        ids.end()
    ));
}

/// The stored decisions on payments.
fn stored(fleet: &mut Fleet, ids: impl IntoIterator<Item = i64>) -> BTreeMap<Uuid, DecisionRecord> {
    let mut stored = BTreeMap::new();
    for payment in ids {
        let id = decision_id("lost", "transactions", &payment.to_string(), 0);
        // Who answered a moment ago may end: the database went back under it.
        let record = loop {
            fleet.decided("lost", payment);
            if let Some((200, text)) = fleet.caller(0).try_send("GET", &format!("/v1/decisions/{id}"), &[], "") {
                let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                break serde_json::from_value(answer["decision"].clone()).unwrap();
            }
        };
        stored.insert(id, record);
    }
    stored
}

/// Waits until the monitor has taken so many decisions, published or not.
fn taken(monitor: &Caller, count: f64) {
    let sum = |caller: &Caller| {
        metric(caller, "interdict_monitor_log_rows_total", "")
            + metric(caller, "interdict_monitor_log_unflushed_rows", "")
    };
    monitor.until(|caller| (sum(caller) >= count).then_some(()));
}

#[test]
fn what_a_fail_over_lost_is_in_parquet_as_it_was_decided_at_last() {
    let mut fleet = Fleet::open("lost");
    fleet.begin(0);
    fleet.stored_snapshot("lost");
    fleet.begin_all();
    let address = fleet.process(MONITOR).address();
    let monitor = Caller::new(&address);
    pay(&fleet, 1..=320);
    stored(&mut fleet, 1..=320);
    fleet.settle("lost");
    taken(&monitor, 320.0);
    monitor.until(|caller| (metric(caller, "interdict_monitor_log_rows_total", "") >= 300.0).then_some(()));

    let before = fleet.redis.copy();
    pay(&fleet, 1_001..=1_050);
    let lost = stored(&mut fleet, 1_001..=1_050);
    taken(&monitor, 370.0);
    fleet.redis.kill();
    fleet.redis.restore(&before);
    fleet.redis.begin();
    fleet.revive();
    pay(&fleet, 2_001..=2_080);
    let now = stored(&mut fleet, (1..=320).chain(1_001..=1_050).chain(2_001..=2_080));
    fleet.settle("lost");
    // Whether the monitor has noticed by what it took, or ended by a commit of its own and begun anew: what is left is taken before its end.
    assert!(lost.iter().all(|(id, record)| now[id] != *record), "they were decided anew");
    fleet.end_all();
    assert_eq!(fleet.logged("lost"), now);
}
