//! Tables that change while they are captured.

use interdict_ingest::source::config::postgres::ColumnsBefore;

use crate::rig::{Puller, World, refusal, streams};

#[test]
fn columns_that_are_added_reordered_or_not_declared_change_nothing() {
    let world = World::new("added");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO chargebacks VALUES (1, true); ALTER TABLE chargebacks ADD note text DEFAULT 'x'; INSERT INTO chargebacks VALUES (2, true, 'y'); ALTER TABLE chargebacks DROP is_fraud, ADD is_fraud bool; INSERT INTO chargebacks (id, is_fraud) VALUES (3, false); ALTER TABLE chargebacks DROP note; INSERT INTO chargebacks VALUES (4, true)");
    assert_eq!(puller.rows(4), ["+ chargebacks 1|1", "+ chargebacks 2|1", "+ chargebacks 3|0", "+ chargebacks 4|1"]);
}

#[test]
fn a_declared_column_that_goes_stops_the_source_after_what_came_before() {
    let world = World::new("gone");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO chargebacks VALUES (1, true); ALTER TABLE chargebacks RENAME is_fraud TO fraud; INSERT INTO chargebacks VALUES (2, true)");
    let error = loop {
        if let Err(error) = puller.pull() {
            break error.to_string();
        }
    };
    assert_eq!(puller.shown(), ["+ chargebacks 1|1"]);
    assert!(error.contains("public.chargebacks has no column 'is_fraud'") && error.contains("id, fraud"), "{error}");
    let position = puller.position;
    drop(puller);
    world.sql("ALTER TABLE chargebacks RENAME fraud TO is_fraud");
    let mut puller = Puller::resume(&world.config(), &streams(), position).unwrap();
    let told = refused(&mut puller);
    assert!(told.contains("are from before it had 'is_fraud', and have fraud, which it has no more"), "{told}");
    assert!(told.contains("renamed = { chargebacks = { fraud = \"is_fraud\" } }"), "{told}");
    assert!(told.contains("dropped = { chargebacks = [\"fraud\"] }"), "{told}");
    drop(puller);
    for (before, expected) in [(renamed(), "+ chargebacks 2|1"), (dropped(), "+ chargebacks 2|-")] {
        let mut config = world.config();
        config.tables[1].before = before;
        let mut puller = Puller::resume(&config, &streams(), position).unwrap();
        assert_eq!(puller.rows(1), [expected]);
    }
}

fn renamed() -> ColumnsBefore {
    ColumnsBefore { renamed: vec![("fraud".to_owned(), "is_fraud".to_owned())], ..ColumnsBefore::default() }
}

fn dropped() -> ColumnsBefore {
    ColumnsBefore { dropped: vec!["fraud".to_owned()], ..ColumnsBefore::default() }
}

/// What stops the source.
fn refused(puller: &mut Puller) -> String {
    loop {
        if let Err(error) = puller.pull() {
            return error.to_string();
        }
    }
}

/// A table may get another name and another column at once.
#[test]
fn a_column_that_is_renamed_with_its_table_is_not_taken_for_null() {
    let world = World::new("renamed_with_it");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let position = puller.position;
    drop(puller);
    world.sql("ALTER TABLE chargebacks RENAME is_fraud TO fraud; ALTER TABLE chargebacks RENAME TO reports; INSERT INTO reports VALUES (1, true); ALTER TABLE reports RENAME TO chargebacks; ALTER TABLE chargebacks RENAME fraud TO is_fraud");
    let mut puller = Puller::resume(&world.config(), &streams(), position).unwrap();
    let told = refused(&mut puller);
    assert!(told.contains("renamed = {"), "{told}");
    drop(puller);
    let mut config = world.config();
    config.tables[1].before = renamed();
    let mut puller = Puller::resume(&config, &streams(), position).unwrap();
    assert_eq!(puller.rows(1), ["+ chargebacks 1|1"]);
}

#[test]
fn rows_from_before_a_column_was_added_have_null_in_it() {
    let world = World::new("before");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let position = puller.position;
    drop(puller);
    world.sql("ALTER TABLE chargebacks DROP is_fraud; INSERT INTO chargebacks VALUES (1); ALTER TABLE chargebacks ADD is_fraud bool; INSERT INTO chargebacks VALUES (2, true)");
    let mut puller = Puller::resume(&world.config(), &streams(), position).unwrap();
    assert_eq!(puller.rows(2), ["+ chargebacks 1|-", "+ chargebacks 2|1"]);
}

#[test]
fn a_type_that_changes_under_way_is_told() {
    let world = World::new("retyped");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER TABLE chargebacks ALTER is_fraud TYPE float8 USING 1; INSERT INTO chargebacks VALUES (1, 0.5)");
    let error = loop {
        if let Err(error) = puller.pull() {
            break error.to_string();
        }
    };
    assert!(error.contains("column 'is_fraud' of public.chargebacks"), "{error}");
}

#[test]
fn a_table_that_leaves_the_capture_is_told() {
    let world = World::new("leaving");
    let ended = |puller: &mut Puller| loop {
        if let Err(error) = puller.pull() {
            break error.to_string();
        }
    };
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("ALTER TABLE chargebacks RENAME TO old; INSERT INTO old VALUES (1, true)");
    let error = ended(&mut puller);
    assert!(
        error.contains("public.chargebacks is called public.old now") || error.contains("no table public.chargebacks"),
        "{error}"
    );
    let position = puller.position;
    drop(puller);
    world.sql("ALTER TABLE old RENAME TO chargebacks");
    let mut puller = Puller::resume(&world.config(), &streams(), position).unwrap();
    puller.source.handle().confirm(position);
    world.sql("ALTER PUBLICATION interdict DROP TABLE chargebacks");
    let error = ended(&mut puller);
    assert!(error.contains("does not hold public.chargebacks"), "{error}");
}

#[test]
fn columns_that_changes_would_not_carry_are_told() {
    let world = World::new("uncarried");
    world.sql("ALTER TABLE chargebacks DROP is_fraud, ADD is_fraud bool GENERATED ALWAYS AS (id > 0) STORED");
    assert!(refusal(&world.config(), &streams()).contains("do not carry: is_fraud"));
    world.sql("ALTER TABLE chargebacks DROP is_fraud, ADD is_fraud bool; CREATE PUBLICATION interdict FOR TABLE transactions (id, at, amount), chargebacks");
    assert!(refusal(&world.config(), &streams()).contains("do not carry: customer, is_fraud, score"));
}

#[test]
fn rows_that_are_hidden_from_the_role_are_told() {
    let world = World::new("hidden");
    world.sql("CREATE ROLE half LOGIN REPLICATION; GRANT SELECT ON transactions, chargebacks TO half; CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks; ALTER TABLE chargebacks ENABLE ROW LEVEL SECURITY; CREATE POLICY part ON chargebacks USING (id > 5)");
    let mut config = world.config();
    config.address.user = "half".to_owned();
    assert!(refusal(&config, &streams()).contains("row-level security"));
}

#[test]
fn rows_of_inheriting_tables_are_not_those_of_the_table() {
    let world = World::new("heirs");
    world.sql("CREATE TABLE heir () INHERITS (chargebacks); ALTER TABLE heir REPLICA IDENTITY FULL; INSERT INTO heir VALUES (1, true); INSERT INTO chargebacks VALUES (2, true)");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    world.sql("INSERT INTO heir VALUES (3, true); INSERT INTO chargebacks VALUES (4, true)");
    assert_eq!(puller.rows(2), ["= chargebacks 2|1", "+ chargebacks 4|1"]);
}
