//! Positions: what is confirmed, where reading goes on, what an idle slot does.

use interdict_features::change::Op;
use interdict_ingest::source::config::postgres::HeartbeatMessage;

use crate::postgres_server::PostgresServer;
use crate::rig::{PATIENCE, Puller, TABLES, World, config_at, newest, streams};

/// Waits until `holds`.
#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}");
    }
}

#[test]
fn the_server_hears_of_nothing_but_what_was_confirmed() {
    let world = World::new("confirmed");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let made = world.slot();
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    puller.rows(1);
    let first = puller.position;
    world.sql("INSERT INTO chargebacks VALUES (2, true)");
    puller.rows(2);
    puller.source.handle().confirm(first);
    // The reader is not pulled from while the server hears of it: only its own thread works.
    world.sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
    let _told = puller.pull().unwrap();
    eventually("the server hears of the confirmation", || world.slot() == first);
    assert!(made < first && first < puller.position);
}

#[test]
fn the_slots_lag_is_exported_and_falls_once_a_delivery_is_confirmed() {
    // A server of its own: what other tests write would count.
    let server = PostgresServer::start(&[]);
    server.database("lagging");
    server.sql("lagging", TABLES);
    let mut config = config_at("localhost", server.port, "lagging");
    // Something to be told of, or a pull would wait.
    config.heartbeat_message = HeartbeatMessage::Written;
    let mut puller = Puller::open(&config, &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    let before = puller.position;
    server.sql("lagging", "INSERT INTO chargebacks SELECT n, true FROM generate_series(1, 5000) n");
    puller.until("the whole transaction", |puller| puller.seen.len() == 5_000 && puller.position > before);
    // A row of a chargeback takes more than 40 bytes of log. The reader is not pulled from meanwhile.
    eventually("bytes that the server keeps", || puller.exported("slot_lag_bytes") > 200_000.0);
    eventually("the age of the transaction", || puller.exported("slot_lag_seconds") > 0.0);
    puller.source.handle().confirm(puller.position);
    puller.until("the confirmation", |puller| puller.exported("slot_lag_seconds") < f64::EPSILON);
    puller.until("the log let go", |puller| puller.exported("slot_lag_bytes") < 20_000.0);
}

#[test]
fn a_second_start_goes_on_after_the_position_and_repeats_what_was_not_stored() {
    let world = World::new("again");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    puller.rows(1);
    let (stored, incarnation) = (puller.position, puller.incarnation.clone());
    world.sql("INSERT INTO chargebacks VALUES (2, true)");
    puller.rows(2);
    let repeated = puller.seen[1].clone();
    drop(puller);
    world.sql("INSERT INTO chargebacks VALUES (3, true)");
    let mut puller = Puller::resume(&world.config(), &streams(), stored).unwrap();
    assert_eq!(puller.rows(2), ["+ chargebacks 2|1", "+ chargebacks 3|1"]);
    assert_eq!(puller.seen[0], repeated, "with the same version, time and position");
    assert_eq!(puller.incarnation, incarnation);
}

#[test]
fn a_snapshot_that_is_cut_off_begins_anew_and_the_newest_rows_count() {
    let world = World::new("cutoff");
    world.sql("INSERT INTO transactions SELECT n, '2026-01-01Z', 'c', 1, null, null FROM generate_series(1, 6000) n");
    let mut puller = world.puller();
    puller.pull().unwrap();
    assert_eq!((puller.position, puller.seen.len()), (0, 2048));
    let mut all = std::mem::take(&mut puller.seen);
    drop(puller);
    world.sql("UPDATE transactions SET amount = 2 WHERE id = 1; DELETE FROM transactions WHERE id = 2; INSERT INTO transactions VALUES (7000, '2026-01-01Z', 'c', 1, null, null)");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("UPDATE transactions SET amount = 3 WHERE id = 3");
    puller.until("the change", |puller| puller.seen.last().unwrap().change.op == Op::Update);
    assert!(puller.seen.iter().filter(|seen| seen.cells[0] == "7000").all(|seen| seen.change.op == Op::Snapshot));
    all.append(&mut puller.seen);
    let rows = newest(&all);
    // A row that was deleted between the two snapshots stays: nothing tells of it.
    assert_eq!((rows["1"][3].as_str(), rows["3"][3].as_str(), rows.len()), ("200", "300", 6001));
}

#[test]
fn an_idle_slot_moves_with_the_servers_log() {
    let world = World::new("idle");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let before = puller.position;
    world.sql("CREATE TABLE elsewhere AS SELECT generate_series(1, 1000)");
    puller.drain(world.server);
    assert!(puller.position > before && puller.seen.is_empty());
    puller.source.handle().confirm(puller.position);
    let position = puller.position;
    world.sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
    puller.pull().unwrap();
    eventually("the slot moves", || world.slot() >= position);
}

#[test]
fn a_heartbeat_is_written_where_it_is_wanted() {
    let world = World::new("beating");
    let mut config = world.config();
    config.heartbeat_message = HeartbeatMessage::Written;
    let mut puller = Puller::open(&config, &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    // A message alone is not flushed at once; the server's own writer does it within a second.
    let mut last = puller.position;
    for _ in 0..3 {
        puller.until("a beat", |puller| puller.position > last);
        last = puller.position;
    }
    assert!(puller.seen.is_empty() && puller.dead.is_empty());
}

#[test]
fn a_position_that_the_slot_has_passed_stops_with_a_message() {
    let world = World::new("moved");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let stored = puller.position;
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    puller.rows(1);
    drop(puller);
    eventually("the slot is free", || {
        world.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'moved'") == ["f"]
    });
    world.sql("SELECT pg_replication_slot_advance('moved', pg_current_wal_lsn())");
    let error = Puller::resume(&world.config(), &streams(), stored).unwrap_err();
    assert!(error.to_string().contains("only the changes up to"), "{error}");
    let error = Puller::resume(&world.config(), &streams(), u64::MAX / 2).unwrap_err();
    assert!(error.to_string().contains("restored"), "{error}");
    // The last look at it may still be under way in the server.
    eventually("the slot is free again", || {
        world.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'moved'") == ["f"]
    });
    world.sql("SELECT pg_drop_replication_slot('moved')");
    let error = Puller::resume(&world.config(), &streams(), stored).unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
    assert_eq!(
        world.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'moved'"),
        ["0"],
        "none is made silently"
    );
}

#[test]
fn an_identity_names_cluster_database_slot_and_publication() {
    let (one, two) = (World::new("identity_a"), World::new("identity_b"));
    let identities = [&one, &two].map(|world| world.puller().incarnation);
    assert_ne!(identities[0], identities[1]);
    let system = one.sql("SELECT system_identifier FROM pg_control_system()")[0].clone();
    assert!(identities[0].starts_with(&format!("postgres/{system}/timeline-1/database-")), "{}", identities[0]);
    assert!(identities[0].ends_with("/identity_a/interdict"));
}

#[test]
fn a_call_that_waits_ends_when_it_is_told_to() {
    let world = World::new("told");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let stop = puller.stop.clone();
    let (waits, waiting) = std::sync::mpsc::sync_channel(1);
    // An idle position comes; after it there is nothing to come for a while.
    world.sql("CREATE TABLE elsewhere AS SELECT generate_series(1, 1000)");
    let reader = std::thread::spawn(move || {
        loop {
            match puller.source.next(10) {
                Ok(Some(_idle)) => drop(waits.try_send(())),
                ended => break ended.unwrap().is_none(),
            }
        }
    });
    waiting.recv_timeout(PATIENCE).unwrap();
    // It waits again by then.
    world.sql("SELECT pg_sleep(0.3)");
    stop.stop();
    assert!(reader.join().unwrap());
}

/// What other tables commit leaves no silence in which an idle position could be told, and no call that waits.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn what_other_tables_commit_holds_up_neither_the_position_nor_the_end() {
    let server = PostgresServer::start(&[]);
    server.database("loaded");
    server.sql("loaded", TABLES);
    server.sql("loaded", "CREATE TABLE elsewhere (n int)");
    let mut puller = Puller::open(&config_at("localhost", server.port, "loaded"), &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    let stop = puller.stop.clone();
    let busy = "DO $$ BEGIN FOR n IN 1..1000000 LOOP INSERT INTO elsewhere VALUES (n); COMMIT; PERFORM pg_sleep(0.002); END LOOP; END $$";
    let end =
        "SELECT pg_current_wal_lsn() - '0/0', pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO%'";
    let (told, ended) = std::sync::mpsc::sync_channel(64);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(server.try_sql("loaded", busy)));
        }
        server.sql("loaded", "SELECT pg_sleep(2)");
        let reached: u64 = server.sql("loaded", "SELECT pg_current_wal_lsn() - '0/0'")[0].parse().unwrap();
        let reader = scope.spawn(move || {
            while let Some(idle) = puller.source.next(100).unwrap() {
                let _enough = told.try_send(idle.position);
            }
        });
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut passed = false;
        while !passed && std::time::Instant::now() < deadline {
            passed = ended.recv_timeout(std::time::Duration::from_secs(1)).is_ok_and(|position| position > reached);
        }
        let began = std::time::Instant::now();
        stop.stop();
        while !reader.is_finished() && began.elapsed() < PATIENCE {
            server.sql("loaded", "SELECT pg_sleep(0.05)");
        }
        let has_ended = reader.is_finished();
        assert!(server.sql("loaded", end).len() >= 8, "the load is still on");
        assert!(passed && has_ended, "passed: {passed}, ended: {has_ended}");
    });
}
