//! Monitors on machines of their own: each has a folder that the others do not see.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::lost_tail::pay;
use super::modes::request;
use super::{Fleet, free_port};
use crate::captured::metric;
use crate::place::{Caller, Process};

const INGESTOR: usize = 0;
const SCORER: usize = 2;

/// An ingestor and a scorer at work, with configurations for monitors with folders of their own, and a sink whose broker is away.
fn open(namespace: &str) -> Fleet {
    let mut fleet = Fleet::open(namespace);
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let sink = "[[sink]]\nname = \"away\"\nwhat = \"decisions\"\ntype = \"kafka\"\ntopic = \"away\"\n";
    let config = format!("{config}{sink}brokers = \"127.0.0.1:{}\"\n", free_port());
    fleet.place.write("interdict.toml", &config);
    let folder = format!("log_dir = \"{namespace}\"");
    fleet.place.write("other.toml", config.replacen(&folder, "log_dir = \"other\"", 1));
    fleet.begin(INGESTOR);
    fleet.stored_snapshot(namespace);
    fleet.begin(SCORER);
    fleet.process(SCORER).wait_for("serving");
    fleet
}

/// The decisions in a folder.
fn ids(fleet: &Fleet, folder: &str) -> BTreeSet<Uuid> {
    fleet.logged(folder).into_keys().collect()
}

/// Waits until a monitor has so many decisions that it has not written.
fn taken(caller: &Caller, count: f64) {
    caller.until(|caller| (metric(caller, "interdict_monitor_log_unflushed_rows", "") >= count).then_some(()));
}

/// Starts a monitor with the configuration `name`, which works once another one that died is known to be dead.
fn begin(fleet: &Fleet, name: &str) -> (Process, Caller) {
    let mut process = fleet.place.start(&format!("run --config {name} --role monitor --bind 127.0.0.1:0"));
    let caller = Caller::new(&process.address());
    process.wait_for("monitoring");
    (process, caller)
}

/// Ends a monitor as an operator does.
fn end(process: Process) {
    process.stop();
}

#[test]
fn a_monitor_with_another_folder_goes_on_behind_what_is_written_however_long_a_sink_keeps_the_log() {
    let mut fleet = open("moved");
    let (first, caller) = begin(&fleet, "interdict.toml");
    pay(&fleet, 1..=320);
    caller.until(|caller| (metric(caller, "interdict_monitor_log_rows_total", "") >= 300.0).then_some(()));
    first.kill();
    let (second, _) = begin(&fleet, "other.toml");
    pay(&fleet, 1_001..=1_100);
    fleet.wait_until("the decisions", |fleet| fleet.decisions("moved") == 420);
    end(second);
    // What it may have written and not told of is in doubt until it is opened again.
    let (first, caller) = begin(&fleet, "interdict.toml");
    pay(&fleet, 2_001..=2_010);
    fleet.wait_until("the decisions", |fleet| fleet.decisions("moved") == 430);
    taken(&caller, 10.0);
    end(first);

    assert_eq!(fleet.redis.say(&["XLEN", "{moved}:log:decisions"]), "430", "the sink needs them");
    let (own, other) = (ids(&fleet, "moved"), ids(&fleet, "other"));
    assert!(own.is_disjoint(&other), "{} stand in both", own.intersection(&other).count());
    assert_eq!(own.len() + other.len(), 430);
}

#[test]
fn a_monitor_that_stands_by_answers_and_what_else_its_process_plays_works() {
    let fleet = open("by");
    let (first, caller) = begin(&fleet, "interdict.toml");
    let mut second = fleet.place.start("run --config other.toml --role monitor --bind 127.0.0.1:0");
    let beside = Caller::new(&second.address());
    second.wait_for("standing by");
    let (status, answer) = beside.get("/health/ready");
    assert!(status == 503 && answer.to_string().contains("standing_by"), "{answer}");
    assert_eq!(beside.get("/health/live").0, 200);
    assert!(metric(&beside, "interdict_monitor_log_rows_total", "") < 0.5);
    let mut third = fleet.place.start("run --config other.toml --role scorer,monitor --bind 127.0.0.1:0");
    let scorer = Caller::new(&third.address());
    third.wait_for("standing by");
    assert_eq!(scorer.get("/health/ready").0, 200);
    assert_eq!(scorer.post("/v1/decisions", &request(7)).0, 200);
    taken(&caller, 1.0);
    end(third);
    end(first);
    second.wait_for("monitoring");
    beside.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    end(second);
}

#[test]
fn a_monitor_that_was_taken_for_dead_writes_nothing_when_it_comes_back() {
    let fleet = open("paused");
    let (first, caller) = begin(&fleet, "interdict.toml");
    pay(&fleet, 1..=20);
    taken(&caller, 20.0);
    first.signal("STOP");
    let (second, caller) = begin(&fleet, "other.toml");
    taken(&caller, 20.0);
    first.signal("CONT");
    let (status, log) = first.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another process is the monitor now"), "{log}");
    end(second);
    assert_eq!((ids(&fleet, "paused").len(), ids(&fleet, "other").len()), (0, 20));
}
