//! Which changes come, with which values, versions and times.

use interdict_features::change::{Op, Version};

use crate::rig::{Puller, World, newest, streams};
use std::sync::Arc;

#[test]
fn the_snapshot_comes_first_and_changes_follow_without_gap_or_overlap() {
    let world = World::new("follow");
    world.sql("INSERT INTO transactions SELECT n, '2026-01-01Z', 'c' || n, n + 0.25, null, 0.5 FROM generate_series(1, 5000) n; INSERT INTO chargebacks VALUES (1, true)");
    let mut puller = world.puller();
    let first = puller.pull().unwrap();
    assert_eq!(first.position, 0, "no position before the snapshot is complete");
    world.sql("INSERT INTO transactions VALUES (5001, '2026-01-02 00:00:00.000001Z', 'new', -0.01, true, null); UPDATE transactions SET amount = 7 WHERE id = 1; DELETE FROM transactions WHERE id = 2");
    puller.until("the changes", |puller| puller.seen.len() >= 5004);
    let seen = &puller.seen;
    assert_eq!(seen.iter().filter(|seen| seen.change.op == Op::Snapshot).count(), 5001);
    assert_eq!(seen[0].shown(), "= transactions 1|1767225600000000|c1|125|-|0.5");
    let shown: Vec<String> = seen[5001..].iter().map(|seen| seen.shown()).collect();
    assert_eq!(
        shown,
        [
            "+ transactions 5001|1767312000000001|new|-1|1|-",
            "~ transactions 1|1767225600000000|c1|700|-|0.5",
            "- transactions 2|-|-|-|-|-",
        ]
    );
    let snapshot = seen[0].change.version;
    assert_eq!(snapshot.minor, 0);
    assert!(seen[5001].change.version > snapshot);
    assert!(seen[0].change.arrival.is_none() && seen[5001].change.arrival.is_some());
    assert!(puller.dead.is_empty());
}

#[test]
fn rows_of_one_transaction_are_numbered_and_arrive_when_it_committed() {
    let world = World::new("numbered");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("BEGIN; INSERT INTO transactions VALUES (1, now(), 'a', 1, null, null); INSERT INTO chargebacks VALUES (1, true); SAVEPOINT s; INSERT INTO chargebacks VALUES (2, true); ROLLBACK TO s; UPDATE transactions SET amount = 2 WHERE id = 1; COMMIT");
    puller.rows(3);
    let versions: Vec<Version> = puller.seen.iter().map(|seen| seen.change.version).collect();
    assert_eq!(versions.iter().map(|version| version.minor).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(versions.iter().all(|version| version.major == versions[0].major));
    assert!(puller.position > versions[0].major);
    let arrival = puller.seen[0].change.arrival.unwrap();
    assert!(puller.seen.iter().all(|seen| seen.change.arrival == Some(arrival)));
    let now: i64 = world.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")[0].parse().unwrap();
    assert!((0..60_000_000).contains(&(now - arrival.micros())));
}

#[test]
fn a_transaction_larger_than_a_delivery_comes_in_parts() {
    let world = World::new("parts");
    let mut puller = world.puller();
    puller.batch = 10;
    puller.until("the snapshot", |puller| puller.position > 0);
    let before = puller.position;
    world.sql("INSERT INTO transactions SELECT n, now(), 'c', 1, null, null FROM generate_series(1, 35) n");
    let mut positions = Vec::new();
    while puller.seen.len() < 35 || puller.position == before {
        let delivery = puller.pull().unwrap();
        if delivery.records > 0 {
            positions.push(delivery.position);
        }
    }
    assert_eq!(positions.len(), 4);
    assert!(
        positions[..3].iter().all(|position| *position == before || *position < puller.seen[0].change.version.major)
    );
    assert!(positions[3] > puller.seen[0].change.version.major);
}

#[test]
fn toasted_values_that_did_not_change_are_marked_or_taken_from_the_whole_row() {
    let world = World::new("toast");
    world.sql("ALTER TABLE transactions ADD padding text; ALTER TABLE transactions ALTER customer SET STORAGE EXTERNAL, ALTER padding SET STORAGE EXTERNAL; ALTER TABLE transactions SET (toast_tuple_target = 128)");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let long = "x".repeat(1000);
    world.sql(&format!("INSERT INTO transactions VALUES (1, '2026-01-01Z', '{long}', 1, null, null, repeat('p', 3000)); UPDATE transactions SET amount = 2 WHERE id = 1; ALTER TABLE transactions REPLICA IDENTITY FULL; UPDATE transactions SET amount = 3 WHERE id = 1; UPDATE transactions SET id = 9 WHERE id = 1; ALTER TABLE transactions REPLICA IDENTITY DEFAULT; UPDATE transactions SET id = 10 WHERE id = 9"));
    let shown = puller.rows(7);
    let row = |op: &str, id: u8, customer: &str, amount: u32| {
        format!("{op} transactions {id}|1767225600000000|{customer}|{amount}|-|-")
    };
    assert_eq!(
        shown,
        [
            row("+", 1, &long, 100),
            row("~", 1, "~", 200),
            row("~", 1, &long, 300),
            "- transactions 1|-|-|-|-|-".to_owned(),
            row("+", 9, &long, 300),
            "- transactions 9|-|-|-|-|-".to_owned(),
        ]
    );
    assert_eq!(puller.dead_reasons(), ["unavailable_value"], "the new row of an id that moved is not whole");
}

#[test]
fn keys_change_and_swap() {
    let world = World::new("swap");
    world.sql("INSERT INTO transactions VALUES (1, '2026-01-01Z', 'a', 1, null, null), (2, '2026-01-01Z', 'b', 2, null, null)");
    let mut puller = world.puller();
    puller.rows(2);
    world.sql("BEGIN; UPDATE transactions SET id = 99 WHERE id = 1; UPDATE transactions SET id = 1 WHERE id = 2; UPDATE transactions SET id = 2 WHERE id = 99; COMMIT");
    puller.rows(8);
    let rows = newest(&puller.seen);
    let of = |id: &str| rows.get(id).map(|row| row[2].as_str());
    assert_eq!((of("1"), of("2"), of("99")), (Some("b"), Some("a"), None));
}

#[test]
fn truncation_is_told_for_every_table() {
    let world = World::new("cut");
    let mut puller = world.puller();
    world.sql("CREATE TABLE other (id int PRIMARY KEY)");
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER PUBLICATION interdict ADD TABLE other; INSERT INTO other VALUES (1); TRUNCATE transactions, other, chargebacks");
    puller.until("the truncation", |puller| puller.seen.len() == 2);
    assert_eq!(puller.shown(), ["x transactions -|-|-|-|-|-", "x chargebacks -|-"]);
}

#[test]
fn sensitive_columns_leave_only_their_hash() {
    let world = World::new("masked");
    let mut streams = streams();
    let mut masked = interdict_features::definition::Stream::clone(&streams[0]);
    masked.columns[2].sensitive = true;
    streams[0] = Arc::new(masked);
    world.sql("INSERT INTO transactions VALUES (1, '2026-01-01Z', '4111-1111', 1, null, null), (2, null, '4111-1111', 1, null, null)");
    let mut puller = Puller::open(&world.config(), &streams);
    puller.rows(2);
    world.sql("INSERT INTO transactions VALUES (3, '2026-01-01Z', '4111-1111', 1, null, null), (4, 'infinity', '4111-1111', 1, null, null)");
    puller.rows(4);
    let hash = streams[0].mask("4111-1111");
    assert_eq!(puller.seen.iter().map(|seen| seen.cells[2].clone()).collect::<Vec<_>>(), [hash.clone(), hash]);
    assert_eq!(puller.dead.len(), 2);
    assert!(!format!("{:?}", puller.dead).contains("4111"));
}

#[test]
fn prepared_transactions_come_when_they_commit() {
    let world = World::new("prepared");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("BEGIN; INSERT INTO chargebacks VALUES (1, true); PREPARE TRANSACTION 'prepared_p'; INSERT INTO chargebacks VALUES (2, true); COMMIT PREPARED 'prepared_p'");
    assert_eq!(puller.rows(2), ["+ chargebacks 2|1", "+ chargebacks 1|1"]);
}

#[test]
fn partitions_and_row_filters_are_honoured_by_snapshot_and_stream() {
    let world = World::with(
        "partitioned",
        "CREATE TABLE transactions (id bigint PRIMARY KEY, at timestamptz, customer text, amount numeric, is_fraud bool, score float8) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF transactions FOR VALUES FROM (0) TO (100); CREATE TABLE high PARTITION OF transactions FOR VALUES FROM (100) TO (200);
         CREATE TABLE chargebacks (id bigint PRIMARY KEY, is_fraud boolean);
         CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks WHERE (id > 10) WITH (publish_via_partition_root = true);
         INSERT INTO transactions VALUES (1, now(), 'a', 1, null, null), (101, now(), 'b', 1, null, null); INSERT INTO chargebacks VALUES (5, true), (15, true)",
    );
    let mut puller = world.puller();
    puller.rows(3);
    world.sql("INSERT INTO transactions VALUES (2, now(), 'a', 1, null, null), (102, now(), 'b', 1, null, null); INSERT INTO chargebacks VALUES (6, true), (16, true)");
    puller.rows(6);
    let ids: Vec<&str> = puller.seen.iter().map(|seen| seen.cells[0].as_str()).collect();
    assert_eq!(ids, ["1", "101", "15", "2", "102", "16"]);
}

/// The server tells of it as of a delete and an insert.
#[test]
fn a_row_that_moves_to_another_partition_is_updated() {
    let world = World::with(
        "moving",
        "CREATE TABLE transactions (id bigint, at timestamptz, customer text, amount numeric(18,2), is_fraud bool, score float8, PRIMARY KEY (id, customer)) PARTITION BY LIST (customer);
         CREATE TABLE part_a PARTITION OF transactions FOR VALUES IN ('a'); CREATE TABLE part_b PARTITION OF transactions FOR VALUES IN ('b');
         CREATE TABLE chargebacks (id bigint PRIMARY KEY, is_fraud boolean)",
    );
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO transactions VALUES (1, '1970-01-01Z', 'a', 1), (2, '1970-01-01Z', 'a', 1); UPDATE transactions SET customer = 'b', amount = 2");
    let both = ["~ transactions 1|0|b|200|-|-", "~ transactions 2|0|b|200|-|-"];
    assert_eq!(puller.rows(4)[2..], both);
    // Deletes stay what they are, also the last one of a transaction and one before another row.
    world.sql("BEGIN; DELETE FROM transactions WHERE id = 1; INSERT INTO transactions VALUES (3, '1970-01-01Z', 'a', 1); DELETE FROM transactions WHERE id = 2; COMMIT");
    let expected = ["- transactions 1|-|-|-|-|-", "+ transactions 3|0|a|100|-|-", "- transactions 2|-|-|-|-|-"];
    assert_eq!(puller.rows(7)[4..], expected);
    // One row per delivery, and a connection that ends in the middle.
    puller.batch = 1;
    world.sql("INSERT INTO transactions SELECT n, '1970-01-01Z', 'a', 1 FROM generate_series(10, 29) n; UPDATE transactions SET customer = 'b' WHERE id BETWEEN 10 AND 29");
    puller.rows(7 + 25);
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'moving' AND backend_type = 'walsender'");
    let ops: Vec<Op> = puller_ops(&mut puller, 7 + 40);
    assert_eq!(ops, [[Op::Insert; 20], [Op::Update; 20]].concat());
}

fn puller_ops(puller: &mut Puller, count: usize) -> Vec<Op> {
    puller.rows(count);
    puller.seen[7..].iter().map(|seen| seen.change.op).collect()
}
