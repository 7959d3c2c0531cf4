//! Publications that are altered while they are captured.

use crate::rig::{PATIENCE, Puller, World};

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
