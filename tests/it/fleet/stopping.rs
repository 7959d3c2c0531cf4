//! A process of several roles that is told to stop while callers ask.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use interdict_store::redis::RedisStore;
use interdict_store::redis::config::RedisConfig;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Fleet;
use crate::place::Caller;

const CALLERS: i64 = 4;

fn event(id: i64) -> String {
    let event = json!({
        "transaction_id": id, "customer_id": id % 500, "terminal_id": 1, "tx_datetime": "2025-06-15T15:06:40Z", "amount": 1,
    });
    json!({ "event": event }).to_string()
}

fn decided(answer: &str) -> Uuid {
    let answer: Value = serde_json::from_str(answer).unwrap();
    serde_json::from_value(answer["decision"]["decision_id"].clone()).unwrap_or_else(|_| panic!("{answer}"))
}

/// Asks, one event after the other, until nobody answers; the decisions.
fn ask(address: &str, number: i64) -> Vec<Uuid> {
    let caller = Caller::new(address);
    let ids = (0..).map(|count| count * CALLERS + number);
    let answers = ids.map_while(|id| caller.try_send("POST", "/v1/decisions", &[], &event(id)));
    answers.filter(|(status, _)| *status == 200).map(|(_, answer)| decided(&answer)).collect()
}

/// Whether a lease of the fleet may be taken.
fn is_free(fleet: &Fleet, lease: &str) -> bool {
    let config = RedisConfig::new("ending", &[&fleet.redis.url()]).unwrap();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let store = RedisStore::connect(config).await.unwrap();
        store.lease(lease, Uuid::new_v4(), Duration::from_millis(1)).await.unwrap().is_some()
    })
}

#[test]
fn what_is_decided_while_a_process_stops_is_in_parquet_when_it_has_ended() {
    let fleet = Fleet::open("ending");
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    fleet.place.write("interdict.toml", config.replacen("[http]\n", "[http]\ndeadline = \"8s\"\n", 1));
    let mut process = fleet.place.start("run --role ingest,scorer,monitor --bind 127.0.0.1:0");
    let address = process.address();
    process.wait_for("the snapshot is read");
    let late = event(1_000_000_001);
    let (first, rest) = late.split_at(20);
    let mut slow = TcpStream::connect(&address).unwrap();
    let head =
        "POST /v1/decisions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(slow, "{head}content-length: {}\r\n\r\n{first}", late.len()).unwrap();

    let answered: BTreeSet<Uuid> = std::thread::scope(|scope| {
        let address = &address;
        let callers: Vec<_> = (0..CALLERS).map(|number| scope.spawn(move || ask(address, number))).collect();
        process.work(Duration::from_millis(500));
        process.terminate();
        // Everything but this caller has its end meanwhile.
        process.work(Duration::from_secs(1));
        assert!(!is_free(&fleet, "input-1"), "another scorer may take the place of this one");
        slow.write_all(rest.as_bytes()).unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let last = decided(&answer[answer.find('{').unwrap()..]);
        let answered = callers.into_iter().flat_map(|caller| caller.join().unwrap());
        answered.chain([last]).collect()
    });
    let (status, log) = process.end();
    assert!(status.success(), "{log}");
    let logged: BTreeSet<Uuid> = fleet.logged("ending").into_keys().collect();
    assert_eq!(logged.len(), fleet.decisions("ending"));
    assert!(answered.len() > 20 && answered.is_subset(&logged), "{} of {} answers", logged.len(), answered.len());
    assert_eq!(fleet.redis.say(&["XLEN", "{ending}:log:decisions"]), "0", "what is written is forgotten");
}
