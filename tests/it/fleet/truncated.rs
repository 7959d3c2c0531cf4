//! TRUNCATE in a database that roles capture: the history goes, whoever dies; the decisions stay.

use interdict_features::value::Value;

use super::Fleet;
use super::topics::{INGESTORS, SCORERS, end};

const CUSTOMER: i64 = 9;

#[test]
fn a_truncation_takes_the_history_and_no_decision_whoever_dies() {
    let mut fleet = Fleet::open("emptied");
    let config = crate::place::text(&fleet.place.path("interdict.toml"));
    let judged = "judge = \"insert\"\n";
    fleet.place.write("interdict.toml", config.replacen(judged, &format!("{judged}on_truncate = \"clear\"\n"), 1));
    fleet.bank.pay(1, CUSTOMER, "5.00");
    fleet.begin(0);
    fleet.stored_snapshot("emptied");
    fleet.begin_all();
    let pay =
        |fleet: &Fleet, ids: std::ops::RangeInclusive<i64>| ids.for_each(|id| fleet.bank.pay(id, CUSTOMER, "5.00"));
    pay(&fleet, 2..=4);
    fleet.decided("emptied", 4);
    fleet.bank.ask("TRUNCATE transactions");
    fleet.kill(INGESTORS[0]);
    fleet.kill(SCORERS[0]);
    pay(&fleet, 5..=6);
    fleet.decided("emptied", 6);
    fleet.kill(INGESTORS[1]);
    fleet.begin_all();
    pay(&fleet, 7..=7);
    fleet.decided("emptied", 7);
    fleet.settle("emptied");

    let counted = end(&mut fleet, "emptied").into_iter().map(|record| {
        let count = record.features.iter().find(|feature| &*feature.name == "customer_spend.count_1d");
        (record.event_id.clone(), count.unwrap().reading.value.clone())
    });
    let mut counted: Vec<(String, Value)> = counted.collect();
    counted.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("2", 2), ("3", 3), ("4", 4), ("5", 1), ("6", 2), ("7", 3)];
    let expected: Vec<(String, Value)> =
        expected.into_iter().map(|(id, count)| (id.to_owned(), Value::Int(count))).collect();
    assert_eq!(counted, expected);
}
