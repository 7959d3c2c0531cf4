//! Topics of a real Fluvio among roles: leases share the partitions out, sinks produce to it, and whoever dies or stands still nothing is
//! lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interdict_ingest::dead_letter::DeadLetter;
use serde_json::Value;

use super::Fleet;
use super::topics::{Broker, End, INGESTORS, SCORERS, end, feed, is_as_one_ingestor_leaves_it, produce};
use crate::fluvio::Cluster;
use crate::parity::partitions::{Placed, placed};

impl Broker for Cluster {
    fn create(&self, topic: &str, partitions: u32) {
        Self::create(self, topic, partitions);
    }

    fn keys(&self, topic: &str, _end: End) -> String {
        Self::keys(self, topic)
    }

    fn send(&self, topic: &str, partition: u32, key: &str, value: Option<&str>) {
        Self::send(self, topic, partition, key, value);
    }

    fn flush(&self) {
        Self::flush(self);
    }
}

/// Changes of so many payments.
fn changes(fleet: &Fleet, payments: u32, seed: u64) -> Vec<Placed> {
    let options = format!("--transactions {payments} --customers 60 --terminals 120");
    placed(&crate::parity::payments(&fleet.place.path("."), &options), seed)
}

#[test]
fn partitions_of_fluvio_move_to_whoever_is_there() {
    let fluvio = Cluster::named();
    let mut fleet = Fleet::fed("two", Some(feed(&fluvio)));
    let changes = changes(&fleet, 2_400, 73);
    let [one, other] = INGESTORS;
    let mut pieces = changes.chunks(changes.len() / 7 + 1);
    let mut done = 0;
    let mut next = |done: &mut usize| {
        let piece = pieces.next().unwrap();
        *done += piece.len();
        produce(&fluvio, piece);
    };

    // All begin at once on topics that nobody has read yet.
    next(&mut done);
    fleet.begin_all();
    fleet.reads(one, 2);
    fleet.reads(other, 2);

    // One dies in the midst of work: the other one goes on with its partitions.
    next(&mut done);
    fleet.kill(one);
    fleet.kill(SCORERS[0]);
    next(&mut done);
    fleet.reads(other, 4);
    fleet.await_decisions("two", &changes[..done]);

    // It comes back and takes its share. The other one stands still for longer than its leases, and ends when it goes on.
    fleet.begin_all();
    fleet.reads(one, 2);
    fleet.reads(other, 2);
    next(&mut done);
    let paused = fleet.processes[other].take().expect("it runs");
    paused.signal("STOP");
    next(&mut done);
    fleet.reads(one, 4);
    fleet.await_decisions("two", &changes[..done]);
    paused.signal("CONT");
    next(&mut done);
    let (status, log) = paused.end();
    assert!(!status.success() && log.contains("another process has taken partition"), "{log}");

    // Another one takes its place, and goes again in good order.
    fleet.begin(other);
    fleet.reads(other, 2);
    fleet.reads(one, 2);
    next(&mut done);
    assert_eq!(done, changes.len());
    let leaving = fleet.processes[other].take().expect("it runs");
    leaving.stop();
    fleet.await_decisions("two", &changes);
    is_as_one_ingestor_leaves_it(&mut fleet, &changes);
}

#[test]
fn decisions_and_dead_letters_come_to_fluvio_whoever_dies() {
    let fluvio = Cluster::named();
    let mut fleet = Fleet::fed("sinks", Some(feed(&fluvio)));
    let changes = changes(&fleet, 1_200, 74);
    fleet.begin_all();
    let dying = [SCORERS[0], SCORERS[1], INGESTORS[1], SCORERS[0], INGESTORS[0], SCORERS[1]];
    for ((piece, place), partition) in changes.chunks(changes.len() / 6 + 1).zip(dying).zip((0..4).cycle()) {
        produce(&fluvio, piece);
        fluvio.send("payments", partition, "broken", Some("no json"));
        fluvio.flush();
        fleet.kill(place);
        fleet.wait(Duration::from_millis(150));
        fleet.begin_all();
    }
    let all = changes.iter().filter(|change| change.is_judged()).count() + dying.len();
    fleet.wait_until(&format!("{all} decisions"), |fleet| fleet.decisions("sinks") >= all);
    fleet.settle("sinks");
    end(&mut fleet, "sinks");
    let mut logged: BTreeMap<String, (u64, Value)> = BTreeMap::new();
    for entry in interdict_monitor::log::read(&fleet.place.path("sinks")).unwrap() {
        let entry = entry.unwrap();
        let record = serde_json::to_value(&entry.record).unwrap();
        logged.insert(entry.record.decision_id.to_string(), (entry.position, record));
    }
    assert_eq!(logged.len(), all);

    // At least once, and in the order of the log: what comes again does so before what is new goes on.
    let id = |record: &Value| record["decision_id"].as_str().unwrap().to_owned();
    let records = fluvio.read("decisions", |read| {
        let ids: BTreeSet<String> = read.iter().rev().map(|(_, record)| id(record)).collect();
        ids.len() == all
    });
    let mut next = 0;
    for (key, record) in &records {
        let (position, decision) = &logged[&id(record)];
        assert_eq!((record, key.as_str()), (decision, record["event_id"].as_str().unwrap()));
        assert!(*position <= next, "{position} comes before {next}");
        next = next.max(position + 1);
    }
    assert_eq!(usize::try_from(next).unwrap(), all);
    eprintln!("{} records of {all} decisions", records.len());

    let places = |read: &[(String, Value)]| {
        let place = |(key, letter): &(String, Value)| {
            let letter: DeadLetter = serde_json::from_value(letter.clone()).unwrap();
            assert_eq!(*key, format!("payments/{}/{}", letter.partition, letter.position));
            assert_eq!(letter.reason.code(), "bad_json");
            (letter.partition, letter.position)
        };
        read.iter().map(place).collect::<BTreeSet<_>>()
    };
    fluvio.read("dead", |read| places(read).len() == dying.len());
    assert_eq!(fleet.redis.say(&["XLEN", "{sinks}:log:dead-letters"]), "0", "what is produced is forgotten");
}
