//! A database republished to a topic of four partitions, which two ingestors share: republishers and ingestors die, and it is as if the
//! database had been read directly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Fleet;
use crate::archive::archived;
use crate::archive::captured::{check as check_archive, remember, remembered};
use crate::bank::Bank;
use crate::kafka::Kafka;
use crate::parity::captured::{check_reads, script, seen};
use crate::parity::history::{What, commits};
use crate::parity::partitions::{Placed, compare, republished};
use crate::place::{Caller, Process};

const PARTITIONS: i32 = 4;
/// The payment that a test ends with.
const LAST: i64 = 90_000;

/// The bank's tables through a topic; sessions are short, since groups of the mock cluster wait for nearly one at every change.
fn feed(bank: &Bank, kafka: &Kafka, slot: &str, archive: &str) -> String {
    let source = bank.source(slot).replace("\"bank\"", "\"payments\"");
    format!(
        "{source}[source.republish]\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"bank\"\nsession = \"3s\"\n{archive}",
        kafka.brokers()
    )
}

fn open(namespace: &str, archive: &str) -> (Kafka, Fleet) {
    let kafka = Kafka::start();
    kafka.create("bank", i64::from(PARTITIONS));
    let mut fleet = Fleet::fed(namespace, None);
    fleet.feed = Some(feed(&fleet.bank, &kafka, namespace, archive));
    fleet.configure(namespace);
    (kafka, fleet)
}

/// Republishers: one of them reads the slot, the others stand by.
struct Republishers(Vec<Process>);

impl Fleet {
    fn republisher(&self) -> Process {
        self.place.start("run --role republish --bind 127.0.0.1:0")
    }

    /// One that has read and handed on its first snapshot, and another one that waits for its slot.
    fn republishers(&mut self, namespace: &str) -> Republishers {
        let mut owner = self.republisher();
        owner.wait_for("the snapshot is read");
        let offsets = format!("{{{namespace}}}:offsets");
        self.wait_until("the end of the snapshot", |fleet| {
            !["", "0"].contains(&fleet.redis.say(&["HGET", &offsets, "0:republish/payments"]).as_str())
        });
        let mut standby = self.republisher();
        standby.wait_for("standing by");
        Republishers(vec![owner, standby])
    }

    /// Waits for so many decisions.
    fn await_count(&mut self, namespace: &str, count: usize) {
        self.wait_until(&format!("{count} decisions"), |fleet| fleet.decisions(namespace) >= count);
    }
}

impl Republishers {
    /// Starts those again that have ended by themselves, as an init system would.
    fn revive(&mut self, fleet: &Fleet) {
        for process in &mut self.0 {
            if !process.works(Duration::from_millis(1)) {
                *process = fleet.republisher();
            }
        }
    }

    /// Which one reads the slot, once one does.
    fn owner(&mut self, fleet: &Fleet) -> usize {
        for _ in 0..1_200 {
            self.revive(fleet);
            let reads = |process: &mut Process| {
                let told = Caller::new(&process.address()).try_send("GET", "/metrics", &[], "");
                told.is_some_and(|(_, text)| text.contains("postgres_slot_owner{source=\"payments\"} 1"))
            };
            if let Some(owner) = self.0.iter_mut().position(reads) {
                return owner;
            }
            fleet.wait(Duration::from_millis(50));
        }
        panic!("nobody reads the slot: {:?}", self.0.iter().map(Process::said).collect::<Vec<_>>());
    }

    /// Kills the one that reads: the other goes on, and another one stands by.
    fn fail_over(&mut self, fleet: &Fleet) {
        let owner = self.owner(fleet);
        self.0.remove(owner).kill();
        self.owner(fleet);
        self.0.push(fleet.republisher());
    }

    fn end(mut self, fleet: &Fleet) {
        self.revive(fleet);
        self.0.iter().for_each(Process::terminate);
        for process in self.0 {
            let (status, log) = process.end();
            // Whoever has not come to say anything yet knows of no signal.
            assert!(status.success() || log.is_empty(), "{log}");
        }
    }
}

/// Each insert after the snapshot has a decision of its own; everything decided is what the twin counts.
fn check_decisions(changes: &[Placed], logged: &[DecisionRecord]) {
    let inserts: BTreeSet<(i64, u64)> = changes.iter().filter_map(Placed::inserted).collect();
    assert_eq!(logged.len(), inserts.len(), "one decision for every insert");
    let ids = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids
    };
    let decided = logged.iter().map(|record| record.event_id.parse().unwrap());
    assert_eq!(ids(decided.collect()), ids(inserts.iter().map(|(id, _)| *id).collect()));
    assert_eq!(compare(changes, logged), logged.len());
}

#[test]
fn whoever_dies_every_payment_has_one_decision_by_what_stood_before_it() {
    let archive = "[archive]\ndir = \"repub-changes\"\nfile_rows = 300\nfile_age = \"100ms\"\n";
    let (kafka, mut fleet) = open("repub", archive);
    fleet.bank.ask("ALTER TABLE transactions REPLICA IDENTITY FULL");
    remember(&fleet.bank);
    let options = "--transactions 2400 --customers 60 --terminals 120";
    let payments = crate::parity::payments(&fleet.place.path("."), options);
    let mut chance = ChaCha8Rng::seed_from_u64(81);
    let changes: Vec<What> = commits(&payments, 82).into_iter().map(|(_, what)| what).collect();
    let (before, after) = changes.split_at(changes.len() / 3);
    fleet.bank.ask(&script(before, &mut chance));
    let mut republishers = fleet.republishers("repub");
    fleet.begin_all();
    for (at, piece) in after.chunks(after.len() / 6 + 1).enumerate() {
        let text = script(piece, &mut chance);
        fleet.bank.ask(&text);
        match at % 3 {
            0 => republishers.fail_over(&fleet),
            1 => fleet.kill(chance.random_range(0..4)),
            _ => {
                fleet.bank.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'interdict'");
                republishers.fail_over(&fleet);
            }
        }
        fleet.wait(Duration::from_millis(chance.random_range(0..300)));
        fleet.revive();
    }
    fleet.bank.pay(LAST, 1, "1.00");
    fleet.decided("repub", LAST);
    let judged = seen(after).iter().filter(|what| what.is_insert()).count() + 1;
    fleet.await_count("repub", judged);
    fleet.settle("repub");
    check_reads(&fleet.caller(1), &seen(before), &seen(after), LAST);
    republishers.end(&fleet);
    fleet.end_all();

    let logged: Vec<DecisionRecord> = fleet.logged("repub").into_values().collect();
    fleet.check_blocks(&logged);
    let topic = republished("payments", kafka.values("bank", PARTITIONS));
    check_decisions(&topic, &logged);
    let dir = fleet.place.path("repub-changes");
    for table in ["transactions", "chargebacks"] {
        check_archive(archived(&dir, "payments", table), &remembered(&fleet.bank, table));
    }
}

#[test]
fn states_are_those_of_a_database_that_is_read_directly() {
    let (kafka, mut fleet) = open("through", "");
    let options = "--transactions 1500 --customers 60 --terminals 120";
    let payments = crate::parity::payments(&fleet.place.path("."), options);
    let mut chance = ChaCha8Rng::seed_from_u64(83);
    let changes: Vec<What> = commits(&payments, 84).into_iter().map(|(_, what)| what).collect();
    // Both begin with empty tables, so that what they read has one version in both.
    let mut republishers = fleet.republishers("through");
    fleet.begin_all();
    let text = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let direct = text[..text.find("[source.republish]").unwrap()].replace("\"through\"", "\"direct\"")
        + &text[text.find("[store]").unwrap()..];
    fleet.place.write("direct.toml", direct);
    let start = |fleet: &Fleet, role: &str| {
        fleet.place.start(&format!("run --config direct.toml --role {role} --bind 127.0.0.1:0"))
    };
    let mut others = ["ingest", "scorer"].map(|role| start(&fleet, role));
    others[0].wait_for("the snapshot is read");
    for (at, piece) in changes.chunks(changes.len() / 4 + 1).enumerate() {
        fleet.bank.ask(&script(piece, &mut chance));
        if at % 2 == 1 {
            republishers.fail_over(&fleet);
            fleet.kill(0);
            fleet.revive();
        }
    }
    let judged = seen(&changes).iter().filter(|what| what.is_insert()).count();
    for namespace in ["through", "direct"] {
        fleet.await_count(namespace, judged);
    }
    // The last changes may be others than inserts.
    let is_equal = |fleet: &mut Fleet| {
        let (through, direct) = (fleet.stored("through"), fleet.stored("direct"));
        through.len() > 1_000 && differing(&through, &direct) == 0
    };
    fleet.wait_until("the same states and row records", is_equal);
    assert_eq!([fleet.decisions("through"), fleet.decisions("direct")], [judged; 2]);
    let topic = republished("payments", kafka.values("bank", PARTITIONS));
    let ends: BTreeSet<u32> = topic.iter().map(|change| change.partition).collect();
    assert_eq!(ends.len(), 4, "every partition is used");
    republishers.end(&fleet);
    fleet.end_all();
    let logged: Vec<DecisionRecord> = fleet.logged("through").into_values().collect();
    check_decisions(&topic, &logged);
}

fn differing(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> usize {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).count()
}

#[test]
fn a_broker_that_is_away_holds_capture_and_not_the_process() {
    let (_kafka, mut fleet) = open("away", "");
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let brokers = config.lines().find(|line| line.starts_with("brokers")).unwrap();
    fleet.place.write("interdict.toml", config.replace(brokers, "brokers = \"127.0.0.1:1\""));
    fleet.bank.pay(1, 1, "1.00");
    let mut republisher = fleet.republisher();
    let told = republisher.wait_for("the topic takes nothing");
    assert!(told.contains("no broker at 127.0.0.1:1 answers"), "{told}");
    let caller = Caller::new(&republisher.address());
    let (_, metrics) = caller.try_send("GET", "/metrics", &[], "").unwrap();
    assert!(metrics.contains("interdict_ingest_republish_failures_total{source=\"payments\"} 1"), "{metrics}");
    republisher.terminate();
    let (status, log) = republisher.end();
    assert!(!status.success() && log.contains("is read again after the next start"), "{log}");
    let offsets = fleet.redis.say(&["HGETALL", "{away}:offsets"]);
    assert!(!offsets.contains("republish/payments"), "nothing is stored that the topic has not: {offsets}");

    // Nothing was confirmed either: what was taken is there for the next one.
    fleet.place.write("interdict.toml", config);
    let republishers = fleet.republishers("away");
    fleet.begin_all();
    fleet.bank.pay(2, 1, "1.00");
    fleet.decided("away", 2);
    republishers.end(&fleet);
    fleet.end_all();
    assert_eq!(fleet.logged("away").len(), 1, "the first payment is history");
}

#[test]
fn a_database_that_is_republished_is_read_by_roles_only() {
    let (_kafka, fleet) = open("roles", "");
    assert!(fleet.place.fail("run").contains("source 'payments' is republished"));
    assert!(fleet.place.fail("run --role republish,ingest").contains("stands alone"));
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let from = config.find("[source.republish]").unwrap();
    let direct = format!("{}{}", &config[..from], &config[config.find("[store]").unwrap()..]);
    fleet.place.write("interdict.toml", direct);
    assert!(fleet.place.fail("run --role republish").contains("has nothing to hand on"));
}
