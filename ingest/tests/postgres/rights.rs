//! What stops a capture before it begins says what to do.

use interdict_ingest::source::config::password::PasswordSource;
use interdict_ingest::source::config::postgres::{Creation, PostgresConfig};

use crate::postgres_server::PostgresServer;
use crate::rig::{Puller, TABLES, World, config_at, refusal, stream, streams};
use std::sync::Arc;

fn check(config: &PostgresConfig, expected: &[&str]) {
    let error = refusal(config, &streams());
    for part in expected {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn what_the_tables_lack_is_told() {
    let world = World::with("lacking", "CREATE SCHEMA s");
    let config = world.config();
    check(&config, &["there is no table public.transactions"]);
    world.sql("CREATE VIEW transactions AS SELECT 1 AS id");
    check(&config, &["is a view"]);
    world.sql(&format!("DROP VIEW transactions; {TABLES} ALTER TABLE transactions SET UNLOGGED"));
    check(&config, &["is an unlogged table"]);
    world.sql("ALTER TABLE transactions SET LOGGED; ALTER TABLE transactions RENAME amount TO total");
    check(&config, &["has no column 'amount'", "id, at, customer, total", "[stream.transactions]"]);
    world.sql("ALTER TABLE transactions RENAME total TO amount; ALTER TABLE transactions ALTER amount TYPE money USING 0::money");
    check(&config, &["column 'amount'", "is money", "decimal(2)"]);
    world.sql("ALTER TABLE transactions ALTER amount TYPE numeric USING 0; ALTER TABLE transactions DROP CONSTRAINT transactions_pkey");
    check(&config, &["replica identity of public.transactions does not hold 'id'", "REPLICA IDENTITY FULL"]);
    assert_eq!(world.sql("SELECT count(*) FROM pg_publication"), ["0"], "with a publication every UPDATE would fail");
    world.sql("ALTER TABLE transactions ADD COLUMN own bigint PRIMARY KEY");
    check(&config, &["does not hold 'id'"]);
    world.sql("ALTER TABLE transactions REPLICA IDENTITY FULL");
    Puller::open(&config, &streams()).until("the snapshot", |puller| puller.position > 0);
}

#[test]
fn what_the_publication_lacks_is_told() {
    let world = World::new("published");
    let mut config = world.config();
    config.creation = Creation::Forbidden;
    check(
        &config,
        &[
            "there is no publication 'interdict'",
            "CREATE PUBLICATION interdict FOR TABLE \"public\".\"transactions\", ",
        ],
    );
    world.sql("CREATE PUBLICATION interdict FOR TABLE transactions");
    check(&config, &["does not hold public.chargebacks", "ALTER PUBLICATION"]);
    world.sql("ALTER PUBLICATION interdict ADD TABLE chargebacks; ALTER PUBLICATION interdict SET (publish = 'insert, delete, truncate')");
    check(&config, &["leaves out every update"]);
    world.sql("ALTER PUBLICATION interdict SET (publish = 'insert, update, delete, truncate')");
    check(&config, &["there is no replication slot 'published'", "pg_create_logical_replication_slot"]);
    world.sql("SELECT pg_create_logical_replication_slot('published', 'test_decoding')");
    check(&config, &["is one of output plugin 'test_decoding'"]);
    world.sql("SELECT pg_drop_replication_slot('published'); SELECT pg_create_physical_replication_slot('published')");
    check(&config, &["is a physical one"]);
    world.sql("SELECT pg_drop_replication_slot('published')");
    world.server.sql("postgres", "SELECT pg_create_logical_replication_slot('published', 'pgoutput')");
    check(&config, &["is one of database 'postgres'"]);
    world.sql("SELECT pg_drop_replication_slot('published'); SELECT pg_create_logical_replication_slot('published', 'pgoutput')");
    Puller::open(&config, &streams()).until("the snapshot", |puller| puller.position > 0);
}

#[test]
fn what_the_role_may_not_do_is_told() {
    let world = World::new("roles");
    world.sql("CREATE ROLE plain LOGIN");
    let mut config = world.config();
    config.address.user = "plain".to_owned();
    check(&config, &["may not read public.transactions", "GRANT SELECT"]);
    world.sql("GRANT SELECT ON transactions, chargebacks TO plain");
    check(&config, &["may not make the publication", "CREATE PUBLICATION interdict"]);
    world.sql("CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks");
    check(&config, &["may not replicate", "ALTER ROLE plain REPLICATION"]);
    world.sql("ALTER ROLE plain REPLICATION");
    Puller::open(&config, &streams()).until("the snapshot", |puller| puller.position > 0);
    config.address.user = "nobody_knows".to_owned();
    check(&config, &["refuses role 'nobody_knows'", "pg_hba.conf"]);
    config.address.user = "plain".to_owned();
    config.address.database = "nowhere".to_owned();
    check(&config, &["refuses role 'plain'", "\"nowhere\" does not exist"]);
}

#[test]
fn secrets_that_are_not_there_are_told() {
    let mut config = config_at("localhost", 1, "x");
    config.password = PasswordSource::Environment("NOT_SET".to_owned());
    check(&config, &["the environment has no NOT_SET"]);
    config.password = PasswordSource::File("/nowhere/secret".into());
    check(&config, &["/nowhere/secret cannot be read"]);
}

#[test]
fn streams_that_a_database_cannot_feed_are_refused() {
    let config = config_at("localhost", 1, "x");
    assert!(refusal(&config, &streams()[..1]).contains("names stream 'chargebacks'"));
    let mut appended = stream(0, "transactions", &[("id", "int64"), ("at", "timestamp")], Some(1));
    appended.append_only = true;
    assert!(refusal(&config, &[Arc::new(appended)]).contains("append_only"));
}

#[test]
fn a_server_that_logs_too_little_or_has_no_slot_left_is_told() {
    let server = PostgresServer::start(&["max_replication_slots = 1", "max_wal_senders = 3"]);
    server.database("small");
    server.sql("small", TABLES);
    let config = config_at("localhost", server.port, "small");
    check(&config, &["no replication slot left", "max_replication_slots"]);
    server.sql("small", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    server.sql("postgres", "SELECT pg_create_physical_replication_slot('taken')");
    check(&config, &["no replication slot left"]);
    server.sql("small", "SELECT pg_drop_replication_slot('taken'); ALTER SYSTEM SET wal_level = replica");
    server.control(&["restart", "-w", "-m", "fast"]);
    check(&config, &["wal_level is 'replica'", "wal_level = logical"]);
}

/// PostgreSQL takes no index for the identity whose uniqueness is looked at only in the end.
#[test]
fn a_key_that_is_deferrable_is_no_identity() {
    let world = World::new("deferred");
    world.sql("ALTER TABLE transactions DROP CONSTRAINT transactions_pkey, ADD PRIMARY KEY (id) DEFERRABLE; INSERT INTO transactions VALUES (1)");
    check(&world.config(), &["replica identity of public.transactions does not hold 'id'", "DEFERRABLE"]);
    world.sql("UPDATE transactions SET amount = 2; DELETE FROM transactions");
}

/// Every partition has an identity of its own, whatever that of the whole table is.
#[test]
fn a_partition_without_an_identity_is_told() {
    let world = World::with(
        "unidentified",
        "CREATE TABLE transactions (id bigint, at timestamptz, customer text, amount numeric, is_fraud bool, score float8) PARTITION BY LIST (customer);
         ALTER TABLE transactions REPLICA IDENTITY FULL;
         CREATE TABLE part_a PARTITION OF transactions FOR VALUES IN ('a') PARTITION BY RANGE (id); CREATE TABLE part_b PARTITION OF transactions FOR VALUES IN ('b');
         CREATE TABLE low PARTITION OF part_a FOR VALUES FROM (0) TO (100); ALTER TABLE low REPLICA IDENTITY FULL;
         CREATE TABLE chargebacks (id bigint PRIMARY KEY, is_fraud boolean);
         INSERT INTO transactions VALUES (1, now(), 'a', 1, null, null), (2, now(), 'b', 1, null, null)",
    );
    check(
        &world.config(),
        &["partition public.part_b of public.transactions", "ALTER TABLE public.part_b REPLICA IDENTITY FULL"],
    );
    world.sql("UPDATE transactions SET amount = 2");
    // What a partition with a key alone knows of a row before is not the whole row that the table promises.
    world.sql("ALTER TABLE part_b ADD PRIMARY KEY (id)");
    check(&world.config(), &["partition public.part_b of public.transactions"]);
    world.sql("ALTER TABLE part_b REPLICA IDENTITY FULL");
    let mut puller = world.puller();
    puller.rows(2);
    world.sql("UPDATE transactions SET amount = 3");
    puller.rows(4);
}
