//! Publications that are altered while they are captured.

use interdict_features::change::Op;
use interdict_ingest::source::config::postgres::OnLostSlot;

use crate::rig::{PATIENCE, Puller, World, streams};

/// What stops the source.
#[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
fn refused(puller: &mut Puller) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        if let Err(error) = puller.pull() {
            return error.to_string();
        }
    }
    panic!("it goes on; seen {:?}", puller.shown());
}

#[test]
fn declared_columns_that_the_publication_leaves_out_under_way_are_not_taken_for_null() {
    let world = World::new("narrowed");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("BEGIN; ALTER PUBLICATION interdict SET TABLE transactions (id, at, customer), chargebacks; INSERT INTO transactions VALUES (1, now(), 'c', 1); COMMIT");
    world.sql("INSERT INTO transactions VALUES (2, now(), 'c', 1)");
    let error = refused(&mut puller);
    assert!(error.contains("changes of public.transactions do not carry: amount, is_fraud, score"), "{error}");
    assert!(puller.seen.iter().all(|seen| seen.cells[3] != "-"), "{:?}", puller.shown());
}

#[test]
fn kinds_of_changes_that_the_publication_leaves_out_under_way_are_told() {
    let world = World::new("halved");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER PUBLICATION interdict SET (publish = 'insert, delete, truncate')");
    let error = refused(&mut puller);
    assert!(error.contains("leaves out every update"), "{error}");
}

#[test]
fn a_publication_that_still_fits_is_gone_on_with() {
    let world = World::new("widened");
    world.sql("CREATE TABLE other (id bigint PRIMARY KEY)");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER PUBLICATION interdict ADD TABLE other; ALTER PUBLICATION interdict SET TABLE transactions, other, chargebacks (id, is_fraud); INSERT INTO chargebacks VALUES (1, true)");
    assert_eq!(puller.rows(1), ["+ chargebacks 1|1"]);
    puller.until("another connection", |puller| puller.exported("reconnects_total") > 0.0);
    world.sql("INSERT INTO chargebacks VALUES (2, true)");
    assert_eq!(puller.rows(2)[1], "+ chargebacks 2|1");
}

const BACK: &str = "ALTER PUBLICATION interdict ADD TABLE chargebacks";

#[test]
fn a_table_that_left_the_publication_and_came_back_between_two_starts_is_told() {
    let world = World::new("returned");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    puller.rows(1);
    world.sql("ALTER PUBLICATION interdict DROP TABLE chargebacks; INSERT INTO chargebacks VALUES (2, true)");
    let error = refused(&mut puller);
    assert!(error.contains("does not hold public.chargebacks") && error.contains("is not sent later"), "{error}");
    let position = puller.position;
    drop(puller);
    world.sql(&format!("{BACK}; INSERT INTO chargebacks VALUES (3, true)"));
    let mut config = world.config();
    let error = Puller::resume(&config, &streams(), position).unwrap_err().to_string();
    assert!(error.contains("holds public.chargebacks only since after"), "{error}");
    assert!(error.contains("on_lost_slot = \"snapshot\""), "{error}");
    config.on_lost_slot = OnLostSlot::Snapshot;
    let mut puller = Puller::resume(&config, &streams(), position).unwrap();
    puller.until("the snapshot", |puller| puller.seen.last().is_some_and(|seen| seen.change.op == Op::Settled));
    let rows: Vec<String> = puller.shown().into_iter().filter(|row| row.starts_with('!')).collect();
    assert_eq!(rows, ["! chargebacks 1|1", "! chargebacks 2|1", "! chargebacks 3|1"]);
    let seen = puller.seen.len();
    world.sql("INSERT INTO chargebacks VALUES (4, true)");
    assert_eq!(puller.rows(seen + 1)[seen], "+ chargebacks 4|1");
}

#[test]
fn a_table_that_leaves_the_publication_and_comes_back_at_once_is_told() {
    let world = World::new("brief");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER PUBLICATION interdict DROP TABLE chargebacks; INSERT INTO chargebacks VALUES (2, true)");
    world.sql(BACK);
    let error = refused(&mut puller);
    assert!(error.contains("holds public.chargebacks only since after") || error.contains("does not hold"), "{error}");
}

#[test]
fn a_table_that_was_away_while_nobody_read_is_told_whatever_it_comes_back_with() {
    let world = World::new("away");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER PUBLICATION interdict DROP TABLE chargebacks; INSERT INTO chargebacks VALUES (2, true)");
    // Some heartbeats, as while intake is held back.
    world.sql("SELECT pg_sleep(2)");
    world.sql("ALTER PUBLICATION interdict ADD TABLE chargebacks (id, is_fraud)");
    let error = refused(&mut puller);
    assert!(error.contains("holds public.chargebacks only since after"), "{error}");
}

#[test]
fn a_table_that_is_declared_later_is_told() {
    let world = World::new("later");
    world.sql("INSERT INTO chargebacks VALUES (1, true)");
    let mut config = world.config();
    config.tables.truncate(1);
    let mut puller = Puller::open(&config, &streams()[..1]);
    puller.until("the snapshot", |puller| puller.position > 0);
    let position = puller.position;
    drop(puller);
    let config = world.config();
    let error = Puller::resume(&config, &streams(), position).unwrap_err().to_string();
    assert!(error.contains("does not hold public.chargebacks"), "{error}");
    world.sql(BACK);
    let error = Puller::resume(&config, &streams(), position).unwrap_err().to_string();
    assert!(error.contains("holds public.chargebacks only since after"), "{error}");
}
