//! One owner per slot; the others wait for it.

use std::time::Duration;

use interdict_features::definition::Stream;
use interdict_features::time::Span;
use interdict_ingest::source::postgres::{Opening, PostgresSource};

use crate::rig::{Puller, World, streams};

#[test]
fn a_standby_takes_over_when_the_owner_goes() {
    let world = World::new("owned");
    let mut owner = world.puller();
    owner.until("the snapshot", |puller| puller.position > 0);
    let mut config = world.config();
    config.slot_wait = None;
    let standby = std::thread::spawn({
        let config = config.clone();
        move || {
            // The position is asked for once the slot is held: what the owner stored until then counts.
            let stop = interdict_ingest::source::stop::Stop::default();
            let metrics = interdict_ingest::source::postgres::metrics::PostgresMetrics::default();
            let (streams, retention) = (streams(), |_: &Stream| Span::DAY);
            let opening = Opening {
                name: "payments",
                config: &config,
                streams: &streams,
                retention: &retention,
                environment: &|_| None,
            };
            let mut source = PostgresSource::open(&opening, &metrics, stop).unwrap();
            let identity = source.incarnation().unwrap().unwrap();
            (source, identity)
        }
    });
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    owner.rows(1);
    let (stored, identity) = (owner.position, owner.incarnation.clone());
    assert!(!standby.is_finished(), "the owner has the slot");
    drop(owner);
    let (mut source, taken) = standby.join().unwrap();
    assert_eq!(taken, identity);
    source.resume(stored, stored).unwrap();
    world.sql("INSERT INTO chargebacks VALUES (2, true)");
    let delivery = loop {
        let delivery = source.next(100).unwrap().unwrap();
        if delivery.records > 0 {
            break delivery;
        }
    };
    assert_eq!(delivery.batches[0].row(0).cells[0], 2);
}

#[test]
fn a_second_reader_that_may_not_stand_by_is_told() {
    let world = World::new("busy");
    let mut owner = world.puller();
    owner.until("the snapshot", |puller| puller.position > 0);
    let mut config = world.config();
    config.slot_wait = Some(Duration::from_secs(1));
    let error = Puller::resume(&config, &streams(), owner.position).unwrap_err();
    assert!(error.to_string().contains("is read by another process"), "{error}");
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    assert_eq!(owner.rows(1), ["+ chargebacks 1|1"], "the owner is not disturbed");
}

#[test]
fn an_owner_that_lost_the_slot_to_another_one_starts_again() {
    let world = World::new("robbed");
    let mut owner = world.puller();
    owner.until("the snapshot", |puller| puller.position > 0);
    let stored = owner.position;
    // While the first one is not pulled from, its session ends and another process takes the slot and moves it.
    world.sql("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = 'robbed'");
    let mut other = Puller::resume(&world.config(), &streams(), stored).unwrap();
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    other.rows(1);
    let moved = other.position;
    other.source.handle().confirm(moved);
    while world.slot() < moved {
        // Something to be told of, or the call would wait.
        world.sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        other.pull().unwrap();
    }
    drop(other);
    let error = loop {
        match owner.pull() {
            Ok(delivery) => assert_eq!(delivery.records, 0),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("in the meantime"), "{error}");
}
