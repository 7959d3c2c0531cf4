//! A Redis that is away or takes nothing for a while: everything waits, says what to do, and goes on by itself.

use std::path::PathBuf;

use interdict_features::decision::decision_id;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::captured::metric;
use crate::disk::SmallDisk;
use crate::place::{Caller, Place, Process, debezium, row};
use crate::redis_server::RedisServer;
use crate::requests::{config, counted, event, feature, serving};
use crate::topics::{at_redis, over_redis};

#[test]
fn a_store_that_is_away_is_waited_for() {
    let mut redis = RedisServer::start();
    let config = over_redis(&redis, &config("")).replace("wait = \"2s\"", "wait = \"100ms\"");
    let (place, mut process, caller) = serving(&config);

    redis.kill();
    place.append("live.jsonl", debezium("c", 2, &crate::place::row(2, 10, 1, "11.00")));
    process.wait_for("intake waits");
    assert_eq!(caller.post("/v1/entities/customer", &json!({ "key": 77 })).0, 503);
    redis.begin();
    // A read that meets the server on its way up is turned away.
    caller.until(|caller| (caller.post("/v1/entities/customer", &json!({ "key": 1 })).0 == 200).then_some(()));
    caller.until(|caller| (counted(caller, 1, "1d") == json!(2)).then_some(()));

    redis.kill();
    let other = caller.apart();
    let asking = std::thread::spawn(move || other.post("/v1/decisions", &event(3, 20, 1, "12.00")));
    process.wait_for("requests wait");
    redis.begin();
    let (status, answer) = asking.join().unwrap();
    assert_eq!((status, &answer["decision"]["outcome"]), (200, &json!("approve")), "{answer}");
    assert_eq!(counted(&caller, 1, "1d"), json!(3));
    process.stop();
}

/// Customers who pay in every round, once each.
const CUSTOMERS: i64 = 4;

/// The payment in a day with which a customer is condemned, as the rule `burst` says.
const CONDEMNED: i64 = 6;

/// A server whose folder lies on a small disk, and what works on it.
struct Rig {
    redis: RedisServer,
    disk: SmallDisk,
    place: Place,
    _folder: TempDir,
}

/// What befalls a server that runs.
struct Fault {
    begins: fn(&Rig),
    ends: fn(&Rig),
    /// What the log says is to be done.
    told: &'static str,
}

const FAULTS: [Fault; 5] = [
    Fault {
        begins: |rig| rig.set(&["REPLICAOF", "127.0.0.1", "1"]),
        ends: |rig| rig.set(&["REPLICAOF", "NO", "ONE"]),
        told: "name the master in [store] url",
    },
    Fault {
        begins: |rig| rig.set(&["CONFIG", "SET", "maxmemory", "1"]),
        ends: |rig| rig.set(&["CONFIG", "SET", "maxmemory", "0"]),
        told: "raise maxmemory",
    },
    Fault {
        begins: |rig| {
            std::fs::create_dir_all(rig.snapshot().join("in-the-way")).unwrap();
            rig.set(&["CONFIG", "SET", "save", "3600 1"]);
            rig.redis.say(&["BGSAVE"]);
            rig.until("no snapshot is written", |rig| {
                rig.redis.say(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
            });
        },
        ends: |rig| {
            std::fs::remove_dir_all(rig.snapshot()).unwrap();
            rig.set(&["SAVE"]);
            rig.set(&["CONFIG", "SET", "save", ""]);
        },
        told: "free space there or mend it",
    },
    Fault {
        begins: |rig| {
            rig.disk.fill();
            // More than what is left of the last page.
            rig.set(&["SET", "filler", &"x".repeat(8_192)]);
            rig.until("the file cannot be written", |rig| {
                rig.redis.say(&["INFO", "persistence"]).contains("aof_last_write_status:err")
            });
        },
        ends: |rig| rig.disk.free(),
        told: "free space there or mend it",
    },
    Fault {
        begins: |rig| rig.give_password("new"),
        ends: |rig| rig.place.write("password", "new\n"),
        told: "write the new password into password_file",
    },
];

impl Rig {
    fn open() -> Self {
        let folder = TempDir::new().unwrap();
        let disk = SmallDisk::mount(folder.path().join("small"));
        // Where every write waits for the disk, a full one ends the server.
        let files = disk.path().display().to_string();
        let redis = RedisServer::start_with(&["--dir", &files, "--appendfsync", "everysec"]);
        let store = at_redis(&redis.url(), &config(""))
            .replace("wait = \"2s\"", "wait = \"100ms\"\nuser = \"interdict\"\npassword_file = \"password\"");
        let rig = Self { redis, disk, place: Place::new(&store), _folder: folder };
        rig.place.write("password", "old\n");
        rig.give_password("old");
        rig
    }

    fn set(&self, words: &[&str]) {
        assert_eq!(self.redis.say(words), "OK", "{words:?}");
    }

    /// Gives the program's user a password, and ends its connections.
    fn give_password(&self, password: &str) {
        self.set(&["ACL", "SETUSER", "interdict", "on", "resetpass", &format!(">{password}"), "~*", "+@all"]);
        self.redis.say(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    fn snapshot(&self) -> PathBuf {
        self.disk.path().join("dump.rdb")
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        assert!((0..5_000).any(|_| is_so(self)), "{what}: it does not come");
    }

    /// Every customer's payment of `round`.
    fn pay(&self, round: i64) {
        let payments = ids(round).map(|id| debezium("c", id.cast_unsigned(), &row(id, id, id % CUSTOMERS, "10.00")));
        self.place.append("live.jsonl", payments.collect::<String>());
    }

    fn decisions(&self) -> String {
        self.redis.say(&["HGET", "{default}:meta", "decisions"])
    }
}

/// The ids of the payments of a round.
fn ids(round: i64) -> std::ops::Range<i64> {
    round * CUSTOMERS + 1..(round + 1) * CUSTOMERS + 1
}

fn failures(caller: &Caller, class: &str) -> f64 {
    metric(caller, "interdict_store_failures_total", &format!("class=\"{class}\""))
}

/// The stored decision on a payment; `None` as long as there is none.
fn decision(caller: &Caller, id: i64) -> Option<Value> {
    let (status, answer) =
        caller.get(&format!("/v1/decisions/{}", decision_id("default", "transactions", &id.to_string(), 0)));
    (status == 200).then(|| answer["decision"].clone())
}

/// Each payment was decided on what came before it: nothing is missing there, and nothing counts twice.
fn check(caller: &Caller, round: i64) {
    for id in ids(round) {
        let decision = caller.until(|caller| decision(caller, id));
        let count = round + 1;
        assert_eq!(feature(&decision["features"], "customer_spend.tx_count_1d"), json!(count), "{decision}");
        let outcome = if count >= CONDEMNED { "block" } else { "approve" };
        assert_eq!((&decision["outcome"], &decision["decided_by"]), (&json!(outcome), &json!("rules")), "{decision}");
    }
}

/// What the log says while nothing is stored.
fn told(process: &mut Process, advice: &str) {
    let is_told = (0..200).any(|_| {
        let line = process.wait_for("intake waits");
        line.contains("ERROR") && line.contains(advice)
    });
    assert!(is_told, "no '{advice}' in:\n{}", process.said());
}

/// Lets every fault come and go while payments come: the first of `processes` reads them, the last one answers.
fn bear(rig: &Rig, processes: &mut [Process]) {
    let callers: Vec<Caller> = processes.iter_mut().map(|process| Caller::new(&process.address())).collect();
    let (reading, answering) = (&callers[0], callers.last().unwrap());
    check(answering, 0);
    // Roles that begin at once move the same number of charge, and one of them is refused and moves it again.
    let begun: Vec<f64> = callers.iter().map(|caller| failures(caller, "fatal")).collect();
    assert!(callers.len() > 1 || begun[0] < 0.5);
    for (round, fault) in (1..).zip(&FAULTS) {
        let before = failures(reading, "transient");
        let decided = rig.decisions();
        (fault.begins)(rig);
        rig.pay(round);
        told(&mut processes[0], fault.told);
        reading.until(|caller| (failures(caller, "transient") > before).then_some(()));
        assert!(ids(round).all(|id| decision(answering, id).is_none()), "{}", fault.told);
        assert_eq!(rig.decisions(), decided, "{}", fault.told);
        (fault.ends)(rig);
        check(answering, round);
    }
    for ((caller, process), begun) in callers.iter().zip(&mut *processes).zip(begun) {
        assert!(failures(caller, "fatal") < begun + 0.5, "{}", process.said_so_far());
        // Roles that meet on a key refuse each other.
        assert!(callers.len() > 1 || failures(caller, "rejected") < 0.5);
    }
    let rounds = i64::try_from(FAULTS.len()).unwrap() + 1;
    for customer in 0..CUSTOMERS {
        assert_eq!(counted(answering, customer, "1d"), json!(rounds));
    }
    assert_eq!(rig.decisions(), (rounds * CUSTOMERS).to_string(), "each event has one decision");
    assert_eq!(rig.redis.say(&["HLEN", "{default}:lists"]), CUSTOMERS.to_string(), "whoever is condemned is blocked");
}

fn end(processes: Vec<Process>) {
    processes.iter().for_each(Process::terminate);
    for process in processes {
        let (status, log) = process.end();
        assert!(status.success(), "{log}");
    }
}

#[test]
fn whatever_befalls_a_redis_is_waited_for_by_one_process() {
    let rig = Rig::open();
    rig.pay(0);
    let mut processes = vec![rig.place.start("run")];
    bear(&rig, &mut processes);
    end(processes);
    let logged = interdict_monitor::log::read(&rig.place.path("decisions")).unwrap();
    let mut ids: Vec<String> = logged.map(|entry| entry.unwrap().record.event_id).collect();
    ids.sort();
    let mut expected: Vec<String> = (1..=6 * CUSTOMERS).map(|id| id.to_string()).collect();
    expected.sort();
    assert_eq!(ids, expected, "each decision is in Parquet once");
}

#[test]
fn whatever_befalls_a_redis_is_waited_for_by_roles() {
    let rig = Rig::open();
    rig.pay(0);
    let mut processes: Vec<Process> =
        ["ingest", "scorer"].map(|role| rig.place.start(&format!("run --role {role} --bind 127.0.0.1:0"))).into();
    bear(&rig, &mut processes);
    end(processes);
}

#[test]
fn a_redis_that_lets_nobody_in_at_the_start_ends_it_with_what_to_do() {
    let rig = Rig::open();
    rig.place.write("password", "swordfish\n");
    for role in ["", " --role ingest", " --role scorer"] {
        let said = rig.place.fail(&format!("run{role}"));
        for word in ["the store cannot be opened", "refuses user or password", "password_file"] {
            assert!(said.contains(word), "no '{word}' in:\n{said}");
        }
        assert_eq!(said.matches("refuses user or password").count(), 1, "it is told once:\n{said}");
        assert!(!said.contains("swordfish"), "{said}");
    }
}

#[test]
fn a_redis_that_nobody_reaches_at_the_start_ends_it_with_what_to_do() {
    let mut redis = RedisServer::start();
    let config = over_redis(&redis, &config("")).replace("wait = \"2s\"", "wait = \"100ms\"");
    redis.kill();
    let place = Place::new(&config);
    place.write("live.jsonl", debezium("c", 1, &row(1, 0, 1, "10.00")));
    for role in ["", " --role ingest", " --role scorer"] {
        let said = place.fail(&format!("run{role}"));
        for word in ["start this process again", "no answer from Redis", "see that it runs and can be reached"] {
            assert!(said.contains(word), "no '{word}' in:\n{said}");
        }
    }
    redis.begin();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    assert_eq!(caller.until(|caller| decision(caller, 1))["outcome"], "approve");
    end(vec![process]);
}
