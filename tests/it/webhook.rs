//! The webhook action with a real receiver: the same message under the same id until it is taken, and never again.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use interdict_features::decision::decision_id;
use serde_json::Value;

use crate::captured::metric;
use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::redis_server::RedisServer;
use crate::topics::over_redis;

/// A request as the receiver saw it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
    pub(crate) body: String,
}

/// A receiver that answers with `statuses` one after the other, then with 204; what it received.
pub(crate) fn receive(statuses: impl IntoIterator<Item = u16, IntoIter: Send + 'static>) -> (u16, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = sync_channel(1_000);
    let mut statuses = statuses.into_iter().chain(std::iter::repeat(204));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut message = Received::default();
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                match name.to_ascii_lowercase().as_str() {
                    "webhook-id" => message.id = value.trim().to_owned(),
                    "webhook-timestamp" => message.timestamp = value.trim().to_owned(),
                    "webhook-signature" => message.signature = value.trim().to_owned(),
                    "content-length" => length = value.trim().parse().unwrap(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() || length == 0 {
                continue;
            }
            message.body = String::from_utf8(body).unwrap();
            let status = statuses.next().unwrap();
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _sender_died = reader.get_mut().write_all(answer.as_bytes());
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    (port, received)
}

#[test]
fn more_actions_at_once_than_the_outbox_holds_are_carried_out() {
    let (port, received) = receive([]);
    let config = format!(
        "{}\n[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"huge\"\ncondemns = \"customer\"\n\
         [[action]]\nname = \"tell\"\non = \"block\"\nentity = \"customer\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"secret\"\n\
         [source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n",
        DEFINITIONS.replace("path = \"data\"\n", "path = \"data\"\noutbox_capacity = 3\n")
    );
    let place = Place::new(&config);
    place.write("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let huge = |n: i64| debezium("c", n.cast_unsigned(), &row(n, n, n, "2000.00"));
    place.write("live.jsonl", (1..=8).map(huge).collect::<String>());
    let process = place.start("run");
    let mut told: Vec<String> = (0..8).map(|_| received.recv_timeout(Duration::from_secs(30)).unwrap().id).collect();
    // The outbox may still be full of what is told already; the bound holds for what follows.
    place.append("live.jsonl", (9..=12).map(huge).collect::<String>());
    told.extend((0..4).map(|_| received.recv_timeout(Duration::from_secs(30)).unwrap().id));
    process.stop();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 12);
    assert_eq!(place.store().outbox_now(None, 10).unwrap(), []);
    assert_eq!(place.remains().decisions.len(), 12);
}

const CAPACITY: i64 = 3;

/// A deployment that tells of whoever pays a huge amount, with room for few such actions.
fn telling(port: u16) -> String {
    let store = format!("path = \"data\"\noutbox_capacity = {CAPACITY}\n");
    format!(
        "{}\n[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"huge\"\ncondemns = \"customer\"\n\
         [[action]]\nname = \"tell\"\non = \"block\"\nentity = \"customer\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"secret\"\n\
         retry_first = \"50ms\"\nretry_max = \"500ms\"\n\
         [source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n\
         [http]\nbind = \"127.0.0.1:0\"\n",
        DEFINITIONS.replace("path = \"data\"\n", &store)
    )
}

fn decided(caller: &Caller, ids: RangeInclusive<i64>) -> i64 {
    let path = |id: i64| format!("/v1/decisions/{}", decision_id("default", "transactions", &id.to_string(), 0));
    ids.map(|id| i64::from(caller.get(&path(id)).0 == 200)).sum()
}

/// A receiver that is away fills the outbox: intake waits and says so, and goes on once the receiver is back.
fn fill_the_outbox(with_store: impl Fn(String) -> String) {
    let is_back = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_back);
    let (port, received) = receive(std::iter::from_fn(move || Some(if seen.load(SeqCst) { 204 } else { 503 })));
    let place = Place::new(&with_store(telling(port)));
    place.write("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let huge = |id: i64| debezium("c", id.cast_unsigned(), &row(id, id, id, "2000.00"));
    place.write("live.jsonl", "");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    for id in 1..=CAPACITY {
        place.append("live.jsonl", huge(id));
        caller.until(|caller| (decided(caller, id..=id) == 1).then_some(()));
    }
    place.append("live.jsonl", (CAPACITY + 1..=12).map(huge).collect::<String>());
    let told = process.wait_for("the outbox is full");
    for word in ["ERROR", "intake waits", "3 unfinished actions", "see why actions do not finish"] {
        assert!(told.contains(word), "{told}");
    }
    caller
        .until(|caller| (metric(caller, "interdict_store_failures_total", "class=\"transient\"") >= 1.0).then_some(()));
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") > 2.5).then_some(()));
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_oldest_seconds", "") > 0.0).then_some(()));
    caller.until(|caller| (metric(caller, "interdict_scorer_action_retries_total", "") >= 1.0).then_some(()));
    assert_eq!(decided(&caller, 1..=12), CAPACITY, "it waits");
    is_back.store(true, SeqCst);
    caller.until(|caller| (decided(caller, 1..=12) == 12).then_some(()));
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") < 0.5).then_some(()));
    assert!((metric(&caller, "interdict_scorer_actions_total", "action=\"tell\",status=\"done\"") - 12.0).abs() < 0.5);
    process.stop();
    let told: BTreeSet<String> = received.try_iter().map(|message| message.id).collect();
    assert_eq!(told.len(), 12, "each was told of");
    let logged = interdict_monitor::log::read(&place.path("decisions")).unwrap();
    let mut ids: Vec<i64> = logged.map(|entry| entry.unwrap().record.event_id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=12).collect::<Vec<_>>(), "each has one decision");
}

#[test]
fn a_full_outbox_stops_intake_says_so_and_loses_nothing() {
    fill_the_outbox(|config| config);
}

#[test]
fn a_full_outbox_in_a_redis_stops_intake_says_so_and_loses_nothing() {
    let redis = RedisServer::start();
    fill_the_outbox(|config| over_redis(&redis, &config));
}

#[test]
fn a_webhook_is_repeated_with_its_id_until_it_is_taken() {
    let (port, received) = receive([503, 503]);
    let config = format!(
        "{DEFINITIONS}\n[[action]]\nname = \"tell\"\non = \"block\"\nentity = \"customer\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"secret\"\nretry_first = \"50ms\"\nretry_max = \"100ms\"\ncolumns = [\"amount\"]\n\
         [source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n"
    );
    let place = Place::new(&config);
    place.write("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    // The seventh is blocked by the list, which condemns nobody anew.
    let burst: String = (1..=7).map(|n| debezium("c", n, &row(n.cast_signed(), n.cast_signed(), 6, "5.00"))).collect();
    place.write("live.jsonl", burst);
    let process = place.start("run");
    let first = received.recv_timeout(Duration::from_secs(30)).unwrap();
    process.kill();

    let mut process = place.start("run");
    process.wait_for("running");
    let mut last = first.clone();
    for _ in 0..2 {
        last = received.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!((&last.id, &last.body), (&first.id, &first.body), "the same message under the same id");
    }
    assert!(last.signature.starts_with("v1,"), "{last:?}");
    let body: Value = serde_json::from_str(&first.body).unwrap();
    assert_eq!(body["data"]["target"]["key"], "6");
    process.stop();
    let store = place.store();
    assert!(store.outbox_now(None, 10).unwrap().is_empty());
    let id = uuid::Uuid::parse_str(body["data"]["decision_id"].as_str().unwrap()).unwrap();
    let appended = store.decision_now(id).unwrap().unwrap().appended;
    assert_eq!(appended.len(), 1, "its result stands under the decision: {appended:?}");
    drop(store);

    place.write("interdict.toml", config.replace("follow = true", "follow = false"));
    place.run("run");
    assert!(received.try_recv().is_err(), "it was taken once");
}
