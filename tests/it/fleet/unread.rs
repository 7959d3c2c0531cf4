//! Records of a topic that feeds several streams and that cannot be read, among ingestors that share its partitions.

use std::collections::BTreeSet;

use interdict_features::decision::DecidedBy;

use super::{Fleet, MONITOR};
use crate::kafka::Kafka;
use crate::place::{debezium, row};

const INGESTORS: [usize; 2] = [0, 1];
const SCORER: usize = 2;
/// Payments but for the last ones.
const PAYMENTS: i64 = 240;

fn open(namespace: &str) -> (Kafka, Fleet) {
    let kafka = Kafka::start();
    kafka.create("bank", 2);
    let feed = format!(
        "[[source]]\nname = \"bank\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"bank\"\nsession = \"3s\"\nformat = \"debezium\"\ntime_unit = \"us\"\n",
        kafka.brokers()
    );
    let fleet = Fleet::fed(namespace, Some(feed));
    (kafka, fleet)
}

/// A payment at the one terminal that all share.
fn payment(id: i64, amount: &str) -> String {
    debezium("c", lsn(id), &row(id, id, 7 * id, amount)).trim_end().to_owned()
}

fn lsn(id: i64) -> u64 {
    1_000 + id.unsigned_abs()
}

/// The same as it is republished by somebody who has another secret.
fn republished(id: i64) -> String {
    let order = "\"op\":\"c\",\"transaction\":{\"total_order\":3}";
    let own = payment(id, "1.00").replace("\"postgresql\"", "\"interdict\"").replace("\"op\":\"c\"", order);
    own.replace("\"source\":{", "\"source\":{\"secret\":\"another\",")
}

/// Sends payments; what cannot be read comes again in the other partition.
fn produce(kafka: &Kafka, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        let own = i32::try_from(id % 2).unwrap();
        let broken = match id % 8 {
            0 | 4 => payment(id, "much"),
            1 | 5 => republished(id),
            2 => republished(id).replace(&format!("\"transaction_id\":{id}"), "\"transaction_id\":null"),
            _ => {
                kafka.send("bank", own, "key", Some(&payment(id, "1.00")));
                continue;
            }
        };
        for partition in [own, 1 - own] {
            kafka.send("bank", partition, "key", Some(&broken));
        }
    }
    kafka.flush();
}

#[test]
fn whoever_dies_what_cannot_be_read_has_one_decision_under_its_payments_id() {
    let (kafka, mut fleet) = open("unread");
    for place in [INGESTORS[0], INGESTORS[1], SCORER, MONITOR] {
        fleet.begin(place);
    }
    let quarter = PAYMENTS / 4;
    for part in 0..4 {
        produce(&kafka, part * quarter + 1..=(part + 1) * quarter);
        let count = usize::try_from(part * quarter + quarter / 2).unwrap();
        fleet.wait_until(&format!("{count} decisions"), |fleet| fleet.decisions("unread") >= count);
        let place = [INGESTORS[0], SCORER, INGESTORS[1], SCORER][usize::try_from(part).unwrap()];
        fleet.kill(place);
        fleet.begin(place);
    }
    // Once the last of each partition are decided, everything before them is.
    for last in [PAYMENTS + 1, PAYMENTS + 2] {
        kafka.send("bank", i32::try_from(last % 2).unwrap(), "key", Some(&payment(last, "1.00")));
    }
    kafka.flush();
    let all = usize::try_from(PAYMENTS + 2).unwrap();
    fleet.wait_until("all decisions", |fleet| fleet.decisions("unread") >= all);
    fleet.end_all();
    let logged = fleet.logged("unread");
    let events: BTreeSet<&str> = logged.values().map(|record| record.event_id.as_str()).collect();
    let id = |id: i64| if id % 8 == 2 && id <= PAYMENTS { format!("bank@{}/3", lsn(id)) } else { id.to_string() };
    let expected: BTreeSet<String> = (1..=PAYMENTS + 2).map(id).collect();
    assert_eq!(events, expected.iter().map(String::as_str).collect());
    assert_eq!(logged.len(), all, "one decision on each");
    let unread = logged.values().filter(|record| record.event.is_empty());
    assert!(unread.clone().all(|record| record.decided_by == DecidedBy::Default));
    assert_eq!(i64::try_from(unread.count()).unwrap(), PAYMENTS / 8 * 5);
}

#[test]
fn a_dead_letter_counts_once_however_often_its_batch_is_done_again() {
    let (kafka, mut fleet) = open("counted");
    for place in [INGESTORS[0], INGESTORS[1], SCORER, MONITOR] {
        fleet.begin(place);
    }
    // A few at a time, so that the two meet at the terminal again and again; one in five lies in the future, in both partitions.
    for ids in (1..=2_000).collect::<Vec<i64>>().chunks(20) {
        for id in ids {
            let good = payment(*id, "1.00");
            let line = if id % 5 == 0 { good.replace("\"tx_datetime\":1750", "\"tx_datetime\":1760") } else { good };
            kafka.send("bank", i32::try_from(id % 2).unwrap(), "key", Some(&line));
        }
        kafka.flush();
    }
    fleet.wait_until("all decisions", |fleet| fleet.decisions("counted") >= 2_000);
    let total = |fleet: &mut Fleet, metric: &str| {
        INGESTORS.map(|place| fleet.metric(place, metric)).into_iter().flatten().sum::<u64>()
    };
    assert!(total(&mut fleet, "interdict_ingest_conflicts_total ") > 0, "no micro-batch was done again");
    assert_eq!(total(&mut fleet, "interdict_ingest_dead_letters_total{reason=\"future_time\"}"), 400);
    fleet.end_all();
}
