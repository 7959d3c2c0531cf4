//! What callers are told while the engine cannot work: the disk of its store is full, so it waits in the middle of a commit.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::disk::SmallDisk;
use crate::place::{Caller, DEFINITIONS, Place, Process, debezium, row};
use crate::requests::event;

/// A running process whose store is on a small disk.
struct Rig {
    process: Process,
    caller: Caller,
    place: Place,
    /// Events that it took to hold the engine; each is decided.
    decided_before: usize,
    _disk: SmallDisk,
}

impl Rig {
    /// Serving with `judge` for a condition. Every record is larger than a page of the disk, so that none fits once it is full.
    fn serving(judge: &str) -> Self {
        let mut state = 1_u64;
        let mut digit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
        };
        let rule = |number: usize| {
            let reason: String = (0..480).map(|_| digit()).collect();
            format!(
                "[[rule]]\nid = \"r{number}\"\nwhen = \"amount > 0.0\"\noutcome = \"review\"\nreason = \"{reason}\"\n"
            )
        };
        let rules: String = (0..14).map(rule).collect();
        let config = format!(
            "{}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n{rules}",
            DEFINITIONS.replace("\"data\"", "\"small/data\"").replace("judge = \"insert\"", judge)
        );
        let place = Place::new(&config);
        place.write("live.jsonl", "");
        let disk = SmallDisk::mount(place.path("small"));
        let mut process = place.start("run");
        let caller = Caller::new(&process.address());
        Self { process, caller, place, decided_before: 0, _disk: disk }
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.place.path("small/filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let bytes = vec![7; size];
            while filler.write_all(&bytes).is_ok() {}
        }
    }

    /// Fills the disk and has the engine try a commit, which it repeats until there is space.
    fn hold(&mut self) {
        for id in 9_000..9_010 {
            self.fill();
            let (_, told) = self.decide(id, "60.00", &[("x-deadline-ms", "1000")]);
            self.decided_before += 1;
            if told["unlogged"] == true {
                self.process.wait_for("intake waits");
                return;
            }
        }
        panic!("the disk is never full");
    }

    fn release(&self) {
        std::fs::remove_file(self.place.path("small/filler")).unwrap();
    }

    fn decide(&self, id: i64, amount: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        self.caller.send("POST", "/v1/decisions", headers, &event(id, 60, 1 + id % 5, amount))
    }

    /// What a caller is told by default at his deadline.
    fn told(&self, id: i64, amount: &str, headers: &[(&str, &str)]) -> Value {
        let headers = [headers, &[("x-deadline-ms", "400")]].concat();
        let (status, answer) = self.decide(id, amount, &headers);
        assert_eq!((status, &answer["unlogged"], &answer["replayed"]), (200, &json!(true), &json!(false)), "{answer}");
        assert_eq!(answer["decision"]["decided_by"], "default", "{answer}");
        answer["decision"].clone()
    }

    /// The decision that is stored under the id of `told`, which must come to be there, is that one.
    fn assert_stored(&self, told: &Value) {
        let path = format!("/v1/decisions/{}", told["decision_id"].as_str().unwrap());
        let stored = self.caller.until(|caller| {
            let (status, stored) = caller.get(&path);
            (status == 200).then_some(stored)
        });
        assert_eq!(stored["decision"], *told);
    }

    /// Ends the process; as many decisions as `expected` are stored and in Parquet, beside those that held the engine.
    fn end(self, expected: usize) {
        self.process.terminate();
        let (status, log) = self.process.end();
        assert!(status.success(), "{log}");
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r").arg(self.place.path("small/data")).arg(self.place.path("data"));
        assert!(copy.status().unwrap().success());
        assert_eq!(self.place.decisions(&self.place.store()).len(), expected + self.decided_before);
    }
}

#[test]
fn an_event_that_is_decided_gets_its_decision_however_late_the_engine_is() {
    let mut rig = Rig::serving("judge = \"insert\"");
    let (status, first) = rig.decide(2, "20.00", &[("idempotency-key", "a")]);
    assert_eq!(status, 200, "{first}");
    rig.hold();
    let late = [("x-deadline-ms", "2000"), ("idempotency-key", "a")];
    let (status, again) = rig.decide(2, "20.00", &late);
    assert_eq!((status, &again["replayed"], &again["unlogged"]), (200, &json!(true), &json!(false)), "{again}");
    assert_eq!(again["decision"], first["decision"]);
    let (status, reused) = rig.decide(3, "20.00", &late);
    assert_eq!((status, &reused["error"]["code"]), (422, &json!("idempotency_key_reused")), "{reused}");
    rig.release();
    let (status, next) = rig.decide(4, "20.00", &[]);
    assert_eq!((status, &next["unlogged"]), (200, &json!(false)), "{next}");
    rig.end(2);
}

#[test]
fn lists_bind_what_is_told_at_the_deadline() {
    let mut rig = Rig::serving("judge = \"insert\"");
    // Customer 3.
    let id = 7;
    let entry = json!({"list": "manual_block", "entity": "customer", "key": 1 + id % 5, "reason": "a mule"});
    let (status, answer) = rig.caller.post("/v1/blocks", &entry);
    assert_eq!(status, 200, "{answer}");
    rig.hold();
    let (status, told) = rig.decide(id, "20.00", &[("x-deadline-ms", "400")]);
    let told = &told["decision"];
    assert_eq!((status, &told["outcome"], &told["decided_by"]), (200, &json!("block"), &json!("list")), "{told}");
    let other = rig.told(id + 1, "20.00", &[]);
    assert_eq!(other["outcome"], "review", "{other}");
    rig.release();
    rig.assert_stored(told);
    rig.assert_stored(&other);
    rig.end(2);
}

#[test]
fn a_request_that_is_not_kept_gets_the_stored_decision_and_no_second_one() {
    let rig = Rig::serving("judge = \"insert\"\non_unmatched = \"drop\"");
    let (_, first) = rig.decide(3, "20.00", &[]);
    rig.fill();
    for _ in 0..64 {
        let (status, again) = rig.decide(3, "30.00", &[("x-deadline-ms", "400")]);
        assert_eq!((status, &again["replayed"]), (200, &json!(true)), "{again}");
        assert_eq!(again["decision"], first["decision"]);
    }
    rig.release();
    rig.end(1);
}

#[test]
fn what_is_told_at_the_deadline_is_what_is_stored() {
    for (judge, amount) in [
        ("judge = \"insert\"", "20.00"),
        ("judge = \"insert\"\non_unmatched = \"drop\"", "20.00"),
        // The condition does not hold for the event, and its caller was told a default all the same.
        ("judge = \"after.amount > 50.0\"", "20.00"),
    ] {
        let mut rig = Rig::serving(judge);
        rig.hold();
        let mut told = BTreeMap::new();
        for id in 20..24 {
            told.insert(id, rig.told(id, amount, &[]));
        }
        assert_eq!(rig.told(20, "70.00", &[]), told[&20], "another request for the same event");
        // A key used twice, while nobody can know it yet.
        told.insert(24, rig.told(24, amount, &[("idempotency-key", "k")]));
        let (status, second) = rig.decide(25, amount, &[("idempotency-key", "k"), ("x-deadline-ms", "400")]);
        if status == 200 {
            told.insert(25, second["decision"].clone());
        } else {
            assert_eq!((status, &second["error"]["code"]), (422, &json!("idempotency_key_reused")), "{second}");
        }
        // Their rows come from the database as well.
        let rows = (20..23).map(|id| debezium("c", id, &row(id.cast_signed(), 60, 1 + id.cast_signed() % 5, "90.00")));
        rig.place.append("live.jsonl", rows.collect::<String>());
        rig.release();
        for record in told.values() {
            rig.assert_stored(record);
        }
        for id in told.keys() {
            let (status, again) = rig.decide(*id, amount, &[]);
            assert_eq!((status, &again["replayed"], &again["decision"]), (200, &json!(true), &told[id]), "{judge}");
        }
        rig.end(told.len());
    }
}

#[test]
fn a_full_queue_turns_callers_away_and_keeps_what_the_others_were_told() {
    let mut rig = Rig::serving("judge = \"insert\"");
    rig.hold();
    let mut told = Vec::new();
    let mut taken = 0;
    loop {
        let (status, answer) = rig.decide(20_000 + taken, "2.00", &[("x-deadline-ms", "4")]);
        match (status, answer["error"]["code"].as_str()) {
            (200, _) => told.push(answer["decision"].clone()),
            (503, Some("deadline")) => {}
            (503, Some("overloaded")) => {
                assert_eq!(answer["error"]["message"], "the engine's queue is full; try again");
                break;
            }
            _ => panic!("{status}: {answer}"),
        }
        taken += 1;
        assert!(taken <= 1_024 + 64, "the queue has no end");
    }
    assert!(taken >= 1_024, "{taken}");
    assert!(!told.is_empty());
    rig.release();
    for record in told.iter().rev() {
        rig.assert_stored(record);
    }
    rig.end(usize::try_from(taken).unwrap());
}
