//! A captured PostgreSQL, held against what its own `test_decoding` tells of the same log.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Archived, archived, position};
use crate::bank::{Bank, CHARGEBACKS};
use crate::place::{DEFINITIONS, Place};

const KILLS: u64 = 15;

/// A change as the server tells it: operation, id, amount in minor units.
type Told = (String, i64, Option<i128>);

fn config(bank: &Bank) -> String {
    format!(
        "{DEFINITIONS}{CHARGEBACKS}{}[engine]\ncheckpoint = \"20ms\"\n[archive]\ndir = \"changes\"\nfile_rows = 400\nfile_age = \"100ms\"\n",
        bank.source("interdict")
    )
}

/// Has the server remember every change from now on.
pub(crate) fn remember(bank: &Bank) {
    bank.ask("SELECT pg_create_logical_replication_slot('oracle', 'test_decoding')");
}

/// The changes of a table that the server remembers, in order of commit. A corrected id is a delete and an insert.
pub(crate) fn remembered(bank: &Bank, table: &str) -> Vec<Told> {
    let asked = "SELECT data FROM pg_logical_slot_peek_changes('oracle', NULL, NULL, 'include-xids', '0')";
    let head = format!("table public.{table}: ");
    let changes = |line: &str| {
        let Some((op, cells)) = line.strip_prefix(&head).and_then(|change| change.split_once(": ")) else {
            return Vec::new();
        };
        match cells.strip_prefix("old-key: ").and_then(|cells| cells.split_once(" new-tuple: ")) {
            Some((old, new)) => match (told("delete", old), told("insert", new)) {
                // With the replica identity FULL every update tells the row before.
                (old, new) if old.1 == new.1 => vec![("update".to_owned(), new.1, new.2)],
                (old, new) => vec![old, new],
            },
            None => vec![told(&op.to_lowercase(), cells)],
        }
    };
    bank.ask(asked).lines().flat_map(changes).collect()
}

fn told(op: &str, cells: &str) -> Told {
    let cell = |name: &str| {
        let (_, rest) = cells.split_once(&format!("{name}["))?;
        rest.split_once("]:")?.1.split(' ').next().map(str::to_owned)
    };
    let cents = cell("amount").filter(|_| op != "delete").map(|amount| {
        let (whole, part) = amount.split_once('.').unwrap_or((&amount, ""));
        format!("{whole}{part:0<2}").parse().unwrap()
    });
    (op.to_owned(), cell("transaction_id").unwrap().parse().unwrap(), cents)
}

/// The archive of a table holds one whole snapshot and every change after it, once and in order.
pub(crate) fn check(rows: Vec<Archived>, remembered: &[Told]) {
    let (snapshot, changes): (Vec<Archived>, Vec<Archived>) = rows.into_iter().partition(|row| row.op == "snapshot");
    assert!(snapshot.iter().all(|row| row.major == snapshot[0].major), "the rows of one snapshot");
    assert!(changes.is_sorted_by_key(|change| (change.major, change.minor)), "in order");
    let told: Vec<Told> = changes.into_iter().map(|row| (row.op, row.id.unwrap(), row.cents)).collect();
    let before = remembered.len().checked_sub(told.len()).expect("no more changes than there were");
    for (at, (found, expected)) in told.iter().zip(&remembered[before..]).enumerate() {
        assert_eq!(found, expected, "change {at}");
    }
    let mut there = BTreeMap::new();
    for (op, id, cents) in &remembered[..before] {
        if op == "delete" {
            there.remove(id)
        } else {
            there.insert(*id, *cents)
        };
    }
    let read: BTreeMap<i64, Option<i128>> = snapshot.iter().map(|row| (row.id.unwrap(), row.cents)).collect();
    assert_eq!(read.len(), snapshot.len(), "each row once");
    assert_eq!(read, there, "the snapshot is what the changes before it come to");
}

/// Writes transactions of inserts, updates, deletes and reports; returns the next id.
fn write(bank: &Bank, chance: &mut ChaCha8Rng, mut id: i64, transactions: usize) -> i64 {
    let mut script = String::new();
    for _ in 0..transactions {
        script.push_str("BEGIN;\n");
        let rows = if chance.random_bool(0.02) { chance.random_range(300..900) } else { chance.random_range(1..6) };
        for _ in 0..rows {
            let earlier = chance.random_range(id.saturating_sub(200)..id);
            let cents = chance.random_range(1..100_000);
            let amount = format!("{}.{:02}", cents / 100, cents % 100);
            script.push_str(&match chance.random_range(0..10) {
                0..2 => format!("UPDATE transactions SET amount = {amount} WHERE transaction_id = {earlier};\n"),
                2 => format!("DELETE FROM transactions WHERE transaction_id = {earlier};\n"),
                3 => format!(
                    "INSERT INTO chargebacks VALUES ({earlier}, true, '2025-06-16 00:00Z') ON CONFLICT (transaction_id) DO UPDATE SET is_fraud = NOT chargebacks.is_fraud;\n"
                ),
                _ => {
                    id += 1;
                    format!(
                        "INSERT INTO transactions VALUES ({id}, timestamptz '2025-06-15 00:00Z' + interval '1 second' * {id}, {}, {}, {amount});\n",
                        id % 300,
                        5_000 + id % 50
                    )
                }
            });
        }
        script.push_str("COMMIT;\n");
    }
    bank.ask(&script);
    id
}

#[test]
fn kills_leave_every_change_of_a_database_in_the_archive_once_and_in_order() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank));
    remember(&bank);
    let mut chance = ChaCha8Rng::seed_from_u64(71);
    let mut id = write(&bank, &mut chance, 1_000, 600);
    // The snapshot takes its time.
    bank.ask("INSERT INTO transactions SELECT n, timestamptz '2025-06-01 00:00Z' + interval '1 second' * n, 1000 + n % 1000, 6000 + n % 100, n FROM generate_series(100001, 130000) n");
    let dir = place.path("changes");
    for kill in 0..KILLS {
        let mut process = place.start("run");
        // A slow machine may have come to the snapshot's end between two kills.
        if kill < 4 && position(&dir, "bank") == 0 {
            process.wait_for("taking a snapshot");
        }
        for _ in 0..3 {
            id = write(&bank, &mut chance, id, 25);
            let longest = if kill < 4 { 40_000 } else { 250_000 };
            process.work(Duration::from_micros(chance.random_range(0..longest)));
        }
        if kill == 3 {
            (0..1_000).for_each(|_| {
                if position(&dir, "bank") == 0 {
                    process.work(Duration::from_millis(20));
                }
            });
        }
        if kill > 4 && kill % 4 == 1 {
            // A transaction that is delivered in parts.
            let first = 200_000 + kill * 10_000;
            bank.ask(&format!("INSERT INTO transactions SELECT n, '2025-06-16 12:00Z', n % 300, n % 50, 1 FROM generate_series({first}, {first} + 5999) n"));
            process.work(Duration::from_micros(chance.random_range(0..400_000)));
        }
        process.kill();
        if bank.ask("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'interdict'") == "1" {
            let (confirmed, archived) = (bank.confirmed(), position(&dir, "bank"));
            assert!(archived == 0 || confirmed <= archived, "confirmed {confirmed}, archived {archived}");
        }
        if kill == 8 {
            bank.crash();
            bank.start();
        }
    }
    let mut process = place.start("run");
    process.wait_for("running");
    write(&bank, &mut chance, id, 25);
    bank.ask("INSERT INTO transactions VALUES (500000, '2025-06-17 00:00Z', 7, 7, 1)");
    let rows = || archived(&dir, "bank", "transactions");
    for _ in 0..600 {
        if rows().iter().any(|row| row.id == Some(500_000)) {
            break;
        }
        process.work(Duration::from_millis(50));
    }
    process.stop();
    let payments = remembered(&bank, "transactions");
    assert!(payments.len() > 35_000, "{} changes", payments.len());
    check(rows(), &payments);
    check(archived(&dir, "bank", "chargebacks"), &remembered(&bank, "chargebacks"));
    assert!(rows().iter().filter(|row| row.op != "snapshot").count() > 1_000, "most of it came as changes");
}
