//! Slots that are lost where a snapshot is to take the place of what they held.

use std::sync::Arc;

use interdict_features::change::Op;
use interdict_features::definition::{Judge, LabelsOf, Stream};
use interdict_ingest::source::config::postgres::{Creation, OnLostSlot, PostgresConfig};

use crate::postgres_server::PostgresServer;
use crate::rig::{PATIENCE, Puller, Seen, TABLES, World, config_at, streams};

/// The streams of the tests, transactions judged and chargebacks labels of them.
fn judged() -> Vec<Arc<Stream>> {
    let streams = streams();
    let mut transactions = Stream::clone(&streams[0]);
    transactions.judge = Some(Judge::Insert);
    let mut chargebacks = Stream::clone(&streams[1]);
    chargebacks.labels = Some(LabelsOf { stream: 0, value: 1 });
    vec![Arc::new(transactions), Arc::new(chargebacks)]
}

fn recovering(mut config: PostgresConfig) -> PostgresConfig {
    config.on_lost_slot = OnLostSlot::Snapshot;
    config
}

/// Reads the first snapshot of `config`; where it stood then.
fn begin(config: &PostgresConfig) -> u64 {
    let mut puller = Puller::open(config, &judged());
    puller.until("the snapshot", |puller| puller.position > 0);
    puller.position
}

#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn drop_slot(world: &World) {
    let name = &world.name;
    let deadline = std::time::Instant::now() + PATIENCE;
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'");
    while world.sql(&active) == ["t"] {
        assert!(std::time::Instant::now() < deadline, "the slot is read for ever");
    }
    world.sql(&format!("SELECT pg_drop_replication_slot('{name}')"));
}

fn shown(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::shown).collect()
}

#[test]
fn a_snapshot_takes_the_place_of_what_a_dropped_slot_held() {
    let world = World::new("replaced");
    let config = recovering(world.config());
    world.sql("INSERT INTO transactions VALUES (1, '2026-01-01Z', 'c', 1, null, null)");
    world.sql("INSERT INTO transactions SELECT n, '2026-01-03Z'::timestamptz + interval '1 second' * n, 'c', 1, null, null FROM generate_series(10, 49) n");
    let stored = begin(&config);
    drop_slot(&world);
    world.sql("INSERT INTO transactions VALUES (60, '2026-01-03 00:00:10Z', 'c', 2, null, null), (61, '2025-01-01Z', 'c', 2, null, null); DELETE FROM transactions WHERE id BETWEEN 11 AND 48; UPDATE transactions SET amount = 3 WHERE id = 10; INSERT INTO chargebacks VALUES (60, true)");
    world.sql("INSERT INTO transactions SELECT n, '2026-01-04Z'::timestamptz + interval '1 second' * n, 'c', 1, null, null FROM generate_series(70, 109) n");
    let mut puller = Puller::resume(&config, &judged(), stored).unwrap();
    puller.until("the snapshot", |puller| {
        let is_over = puller.seen.last().is_some_and(|seen| seen.change.op == Op::Settled);
        assert_eq!(puller.position > stored, is_over, "the position moves with the end");
        is_over
    });
    let all = shown(&puller.seen);
    // Older than a day before the newest event, at 109 s of the last day: nobody can tell whether they were known.
    let micros = |day: i64| 1_767_225_600_000_000 + day * 86_400_000_000;
    let old = |id: i64, time: i64, amount: &str| format!("= transactions {id}|{time}|c|{amount}|-|-");
    let expected = [
        "! chargebacks 60|1".to_owned(),
        "lost transactions -|-|-|-|-|-".to_owned(),
        old(61, micros(-365), "200"),
        old(1, micros(0), "100"),
        old(10, micros(2) + 10_000_000, "300"),
        old(60, micros(2) + 10_000_000, "200"),
        old(49, micros(2) + 49_000_000, "100"),
        format!("! transactions 70|{}|c|100|-|-", micros(3) + 70_000_000),
    ];
    assert_eq!(all[..8], expected);
    assert_eq!(all.len(), 7 + 40 + 1);
    assert_eq!(all.last().unwrap(), "settled transactions -|-|-|-|-|-");
    let lsn = puller.seen[0].change.version;
    assert!(
        puller
            .seen
            .iter()
            .all(|seen| seen.change.version == lsn && seen.change.arrival == puller.seen[0].change.arrival)
    );
    assert!(lsn.major > stored && lsn.minor == 0 && lsn.major == puller.position);
    let taken = puller.seen.len();
    world.sql("INSERT INTO transactions VALUES (200, '2026-01-05Z', 'c', 2, null, null)");
    puller.rows(taken + 1);
    assert!(shown(&puller.seen).last().unwrap().starts_with("+ transactions 200|"));
    let position = puller.position;
    drop(puller);
    let mut puller = Puller::resume(&config, &judged(), position).unwrap();
    world.sql("INSERT INTO transactions VALUES (201, '2026-01-05Z', 'c', 2, null, null)");
    assert!(puller.rows(1)[0].starts_with("+ transactions 201|"), "the new slot is one like any other");
}

#[test]
fn one_that_is_cut_off_begins_anew_behind_the_same_gap() {
    let world = World::new("recut");
    let config = recovering(world.config());
    world.sql("INSERT INTO chargebacks SELECT n, true FROM generate_series(1, 3000) n");
    world.sql("INSERT INTO transactions SELECT n, '2026-01-01Z', 'c', 1, null, null FROM generate_series(1, 3000) n");
    let stored = begin(&config);
    drop_slot(&world);
    let mut puller = Puller::resume(&config, &judged(), stored).unwrap();
    puller.until("rows behind the mark", |puller| puller.seen.iter().any(|seen| seen.change.op == Op::Lost));
    let first = puller.seen.last().unwrap().change.version;
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()",
        world.name
    );
    world.sql(&end);
    puller.until("another attempt", |puller| puller.seen.last().unwrap().change.version > first);
    assert_eq!(puller.position, stored);
    drop(puller);
    // As after a kill: the slot is there, and stands behind what was never stored.
    let mut puller = Puller::resume(&config, &judged(), stored).unwrap();
    puller.until("the snapshot", |puller| puller.position > stored);
    assert_eq!(puller.seen.len(), 6002);
    drop(puller);
    let error = Puller::resume(&world.config(), &judged(), stored).unwrap_err().to_string();
    assert!(error.contains("on_lost_slot = \"snapshot\""), "{error}");
}

#[test]
fn a_slot_that_is_dropped_while_it_runs_is_replaced_at_once() {
    let world = World::new("redropped");
    let config = recovering(world.config());
    let mut puller = Puller::open(&config, &judged());
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO transactions VALUES (1, '2026-01-01Z', 'c', 1, null, null)");
    puller.rows(1);
    let gone = world.sql(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = 'redropped'; SELECT pg_drop_replication_slot('redropped'); INSERT INTO transactions VALUES (2, '2026-01-01Z', 'c', 1, null, null)",
    );
    assert_eq!(gone[0], "t");
    puller.until("the snapshot", |puller| puller.seen.last().unwrap().change.op == Op::Settled);
    let ops: Vec<Op> = puller.seen.iter().map(|seen| seen.change.op).collect();
    assert_eq!(ops, [Op::Insert, Op::Lost, Op::Recovered, Op::Recovered, Op::Settled]);
}

#[test]
fn a_slot_that_was_invalidated_is_dropped_and_made_anew() {
    let server = PostgresServer::start(&["max_slot_wal_keep_size = 1MB", "min_wal_size = 32MB", "max_wal_size = 32MB"]);
    server.database("overrun");
    server.sql("overrun", TABLES);
    let config = config_at("localhost", server.port, "overrun");
    let stored = begin(&config);
    server.sql("overrun", "INSERT INTO chargebacks VALUES (1, true)");
    for _ in 0..4 {
        server.sql("overrun", "SELECT pg_logical_emit_message(false, 'x', 'x'); SELECT pg_switch_wal(); CHECKPOINT");
    }
    assert_eq!(server.sql("overrun", "SELECT wal_status FROM pg_replication_slots"), ["lost"]);
    let error = Puller::resume(&config, &judged(), stored).unwrap_err().to_string();
    assert!(error.contains("on_lost_slot = \"snapshot\""), "{error}");
    let mut by_hand = recovering(config.clone());
    by_hand.creation = Creation::Forbidden;
    let mut puller = Puller::resume(&by_hand, &judged(), stored).unwrap();
    let error = puller.pull().unwrap_err().to_string();
    assert!(error.contains("was invalidated"), "{error}");
    drop(puller);
    let mut puller = Puller::resume(&recovering(config), &judged(), stored).unwrap();
    puller.until("the snapshot", |puller| puller.position > stored);
    assert_eq!(shown(&puller.seen)[0], "! chargebacks 1|1");
    assert_eq!(server.sql("overrun", "SELECT wal_status FROM pg_replication_slots"), ["reserved"]);
}

#[test]
fn a_database_that_went_back_still_stops() {
    let world = World::new("wentback");
    let config = recovering(world.config());
    let _stored = begin(&config);
    drop_slot(&world);
    let error = Puller::resume(&config, &judged(), u64::MAX / 2).unwrap_err().to_string();
    assert!(error.contains("restored from a copy"), "{error}");
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", world.name);
    assert_eq!(world.sql(&slots), ["0"], "none was made");
}
