//! A followed Debezium file.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::archived;
use crate::disk::SmallDisk;
use crate::place::{DEFINITIONS, Place, row_records, text};

const KILLS: usize = 15;

fn config(follow: bool, archive: &str) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\nfollow = {follow}\n[engine]\ncheckpoint = \"20ms\"\n{archive}"
    )
}

fn archive(dir: &str, rows: u32) -> String {
    format!("[archive]\ndir = \"{dir}\"\nfile_rows = {rows}\nfile_age = \"100ms\"\n")
}

/// Late, shuffled, duplicate, corrected and deleted rows, and labels two hours after their transaction.
fn simulated() -> String {
    let place = Place::new("");
    place.run(
        "simulate --seed 7 --customers 500 --terminals 60 --days 2 --label-delay 2h --label-spread 1h --format debezium \
         --disorder 0.1 --shuffle 0.05 --duplicates 0.1 --updates 0.1 --deletes 0.05 --tombstones --output whole.jsonl",
    );
    text(&place.path("whole.jsonl"))
}

/// What a file of changes says, line by line.
fn told(changes: &str) -> Vec<Change> {
    let change = |(at, line): (usize, &str)| {
        let envelope: Value = serde_json::from_str(line).ok()?;
        let payload = envelope.get("payload").unwrap_or(&envelope);
        let (op, row) = match payload["op"].as_str()? {
            "c" => ("insert", &payload["after"]),
            "u" => ("update", &payload["after"]),
            "d" => ("delete", &payload["before"]),
            "r" => ("snapshot", &payload["after"]),
            other => panic!("{other}"),
        };
        let amount =
            row["amount"].as_str().map(str::to_owned).or_else(|| row["amount"].as_f64().map(|it| format!("{it:.2}")));
        let cents = amount.filter(|_| op != "delete").map(|amount| amount.replace('.', "").parse().unwrap());
        Some((at as u64 + 1, op.to_owned(), row["transaction_id"].as_i64().unwrap(), cents))
    };
    changes.lines().enumerate().filter_map(change).collect()
}

/// What the archive below `dir` holds.
fn held(place: &Place, dir: &str) -> Vec<Change> {
    let rows = archived(&place.path(dir), "payments", "transactions").into_iter();
    rows.map(|row| (row.delivered, row.op, row.id.unwrap(), row.cents)).collect()
}

/// Position, operation, id, and the amount in minor units.
type Change = (u64, String, i64, Option<i128>);

fn assert_same(held: &[Change], expected: &[Change]) {
    let differs = held.iter().zip(expected).find(|(held, expected)| held != expected);
    assert_eq!((differs, held.len()), (None, expected.len()));
}

#[test]
fn kills_leave_every_change_of_a_file_in_the_archive_once_and_in_order() {
    let changes = simulated();
    let expected = told(&changes);
    assert!(expected.len() > 2_000, "{} changes", expected.len());
    let place = Place::new(&config(true, &archive("changes", 150)));
    let mut chance = ChaCha8Rng::seed_from_u64(70);
    let (mut fed, pieces) = (0, KILLS * 3);
    let mut seen = 0;
    for kill in 0..KILLS {
        let mut process = place.start("run");
        for piece in 1..=3 {
            let end = changes.len() * (kill * 3 + piece) / pieces;
            place.append("live.jsonl", &changes.as_bytes()[fed..end]);
            fed = end;
            process.work(Duration::from_micros(chance.random_range(0..250_000)));
        }
        // However slow the machine is, the last one gets somewhere.
        (0..1_000).filter(|_| kill + 1 == KILLS).for_each(|_| {
            if held(&place, "changes").len() <= 500 {
                process.work(Duration::from_millis(20));
            }
        });
        process.kill();
        let so_far = held(&place, "changes");
        assert_same(&so_far, &expected[..so_far.len()]);
        seen = so_far.len().max(seen);
    }
    assert!(seen > 500, "files appear while it runs: {seen} changes");
    place.write("interdict.toml", config(false, &archive("changes", 150)));
    place.run("run --until-end");
    assert_same(&held(&place, "changes"), &expected);
    let log = place.run("run --until-end");
    assert!(log.contains("events=0"), "{log}");
    assert_same(&held(&place, "changes"), &expected);

    // What is archived is a source as it stands, and what comes of it is the same to the last bit.
    let calm = Place::new(&config(false, ""));
    calm.write("live.jsonl", &changes);
    calm.run("run --until-end");
    let again = Place::new(&config(false, "").replace("\"debezium\"", "\"parquet\"").replace("live.jsonl", "stream"));
    std::os::unix::fs::symlink(place.path("changes/source=payments/stream=transactions"), again.path("stream"))
        .unwrap();
    again.run("run --until-end");
    let (first, second, disturbed) = (calm.store(), again.store(), place.store());
    for store in [&second, &disturbed] {
        assert_eq!(row_records(&first), row_records(store), "row records");
        assert_eq!(first.states_now().unwrap(), store.states_now().unwrap(), "states");
    }
}

#[test]
fn an_archive_that_begins_later_holds_what_came_later() {
    let changes = simulated();
    let expected = told(&changes);
    let line = |n: usize| changes.match_indices('\n').nth(n - 1).unwrap().0 + 1;
    let (quarter, middle) = (line(500), line(1_000));
    let place = Place::new(&config(false, ""));
    place.write("live.jsonl", &changes[..middle]);
    place.run("run --until-end");
    place.write("interdict.toml", config(false, &archive("changes", 100_000)));
    place.append("live.jsonl", &changes[middle..]);
    place.run("run --until-end");
    let expected: Vec<_> = expected.into_iter().filter(|(line, ..)| *line > 1_000).collect();
    assert_same(&held(&place, "changes"), &expected);

    // A while without archive is read again for it.
    let place = Place::new(&config(false, &archive("changes", 100_000)));
    place.write("live.jsonl", &changes[..quarter]);
    place.run("run --until-end");
    place.write("interdict.toml", config(false, ""));
    place.write("live.jsonl", &changes[..middle]);
    place.run("run --until-end");
    place.write("interdict.toml", config(false, &archive("changes", 100_000)));
    let log = place.run("run --until-end");
    assert!(log.contains("what is stored is read again for the archive") && log.contains("events=0"), "{log}");
    assert_same(&held(&place, "changes"), &told(&changes[..middle]));
}

#[test]
fn a_full_disk_makes_intake_wait_and_loses_nothing() {
    let changes = simulated();
    let place = Place::new(&config(true, &archive("small/changes", 500)));
    place.write("live.jsonl", &changes);
    let disk = SmallDisk::mount(place.path("small"));
    let mut process = place.start("run");
    process.wait_for("running");
    process.stop();
    let before = held(&place, "small/changes").len();
    place.append("live.jsonl", &changes);
    let mut filler = std::process::Command::new("dd");
    filler.arg("if=/dev/zero").arg(format!("of={}", place.path("small/filler").display())).arg("bs=4k");
    assert!(!filler.output().unwrap().status.success(), "the disk is full");
    let mut process = place.start("run");
    process.wait_for("the archive takes nothing; intake waits");
    std::fs::remove_file(place.path("small/filler")).unwrap();
    place.append("live.jsonl", changes.lines().next().unwrap().to_owned() + "\n");
    let whole = told(&text(&place.path("live.jsonl")));
    for _ in 0..600 {
        if held(&place, "small/changes").len() == whole.len() {
            break;
        }
        process.work(Duration::from_millis(50));
    }
    process.stop();
    let rows = held(&place, "small/changes");
    drop(disk);
    assert!(before < whole.len());
    assert_same(&rows, &whole);
}

#[test]
fn a_folder_that_cannot_be_written_or_is_anothers_is_refused() {
    let place = Place::new(&config(false, &archive("taken/changes", 500)));
    place.write("live.jsonl", simulated().split_inclusive('\n').take(50).collect::<String>());
    place.write("taken", "a file");
    let said = place.fail("run --until-end");
    assert!(said.contains("[archive] dir") && said.contains("cannot be written to"), "{said}");
    std::fs::remove_file(place.path("taken")).unwrap();
    place.run("run --until-end");

    let other = config(false, &archive("taken/changes", 500)).replace("\"data\"", "\"data2\"");
    place.write(
        "interdict.toml",
        format!("namespace = \"other\"\n{}", other.replace("\"decisions\"", "\"decisions2\"")),
    );
    let said = place.fail("run --until-end");
    assert!(said.contains("in namespace 'default', and this is source 'payments'"), "{said}");
}
