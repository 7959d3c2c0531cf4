//! Figures, asked for by name: `cargo test --release -p interdict-ingest --features postgres --test postgres measure -- --ignored --nocapture`.

use std::time::Instant;

use crate::rig::{Puller, World, streams};

#[test]
#[ignore = "a measurement, not a test"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn catch_up_over_one_large_transaction() {
    let world = World::new("large");
    let mut puller = world.puller();
    puller.batch = 4_096;
    puller.until("the snapshot", |puller| puller.position > 0);
    let before = puller.position;
    world.sql("INSERT INTO transactions SELECT n, now(), 'customer ' || n % 5000, n % 1000 + 0.25, null, 0.5 FROM generate_series(1, 300000) n");
    let position = puller.position;
    drop(puller);
    assert_eq!(before, position);
    let mut puller = Puller::resume(&world.config(), &streams(), position).unwrap();
    let (began, mut rows) = (Instant::now(), 0);
    while rows < 300_000 {
        rows += puller.source.next(4_096).unwrap().unwrap().records;
    }
    println!("catch-up: {:.0} rows/s", rows as f64 / began.elapsed().as_secs_f64());
}

#[test]
#[ignore = "a measurement, not a test"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn snapshot_of_a_table() {
    let world = World::new("pictured");
    world.sql("INSERT INTO transactions SELECT n, now(), 'customer ' || n % 5000, n % 1000 + 0.25, null, 0.5 FROM generate_series(1, 300000) n");
    let mut puller = world.puller();
    let (began, mut rows) = (Instant::now(), 0);
    while rows < 300_000 {
        rows += puller.source.next(4_096).unwrap().unwrap().records;
    }
    println!("snapshot: {:.0} rows/s", rows as f64 / began.elapsed().as_secs_f64());
}

#[test]
#[ignore = "a measurement, not a test"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn commit_to_delivery() {
    const RATE: u64 = 2_000;
    const SECONDS: u64 = 10;
    let world = World::new("latency");
    let mut puller = world.puller();
    puller.until("the snapshot", |puller| puller.position > 0);
    // Open loop: pgbench keeps the rate whatever the capture does.
    let script = world.server.folder().join("latency.sql");
    std::fs::write(&script, "INSERT INTO transactions VALUES (nextval('ids'), clock_timestamp(), 'c', 1, null, null);")
        .unwrap();
    world.sql("CREATE SEQUENCE ids CACHE 1000");
    let mut load = std::process::Command::new("/usr/lib/postgresql/15/bin/pgbench")
        .args([
            "-n",
            "-h",
            "localhost",
            "-U",
            "postgres",
            "-c",
            "8",
            "-j",
            "1",
            "-M",
            "prepared",
            "-f",
            script.to_str().unwrap(),
        ])
        .args(["-p", &world.server.port.to_string(), "-R", &RATE.to_string(), "-T", &SECONDS.to_string(), "latency"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut delays = Vec::new();
    while load.try_wait().unwrap().is_none() {
        let delivery = puller.source.next(4_096).unwrap().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let now = i64::try_from(now).unwrap();
        for batch in &delivery.batches {
            delays.extend(batch.iter().map(|(change, _)| now - change.arrival.unwrap().micros()));
        }
    }
    delays.sort_unstable();
    let at = |permille: usize| delays[delays.len() * permille / 1_000];
    let (count, median, high, highest) = (delays.len(), at(500), at(990), at(999));
    println!("{count} transactions in {SECONDS} s: p50 {median} us, p99 {high} us, p99.9 {highest} us");
}
