//! Processes killed and paused, connections cut, servers that crash, in seeded rounds under load: nothing is lost, nothing is doubled.
//!
//! `INTERDICT_CHAOS_ROUNDS` sets the rounds (20 unless set), `INTERDICT_CHAOS_SEED` the first one's seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{Fleet, PROCESSES};
use crate::archive::captured;
use crate::parity::captured::{check_reads, compare, compare_requests, script, seen};
use crate::parity::history::{Payment, What, commits};

/// Pieces in which changes are written; something happens after each.
const PIECES: usize = 6;
/// Payments beyond those of the history, which nobody else's features rest on.
const ASKED_FROM: i64 = 700_000;
/// Their instant, 15:06:40 on the 15th of June 2025.
const ASKED_AT: i64 = 1_750_000_000_000_000;
/// Whom an analyst blocks by hand, one after each piece, and nobody else touches.
const BY_HAND: i64 = 1_500;
/// The payment that a round ends with.
const LAST: i64 = 90_000;

/// Longer than the lease of one second that these fleets have.
const PAUSE: Duration = Duration::from_millis(1_400);

struct Round<'a> {
    fleet: &'a mut Fleet,
    name: String,
    chance: ChaCha8Rng,
    asked: Vec<Payment>,
    /// Whom an analyst blocked or let go; `None` where there is none.
    acted: Option<BTreeSet<i64>>,
    /// Those of them who are blocked by hand.
    held: BTreeSet<i64>,
    /// What callers were told, by payment.
    told: BTreeMap<i64, serde_json::Value>,
    did: Vec<String>,
}

impl Round<'_> {
    fn did(&mut self, what: impl Into<String>) {
        self.did.push(what.into());
    }

    /// Something that goes wrong.
    fn disturb(&mut self) {
        let place = self.chance.random_range(0..PROCESSES.len());
        match self.chance.random_range(0..10) {
            0..4 => {
                self.did(format!("kill {} {place}", PROCESSES[place]));
                self.fleet.kill(place);
            }
            4..6 => {
                self.did(format!("pause {} {place}", PROCESSES[place]));
                self.fleet.process(place).signal("STOP");
                self.fleet.wait(PAUSE);
                self.fleet.process(place).signal("CONT");
            }
            6 => {
                self.did("cut connections to PostgreSQL");
                self.fleet
                    .bank
                    .ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'interdict'");
            }
            7 => {
                self.did("cut connections to Redis");
                self.fleet.redis.say(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
            8 => {
                self.did("kill Redis");
                self.fleet.redis.kill();
                self.fleet.redis.begin();
            }
            _ => {
                self.did("crash PostgreSQL");
                self.fleet.bank.crash();
                self.fleet.bank.start();
            }
        }
    }

    /// Asks for decisions on payments that no table has, each of both scorers.
    fn ask(&mut self) {
        for _ in 0..3 {
            let id = i64::try_from(self.asked.len()).unwrap();
            let (payment, customer) = (ASKED_FROM + id, 900_000 + id % 4);
            let asked = Payment { id, time: ASKED_AT, customer, terminal: customer, cents: 725, label: None };
            self.asked.push(asked);
            let body = json!({ "event": {
                "transaction_id": payment, "customer_id": customer, "terminal_id": customer,
                "tx_datetime": "2025-06-15T15:06:40Z", "amount": 7.25,
            }})
            .to_string();
            for scorer in [0, 1] {
                let caller = self.fleet.caller(scorer);
                let Some((200, answer)) = caller.try_send("POST", "/v1/decisions", &[], &body) else { continue };
                let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
                if answer["unlogged"] == json!(true) {
                    continue;
                }
                let earlier = self.told.insert(payment, answer["decision"].clone());
                assert!(earlier.is_none_or(|earlier| earlier == answer["decision"]), "two answers on {payment}");
            }
        }
    }

    /// Changes a list through one scorer or the other until somebody says that it is done.
    fn change(&mut self, method: &str, list: &str, customer: i64) {
        self.did(format!("{method} {list} of {customer}"));
        let body =
            json!({ "list": list, "entity": "customer", "key": customer, "reason": "talked to them" }).to_string();
        for scorer in (0..600).map(|at| at % 2) {
            if let Some((200, _)) = self.fleet.caller(scorer).try_send(method, "/v1/blocks", &[], &body) {
                self.acted.get_or_insert_default().insert(customer);
                return;
            }
            self.fleet.wait(Duration::from_millis(50));
            self.fleet.revive();
        }
        panic!("{method} {list} of {customer} is not done");
    }

    /// Blocks one customer by hand, lets the one before go, and one whom a decision blocked.
    fn act(&mut self) {
        let Some(acted) = &self.acted else { return };
        let newest = acted.range(BY_HAND..).next_back().copied();
        let customer = newest.map_or(BY_HAND, |newest| newest + 1);
        self.change("POST", "manual_block", customer);
        self.held.insert(customer);
        if let Some(earlier) = newest.filter(|newest| newest % 2 == 0) {
            self.change("DELETE", "manual_block", earlier);
            self.held.remove(&earlier);
        }
        let blocked =
            format!("SELECT id FROM accounts WHERE status = 'blocked' AND id < {BY_HAND} ORDER BY id LIMIT 1");
        if let Ok(blocked) = self.fleet.bank.ask(&blocked).parse() {
            self.change("DELETE", "automatic_block", blocked);
        }
    }

    /// Both scorers know whom the analyst holds, and so does the database.
    fn check_held(&self) {
        let held: Vec<String> = self.held.iter().map(i64::to_string).collect();
        for scorer in [0, 1] {
            let (status, answer) = self.fleet.ready(scorer).get("/v1/blocks?list=manual_block");
            assert_eq!(status, 200, "{answer}");
            let entries = answer["entries"].as_array().unwrap();
            let found: Vec<&str> = entries.iter().map(|entry| entry["entity"]["key"].as_str().unwrap()).collect();
            assert_eq!(found, held, "scorer {scorer}");
        }
        let blocked = format!("SELECT id FROM accounts WHERE status <> 'active' AND id >= {BY_HAND} ORDER BY id");
        assert_eq!(self.fleet.bank.ask(&blocked).lines().collect::<Vec<_>>(), held);
    }

    fn run(&mut self, payments: &[(Payment, bool)]) {
        let changes: Vec<What> = commits(payments, self.chance.random()).into_iter().map(|(_, what)| what).collect();
        let (before, after) = changes.split_at(changes.len() / 3);
        captured::remember(&self.fleet.bank);
        self.fleet.bank.ask(&script(before, &mut self.chance));
        self.fleet.begin(0);
        self.fleet.stored_snapshot(&self.name.clone());
        self.fleet.begin_all();
        for piece in after.chunks(after.len() / PIECES + 1) {
            let text = script(piece, &mut self.chance);
            self.fleet.bank.ask(&text);
            self.ask();
            self.act();
            self.disturb();
            let pause = Duration::from_millis(self.chance.random_range(0..120));
            self.fleet.wait(pause);
            self.fleet.revive();
        }
        self.fleet.bank.pay(LAST, 1, "1.00");
        self.fleet.decided(&self.name.clone(), LAST);
        self.fleet.settle(&self.name.clone());
        check_reads(&self.fleet.ready(1), &seen(before), &seen(after), LAST);
        self.check_held();
        self.fleet.await_archived(&self.name.clone(), LAST);
        self.fleet.end_all();
        self.fleet.reopen_folders();
        self.fleet.check_archive(&self.name);
        self.check(&seen(before), &seen(after));
    }

    fn check(&self, before: &[What], after: &[What]) {
        let logged: Vec<DecisionRecord> = self.fleet.logged(&self.name).into_values().collect();
        let (asked, captured): (Vec<DecisionRecord>, Vec<DecisionRecord>) =
            logged.into_iter().partition(|record| record.event_id.parse::<i64>().unwrap() >= ASKED_FROM);
        self.fleet.check_acts(&captured, &self.acted.clone().unwrap_or_default());
        let captured = captured.into_iter().filter(|record| record.event_id != LAST.to_string()).collect();
        let count = compare(before, after, captured);
        assert!(count > 500, "{count} decisions");
        let mut asked: BTreeMap<i64, DecisionRecord> =
            asked.into_iter().map(|record| (record.event_id.parse().unwrap(), record)).collect();
        let of = |(payment, record): (&i64, &DecisionRecord)| {
            (self.asked[usize::try_from(payment - ASKED_FROM).unwrap()], record.clone())
        };
        let count = compare_requests(&asked.iter().map(of).collect::<Vec<_>>());
        assert!(count > 0, "every request was decided by its deadline");
        for (payment, told) in &self.told {
            let logged = asked.remove(payment).expect("what a caller was told is in the log");
            assert_eq!(serde_json::to_value(logged).unwrap(), *told, "payment {payment}");
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("round {}: {:?}\n{}", self.name, self.did, self.fleet.logs());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a test takes is its caller's choice")]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Half of the rounds, on servers of their own: those whose seeds are `half` modulo two.
fn rounds(half: u64) {
    let mut fleet = Fleet::open("none").with_two_monitors();
    let options = "--transactions 1800 --customers 60 --terminals 120";
    let payments = crate::parity::payments(&fleet.place.path("."), options);
    let first = number("INTERDICT_CHAOS_SEED", 1);
    let seeds = first..first + number("INTERDICT_CHAOS_ROUNDS", 20);
    for seed in seeds.filter(|seed| seed % 2 == half) {
        let name = format!("chaos_{seed}");
        fleet.renew(&name);
        let chance = ChaCha8Rng::seed_from_u64(seed);
        // An analyst takes part in every other one of each half.
        let acted = (seed / 2 % 2 == 0).then(BTreeSet::new);
        let mut round = Round {
            fleet: &mut fleet,
            name,
            chance,
            asked: Vec::new(),
            acted,
            held: BTreeSet::new(),
            told: BTreeMap::new(),
            did: Vec::new(),
        };
        round.run(&payments);
    }
}

#[test]
fn whatever_dies_nothing_is_lost_and_nothing_is_doubled_even() {
    rounds(0);
}

#[test]
fn whatever_dies_nothing_is_lost_and_nothing_is_doubled_odd() {
    rounds(1);
}
