//! Servers that go away, connections that break, slots that are lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use interdict_ingest::source::error::SourceError;

use crate::postgres_server::PostgresServer;
use crate::rig::{PATIENCE, Puller, TABLES, World, config_at, newest, refusal, streams};

#[test]
fn a_restart_of_the_server_loses_and_doubles_nothing() {
    let server = PostgresServer::start(&[]);
    server.database("restarted");
    server.sql("restarted", TABLES);
    let config = config_at("localhost", server.port, "restarted");
    let mut puller = Puller::open(&config, &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    for (round, mode) in ["fast", "immediate", "fast"].into_iter().enumerate() {
        let from = round * 100;
        server.sql(
            "restarted",
            &format!("INSERT INTO chargebacks SELECT n, true FROM generate_series({from}, {}) n", from + 49),
        );
        puller.batch = 7;
        puller.rows(from + 20);
        std::thread::scope(|scope| {
            // A fast shutdown waits for a reader that has not confirmed everything; ours must let go by itself.
            let restarted = scope.spawn(|| server.control(&["restart", "-w", "-m", mode]));
            while !restarted.is_finished() {
                puller.pull().unwrap();
            }
        });
        server.sql(
            "restarted",
            &format!("INSERT INTO chargebacks SELECT n, true FROM generate_series({}, {}) n", from + 50, from + 99),
        );
        puller.rows(from + 100);
    }
    let ids: Vec<String> = puller.seen.iter().map(|seen| seen.cells[0].clone()).collect();
    assert_eq!(ids, (0..300).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[test]
fn sessions_that_are_killed_are_taken_up_again() {
    let world = World::new("killed");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    puller.batch = 3;
    for round in 0..5 {
        let from = round * 10;
        world.sql(&format!("INSERT INTO chargebacks SELECT n, true FROM generate_series({from}, {}) n", from + 9));
        puller.rows(from + 4);
        let whom =
            if round % 2 == 0 { "application_name = 'interdict payments'" } else { "backend_type = 'walsender'" };
        world.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'killed' AND pid <> pg_backend_pid() AND {whom}"));
        puller.rows(from + 10);
    }
    let ids: Vec<String> = puller.seen.iter().map(|seen| seen.cells[0].clone()).collect();
    assert_eq!(ids, (0..50).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_session_that_ends_during_the_snapshot_begins_it_anew() {
    let world = World::new("interrupted");
    world.sql("INSERT INTO chargebacks SELECT n, true FROM generate_series(1, 5000) n");
    let mut puller = world.puller();
    puller.pull().unwrap();
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'interrupted' AND pid <> pg_backend_pid()");
    puller.until("the snapshot", |puller| puller.position > 0);
    assert!(puller.seen.len() > 5000);
    assert_eq!(newest(&puller.seen).len(), 5000);
}

#[test]
fn a_reader_that_holds_back_is_not_cut_off() {
    let server = PostgresServer::start(&["wal_sender_timeout = 2s"]);
    server.database("slow");
    server.sql("slow", TABLES);
    let mut puller = Puller::open(&config_at("localhost", server.port, "slow"), &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    server.sql("slow", "INSERT INTO chargebacks SELECT n, true FROM generate_series(1, 50000) n");
    puller.batch = 10;
    puller.rows(10);
    let sender = "SELECT pid FROM pg_stat_replication";
    let before = server.sql("slow", sender);
    // Longer than the server waits for a reader that is silent, by its own clock.
    server.sql("slow", "SELECT pg_sleep(5)");
    assert_eq!(server.sql("slow", sender), before);
    puller.batch = 10_000;
    puller.rows(50_000);
    assert_eq!(puller.seen.len(), 50_000);
}

#[test]
fn a_slot_whose_log_was_removed_is_told() {
    let server = PostgresServer::start(&["max_slot_wal_keep_size = 1MB", "min_wal_size = 32MB", "max_wal_size = 32MB"]);
    server.database("lost");
    server.sql("lost", TABLES);
    let config = config_at("localhost", server.port, "lost");
    let mut puller = Puller::open(&config, &streams());
    puller.until("the snapshot", |puller| puller.position > 0);
    let position = puller.position;
    drop(puller);
    for _ in 0..4 {
        server.sql("lost", "SELECT pg_logical_emit_message(false, 'x', 'x'); SELECT pg_switch_wal(); CHECKPOINT");
    }
    assert_eq!(server.sql("lost", "SELECT wal_status FROM pg_replication_slots"), ["lost"]);
    let error = Puller::resume(&config, &streams(), position).unwrap_err().to_string();
    assert!(error.contains("was invalidated") && error.contains("max_slot_wal_keep_size"), "{error}");
    assert!(refusal(&config, &streams()).contains("was invalidated"), "also for one that begins");
}

#[test]
fn a_slot_that_is_dropped_while_it_runs_is_told() {
    let world = World::new("dropped");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let gone = world.sql(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = 'dropped'; SELECT pg_drop_replication_slot('dropped')",
    );
    assert_eq!(gone[0], "t");
    let error = loop {
        if let Err(error) = puller.pull() {
            break error;
        }
    };
    assert!(error.to_string().contains("is gone"), "{error}");
}

#[test]
fn a_publication_that_is_younger_than_the_slot_is_told() {
    let world = World::new("young");
    world.sql(
        "SELECT pg_create_logical_replication_slot('young', 'pgoutput'); INSERT INTO chargebacks VALUES (1, true)",
    );
    let error = refusal(&world.config(), &streams());
    assert!(error.contains("is younger than the slot"), "{error}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn a_server_that_is_not_there_is_waited_for_and_told() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let began = std::time::Instant::now();
    let error = Puller::resume(&config_at("localhost", free, "x"), &streams(), 0).unwrap_err();
    assert!(error.to_string().contains(&format!("localhost:{free} cannot be reached")), "{error}");
    assert!(began.elapsed() < PATIENCE);
    assert!(matches!(error, SourceError::Postgres(_)));
}

/// The server notices late that somebody who waits for it has gone: the name of the snapshot's slot stays taken.
#[test]
fn a_snapshot_that_an_earlier_start_still_waits_for_is_waited_for() {
    let server = PostgresServer::start(&[]);
    server.database("waited");
    server.sql("waited", TABLES);
    server.sql("waited", "CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks");
    server.sql("waited", "SELECT pg_create_logical_replication_slot('waited', 'pgoutput')");
    let config = config_at("localhost", server.port, "waited");
    let long = "BEGIN; INSERT INTO chargebacks VALUES (1, true); DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'done') LOOP PERFORM pg_sleep(0.05); END LOOP; END $$; COMMIT";
    let begun = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'DO %' AND backend_xid IS NOT NULL";
    let waits = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = 'waited_snapshot'";
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql("waited", long));
        until(&server, begun);
        let mut first = Puller::open(&config, &streams());
        let stop = first.stop.clone();
        let reader = scope.spawn(move || first.source.next(10).unwrap().is_none());
        until(&server, waits);
        stop.stop();
        assert!(reader.join().unwrap());
        let mut second = Puller::open(&config, &streams());
        let reader = scope.spawn(move || {
            while second.seen.is_empty() {
                second.pull().map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(second.shown())
        });
        assert_eq!(server.sql("waited", &format!("SELECT pg_sleep(1); {waits}"))[1], "t");
        server.sql("waited", "CREATE TABLE done ()");
        assert_eq!(reader.join().unwrap(), Ok(vec!["= chargebacks 1|1".to_owned()]));
    });
}

#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn until(server: &PostgresServer, question: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.sql("waited", question) != ["t"] {
        assert!(std::time::Instant::now() < deadline, "{question}");
    }
}

#[test]
fn sessions_that_end_as_soon_as_they_begin_are_begun_with_pauses() {
    let world = World::new("flapping");
    let port = cut_once_it_replicates(world.server.port);
    let mut puller = Puller::open(&config_at("localhost", port, &world.name), &streams());
    let stop = puller.stop.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            world.sql("SELECT pg_sleep(5)");
            stop.stop();
        });
        while let Some(delivery) = puller.source.next(10).unwrap() {
            assert_eq!(delivery.records, 0);
        }
    });
    let reconnects = puller.exported("reconnects_total");
    assert!((2.0..12.0).contains(&reconnects), "{reconnects} in 5 s");
}

/// A way to a server that cuts a connection once the server has begun to replicate over it.
fn cut_once_it_replicates(server: u16) -> u16 {
    let listener = TcpListener::bind(("localhost", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(("localhost", server)).unwrap());
            let replicates = Arc::new(AtomicBool::new(false));
            let (from, to, asked) = (near.try_clone().unwrap(), far.try_clone().unwrap(), Arc::clone(&replicates));
            std::thread::spawn(move || {
                hand_on(from, to, |sent| {
                    let begins = sent.windows(17).any(|part| part == b"START_REPLICATION");
                    asked.fetch_or(begins, Ordering::AcqRel);
                    true
                });
            });
            std::thread::spawn(move || hand_on(far, near, |_| !replicates.load(Ordering::Acquire)));
        }
    });
    port
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(&[u8]) -> bool) {
    let mut part = [0; 4_096];
    while let Ok(length @ 1..) = from.read(&mut part) {
        let goes_on = goes_on(&part[..length]);
        if to.write_all(&part[..length]).is_err() || !goes_on {
            break;
        }
    }
    for end in [from, to] {
        let _gone_before = end.shutdown(Shutdown::Both);
    }
}
