//! Actions among roles: what refuses, lags or waits stops nobody, and nothing is done that a fail-over would take back.

use std::time::{Duration, Instant};

use interdict_store::port::{Commit, Intent, Store as _};
use interdict_store::redis::RedisStore;
use interdict_store::redis::config::RedisConfig;
use serde_json::json;
use uuid::Uuid;

use super::{Fleet, free_port};
use crate::kafka::Kafka;
use crate::redis_server::RedisServer;

/// Places of [`super::PROCESSES`].
const INGESTOR: usize = 0;
const SCORERS: [usize; 2] = [2, 3];

/// Payments of one customer within a day, after which he is blocked.
const CONDEMNING: i64 = 8;

const DONE: &str = "interdict_scorer_actions_total{action=\"block_account\",status=\"done\"}";
const REJECTED: &str = "interdict_scorer_actions_total{action=\"block_account\",status=\"rejected\"}";

impl Fleet {
    /// Payments in one transaction, by the last of which `customer` is condemned.
    pub(super) fn condemn(&self, customer: i64) {
        let (first, last) = (customer * 100, customer * 100 + CONDEMNING - 1);
        self.bank.ask(&format!(
            "INSERT INTO transactions SELECT id, '2025-06-15 15:06:40+00', {customer}, 5000, 1 FROM generate_series({first}, {last}) id"
        ));
    }

    /// Asks for decisions on payments of `customer`.
    fn ask(&self, customer: i64, payments: std::ops::Range<i64>) {
        for payment in payments {
            let event = json!({
                "transaction_id": customer * 100 + payment, "customer_id": customer, "terminal_id": 1,
                "tx_datetime": "2025-06-15T15:06:40Z", "amount": 1,
            });
            let _told_by_default_where_it_waits = self.caller(0).post("/v1/decisions", &json!({ "event": event }));
        }
    }

    fn status(&self, account: i64) -> String {
        self.bank.ask(&format!("SELECT status FROM accounts WHERE id = {account}"))
    }

    pub(super) fn await_block(&mut self, account: i64) {
        self.wait_until(&format!("the block of account {account}"), |fleet| fleet.status(account) == "blocked");
    }

    /// An ingestor and `scorers`, once the first snapshot is stored.
    pub(super) fn begin_scoring(&mut self, namespace: &str, scorers: &[usize]) {
        self.begin(INGESTOR);
        self.stored_snapshot(namespace);
        for &scorer in scorers {
            self.begin(scorer);
            self.process(scorer).wait_for("serving");
        }
    }
}

#[test]
fn a_revoked_right_stops_no_scorer_and_is_reported() {
    let mut fleet = Fleet::open("revoked");
    fleet.begin_scoring("revoked", &SCORERS);
    fleet.condemn(5);
    fleet.await_block(5);
    let mut carrying = None;
    fleet.wait_until("the one that carries actions out", |fleet| {
        carrying = SCORERS.into_iter().find(|&scorer| fleet.metric(scorer, DONE) == Some(1));
        carrying.is_some()
    });
    let [carrying, other] = if carrying == Some(SCORERS[0]) { SCORERS } else { [SCORERS[1], SCORERS[0]] };

    fleet.bank.ask("REVOKE UPDATE ON accounts FROM interdict");
    fleet.kill(carrying);
    fleet.process(other).wait_for("acts that need this become dead letters");
    fleet.condemn(6);
    fleet.wait_until("the dead letter", |fleet| fleet.metric(other, REJECTED) == Some(1));
    assert_eq!(fleet.metric(other, "interdict_scorer_receiver_mistakes"), Some(1));
    fleet.process(other).work(Duration::from_millis(500));
    assert!(fleet.process(other).said().contains("action given up"));
    assert_eq!(fleet.status(6), "active");

    // Who begins with it is told to mend it.
    let said = fleet.place.fail("run --role scorer --bind 127.0.0.1:0");
    assert!(said.contains("the database refuses 'block'"), "{said}");
    fleet.bank.ask("GRANT UPDATE ON accounts TO interdict");
    fleet.condemn(7);
    fleet.await_block(7);
}

#[test]
fn an_account_that_is_gone_stops_no_scorer_and_is_reported() {
    let mut fleet = Fleet::open("gone");
    fleet.begin_scoring("gone", &SCORERS);
    fleet.bank.ask("DELETE FROM accounts WHERE id = 6");
    fleet.condemn(6);
    let mut carrying = None;
    fleet.wait_until("the dead letter", |fleet| {
        carrying = SCORERS.into_iter().find(|&scorer| fleet.metric(scorer, REJECTED) == Some(1));
        carrying.is_some()
    });
    let carrying = fleet.process(carrying.unwrap());
    let said = carrying.wait_for("action given up");
    assert!(said.contains("changed no row"), "{said}");
    // Payments of others are judged and act, and those of the customer are blocked by the list.
    fleet.condemn(7);
    fleet.await_block(7);
    let (status, answer) = fleet.caller(1).post("/v1/entities/customer", &json!({ "key": 6 }));
    assert_eq!((status, answer["lists"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
    assert_eq!(fleet.bank.ask("SELECT entity_key, kind, outcome FROM interdict_ledger"), "7|block|done");
    fleet.end_all();
}

#[test]
fn nobody_is_blocked_and_nothing_produced_before_the_replicas_have_the_decision() {
    let kafka = Kafka::start();
    kafka.create("decisions", 1);
    let mut fleet = Fleet::open("kept");
    let port = free_port().to_string();
    for (setting, value) in [("port", port.as_str()), ("repl-diskless-sync-delay", "0")] {
        assert_eq!(fleet.redis.say(&["CONFIG", "SET", setting, value]), "OK");
    }
    let replica = RedisServer::start();
    replica.say(&["REPLICAOF", "127.0.0.1", &port]);
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let replicated = "wait = \"2s\"\nreplicas = 1\nreplica_timeout = \"200ms\"\n";
    let sink = format!(
        "[[sink]]\nname = \"decisions\"\nwhat = \"decisions\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"decisions\"\n",
        kafka.brokers()
    );
    fleet.place.write("interdict.toml", config.replacen("wait = \"2s\"\n", replicated, 1) + &sink);
    fleet.wait_until("the replica", |_| replica.say(&["INFO", "replication"]).contains("master_link_status:up"));
    fleet.begin(SCORERS[0]);
    fleet.process(SCORERS[0]).wait_for("serving");
    fleet.ask(5, 0..CONDEMNING);
    fleet.await_block(5);

    fleet.ask(6, 0..CONDEMNING - 1);
    let before = usize::try_from(2 * CONDEMNING - 1).unwrap();
    fleet.wait_until("what the replica has", |_| kafka.read("decisions").len() == before);
    let go_on = replica.pause();
    fleet.ask(6, CONDEMNING - 1..CONDEMNING);
    fleet.wait_until("the action", |fleet| fleet.redis.say(&["HGET", "{kept}:meta", "intents"]) == "2");
    let seen = clock();
    while seen.elapsed() < Duration::from_secs(2) {
        assert_eq!(fleet.status(6), "active", "the replica does not have the decision");
        assert_eq!(kafka.read("decisions").len(), before, "a fail-over would give its place to another one");
    }
    go_on();
    fleet.await_block(6);
    fleet.wait_until("the decision in the topic", |_| kafka.read("decisions").len() > before);
}

#[test]
fn actions_that_wait_are_not_read_again_and_again() {
    const WAITING: u128 = 2_000;
    let mut fleet = Fleet::open("stuck");
    fleet.begin(SCORERS[0]);
    fleet.process(SCORERS[0]).wait_for("serving");
    fleet.bank.crash();
    fleet.ask(5, 0..CONDEMNING);
    let config = RedisConfig::new("stuck", &[&fleet.redis.url()]).unwrap();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let store = RedisStore::connect(config).await.unwrap();
        let (_, stuck) = store.outbox(None, 10).await.unwrap().pop().expect("an action that waits");
        let intents = (1..WAITING).map(|number| Intent { decision: Uuid::from_u128(number), ..stuck.clone() });
        store.commit(Commit { intents: intents.collect(), ..Commit::default() }).await.unwrap();
    });
    let waiting = Some(u64::try_from(WAITING).unwrap());
    fleet.wait_until("all of them", |fleet| fleet.metric(SCORERS[0], "interdict_scorer_outbox_intents") == waiting);
    let sent = |fleet: &Fleet| -> u64 {
        let stats = fleet.redis.say(&["INFO", "stats"]);
        let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        sent.unwrap().trim().parse().unwrap()
    };
    let before = sent(&fleet);
    fleet.wait(Duration::from_secs(2));
    // One reading of all of them is 1.4 MB.
    let bytes = sent(&fleet) - before;
    assert!(bytes < 3_000_000, "{bytes} bytes in two seconds");
    fleet.bank.start();
}

#[test]
fn list_entries_that_ended_are_removed() {
    let mut fleet = Fleet::open("ended");
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let lasting = "name = \"block_customer\"\n";
    fleet.place.write("interdict.toml", config.replacen(lasting, &format!("{lasting}expires = \"1s\"\n"), 1));
    fleet.begin_scoring("ended", &SCORERS[..1]);
    fleet.condemn(5);
    let entries = |fleet: &Fleet| fleet.redis.say(&["HLEN", "{ended}:lists"]);
    fleet.wait_until("the entry", |fleet| entries(fleet) == "1");
    let read = |fleet: &Fleet| {
        let (status, answer) = fleet.caller(0).post("/v1/entities/customer", &json!({ "key": 5 }));
        assert_eq!(status, 200, "{answer}");
        answer["lists"].as_array().unwrap().len()
    };
    fleet.wait_until("its end", |fleet| read(fleet) == 0);
    fleet.end_all();
    // Whoever begins to sweep does so at once.
    fleet.begin(SCORERS[0]);
    fleet.wait_until("its removal", |fleet| entries(fleet) == "0");
}

#[expect(clippy::disallowed_methods, reason = "a test may let time pass")]
fn clock() -> Instant {
    Instant::now()
}
