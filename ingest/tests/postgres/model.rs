//! Random work from several connections, a capture that is killed and resumed at random: applying what it delivered
//! gives the table, and every committed version of every row was seen.

use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::rig::{Puller, World, newest, streams};

/// Ids that the random work moves rows among: few, so that it meets the same row often.
const IDS: u32 = 25;

/// One statement; every written row carries a serial number in `score`, so that versions can be told apart.
fn statement(random: &mut ChaCha8Rng, serial: &mut u32) -> String {
    let (id, other) = (random.random_range(0..IDS), random.random_range(0..IDS));
    *serial += 1;
    let score = *serial;
    match random.random_range(0..10) {
        0..=3 => format!(
            "INSERT INTO transactions VALUES ({id}, '2026-01-01Z', 'c{id}', {score}.5, null, {score}) ON CONFLICT (id) DO UPDATE SET score = {score};"
        ),
        4..=5 => format!("UPDATE transactions SET amount = amount + 1, score = {score} WHERE id = {id};"),
        6 => format!("DELETE FROM transactions WHERE id = {id};"),
        7 => format!(
            "UPDATE transactions SET id = {other}, score = {score} WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM transactions WHERE id = {other});"
        ),
        8 => format!(
            "SAVEPOINT s; UPDATE transactions SET score = -1 WHERE id >= {id}; INSERT INTO transactions VALUES (-1, '2026-01-01Z', 'never', 0, null, -1); ROLLBACK TO s;"
        ),
        _ => format!(
            "UPDATE transactions SET is_fraud = NOT coalesce(is_fraud, false), score = {score} WHERE id < {other};"
        ),
    }
}

/// A script of transactions, some of which are rolled back.
fn script(seed: u64, transactions: usize) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Serial numbers of different connections do not meet.
    let mut serial = u32::try_from(seed % 1_000).unwrap() * 100_000;
    let mut script = String::new();
    for _ in 0..transactions {
        script.push_str("BEGIN;");
        // One lock order for everyone: no deadlocks.
        script.push_str("LOCK TABLE transactions IN SHARE ROW EXCLUSIVE MODE;");
        for _ in 0..random.random_range(1..6) {
            script.push_str(&statement(&mut random, &mut serial));
        }
        script.push_str(if random.random_bool(0.2) { "ROLLBACK;\n" } else { "COMMIT;\n" });
    }
    script
}

fn run(seed: u64, identity: &str) {
    let world = World::new(&format!("model_{seed}"));
    // The database itself notes every version that commits.
    world.sql(&format!(
        "ALTER TABLE transactions REPLICA IDENTITY {identity};
         CREATE TABLE versions (id bigint, score float8);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO versions VALUES (NEW.id, NEW.score); RETURN NULL; END';
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION note();"
    ));
    world.sql(&script(seed * 10, 20));
    // What the snapshot holds stands for the versions before it.
    world.sql("TRUNCATE versions");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> =
            (1..4).map(|writer| scope.spawn(move || world.sql(&script(seed * 10 + writer, 60)))).collect();
        let mut stored = puller.position;
        while !writers.iter().all(|writer| writer.is_finished()) {
            puller.batch = random.random_range(1..20);
            puller.pull().unwrap();
            match random.random_range(0..30) {
                0 => {
                    all.append(&mut puller.seen);
                    drop(std::mem::replace(&mut puller, reopened(world, stored)));
                }
                1 => drop(world.sql(&format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}' AND active", world.name))),
                2..12 => {
                    stored = puller.position;
                    puller.source.handle().confirm(stored);
                }
                _ => {}
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
    puller.drain(world.server);
    assert!(puller.dead.is_empty(), "{:?}", puller.dead);
    all.append(&mut puller.seen);

    let rows: Vec<String> = newest(&all).values().map(|row| row.join("|")).collect();
    let table = world.sql(
        "SELECT id, (extract(epoch FROM at) * 1000000)::bigint, customer, (amount * 100)::bigint, coalesce(is_fraud::int::text, '-'), score FROM transactions ORDER BY id::text COLLATE \"C\"",
    );
    assert_eq!(rows, table);
    let seen: BTreeSet<String> = all.iter().map(|seen| format!("{}|{}", seen.cells[0], seen.cells[5])).collect();
    for version in world.sql("SELECT DISTINCT id, score FROM versions") {
        assert!(seen.contains(&version), "version {version} was not seen");
    }
    assert!(!seen.iter().any(|version| version.ends_with("|-1")), "what was rolled back was seen");
}

/// A process that was killed and starts again from what was stored. Its predecessor must be gone first: it may hold the slot.
fn reopened(world: &World, stored: u64) -> Puller {
    world.sql(&format!(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
        world.name
    ));
    Puller::resume(&world.config(), &streams(), stored).unwrap()
}

#[test]
fn random_work_ends_as_the_table_does() {
    for seed in 1..4 {
        run(seed, "DEFAULT");
    }
}

#[test]
fn random_work_on_whole_rows_ends_as_the_table_does() {
    for seed in 4..6 {
        run(seed, "FULL");
    }
}
