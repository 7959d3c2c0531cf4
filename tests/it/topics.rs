//! The program on topics of Kafka, by the mock cluster of its client: brokers in this process, reached over TCP.

use std::collections::{BTreeMap, BTreeSet};

use interdict_features::decision::{DecisionRecord, decision_id};
use serde_json::{Value, json};

use crate::kafka::Kafka;
use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::redis_server::RedisServer;

const PARTITIONS: i64 = 4;
const HTTP: &str = "[http]\nbind = \"127.0.0.1:0\"\n";

/// A change of a payment.
struct Change {
    id: i64,
    customer: i64,
    line: String,
}

/// Produces lines as a connector does: keyed by id, a customer's to one partition, a tombstone behind every delete.
fn connect(kafka: &Kafka, topic: &str, changes: &[Change]) {
    for change in changes {
        let partition = i32::try_from(change.customer % PARTITIONS).unwrap();
        let key = format!("{{\"transaction_id\":{}}}", change.id);
        kafka.send(topic, partition, &key, Some(change.line.trim_end()));
        if change.line.contains("\"op\":\"d\"") {
            kafka.send(topic, partition, &key, None);
        }
    }
    kafka.flush();
}

/// Payments of 50 customers, a fraud label on every seventh and the deletion of every eleventh some payments later.
fn history(ids: std::ops::Range<i64>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut change = |op: &str, lsn: i64, row: &Value| {
        let (id, customer) = (row["transaction_id"].as_i64().unwrap(), row["customer_id"].as_i64().unwrap());
        changes.push(Change { id, customer, line: debezium(op, lsn.unsigned_abs(), row) });
    };
    for id in ids {
        let payment = |id: i64| row(id, id, id % 50, if id % 13 == 0 { "150.00" } else { "10.00" });
        change("c", id * 10, &payment(id));
        if id % 7 == 0 && id > 60 {
            let mut labelled = payment(id - 60);
            labelled["is_fraud"] = json!(true);
            change("u", id * 10 + 1, &labelled);
        }
        if id % 11 == 0 && id > 60 {
            change("d", id * 10 + 2, &payment(id - 50));
        }
    }
    changes
}

fn on_topic(kafka: &Kafka, rest: &str) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"shop.public.transactions\"\n\
         format = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nsession = \"3s\"\n{rest}{HTTP}",
        kafka.brokers()
    )
}

/// What was decided, positions and clocks apart: those of a topic are not those of a file.
fn decided(decisions: &BTreeMap<uuid::Uuid, DecisionRecord>) -> BTreeMap<String, Value> {
    let bare = |(id, record): (&uuid::Uuid, &DecisionRecord)| {
        let mut record = serde_json::to_value(record).unwrap();
        let fields = record.as_object_mut().unwrap();
        fields.remove("position");
        fields.remove("seen");
        // Terminals take payments from several partitions, whose order among each other is nobody's promise.
        let as_of = fields["as_of"]["customer"].clone();
        fields.insert("as_of".to_owned(), as_of);
        let features = fields["features"].as_array_mut().unwrap();
        features.retain(|feature| feature["name"].as_str().unwrap().starts_with("customer_spend"));
        assert!(!features.is_empty());
        (id.to_string(), record)
    };
    decisions.iter().map(bare).collect()
}

/// Waits for the decisions on payments.
pub(crate) fn wait_for(caller: &Caller, ids: std::ops::Range<i64>) {
    for id in ids {
        let decision = decision_id("default", "transactions", &id.to_string(), 0);
        caller.until(|caller| (caller.get(&format!("/v1/decisions/{decision}")).0 == 200).then_some(()));
    }
}

/// The features of every customer.
fn features(caller: &Caller) -> Vec<Value> {
    let of = |customer: i64| {
        let (status, answer) =
            caller.post("/v1/entities/customer", &json!({ "key": customer, "as_of": "2025-06-15T17:00:00Z" }));
        assert_eq!(status, 200);
        answer["features"].clone()
    };
    (0..50).map(of).collect()
}

/// The same changes in a file.
fn in_a_file(changes: &[Change]) -> Place {
    let file = Place::new(&format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nfollow = true\n\
         format = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n{HTTP}"
    ));
    file.write("live.jsonl", changes.iter().map(|change| change.line.as_str()).collect::<String>());
    file
}

/// The features once payment `last` is decided.
fn features_after(place: &Place, last: i64) -> Vec<Value> {
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    wait_for(&caller, last..last + 1);
    let features = features(&caller);
    process.terminate();
    assert!(process.end().0.success());
    features
}

#[test]
fn a_topic_of_four_partitions_gives_what_a_file_gives() {
    let kafka = Kafka::start();
    kafka.create("shop.public.transactions", PARTITIONS);
    let changes = history(1..800);
    let half = changes.iter().position(|change| change.id == 400).unwrap();
    let file = in_a_file(&changes);
    let expected = features_after(&file, 799);

    let topic = Place::new(&on_topic(&kafka, ""));
    connect(&kafka, "shop.public.transactions", &changes[..half]);
    let mut process = topic.start("run");
    wait_for(&Caller::new(&process.address()), 1..400);
    process.stop();
    connect(&kafka, "shop.public.transactions", &changes[half..]);
    let mut process = topic.start("run");
    let caller = Caller::new(&process.address());
    wait_for(&caller, 400..800);
    caller.until(|caller| (features(caller) == expected).then_some(()));
    let (_, metrics) = caller.get("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("interdict_ingest_topic_partitions{source=\"payments\"} 4"), "{metrics}");
    let ends = kafka.ends("shop.public.transactions", 4);
    let committed = || kafka.committed("interdict.default.payments", "shop.public.transactions", 4);
    caller.until(|_| (committed() == ends).then_some(()));
    process.stop();
    let applied = topic.store().positions_now("payments").unwrap();
    assert_eq!(applied.iter().map(|offset| (offset.partition, offset.position + 1)).collect::<BTreeMap<_, _>>(), ends);

    let (file, topic) = (file.remains(), topic.remains());
    assert_eq!(decided(&topic.decisions), decided(&file.decisions));
    assert_eq!((topic.decisions.len(), topic.letters.len()), (799, 0));
    assert_eq!(topic.lists, file.lists);
}

#[test]
fn decisions_and_dead_letters_are_produced_once_each_in_a_calm_run() {
    let kafka = Kafka::start();
    for (topic, partitions) in [("shop.public.transactions", PARTITIONS), ("decisions", 1), ("dead", 1)] {
        kafka.create(topic, partitions);
    }
    let sink = |name: &str, what: &str| {
        format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{name}\"\nwhat = \"{what}\"\n",
            kafka.brokers()
        )
    };
    let place = Place::new(&on_topic(&kafka, &(sink("decisions", "decisions") + &sink("dead", "dead_letters"))));
    let broken = |customer: i64| Change { id: 0, customer, line: "no json".to_owned() };
    let mut changes = history(1..100);
    changes.push(broken(1));
    for round in 0..2 {
        connect(&kafka, "shop.public.transactions", &changes);
        let mut process = place.start("run");
        let caller = Caller::new(&process.address());
        wait_for(&caller, 1..(100 + round * 100));
        caller.until(|caller| {
            let (_, metrics) = caller.get("/metrics");
            let line = "interdict_ingest_topic_dead_letters_total{source=\"payments\"} 1";
            metrics.as_str()?.contains(line).then_some(())
        });
        process.stop();
        changes = history(100..200);
        changes.push(broken(2));
    }
    // 199 payments and two records that could not be read.
    let stored = place.remains();
    assert_eq!((stored.decisions.len(), stored.letters.len()), (201, 2));
    let produced = kafka.read("decisions");
    assert_eq!(produced.len(), 201);
    let ids: BTreeSet<&str> = produced.iter().map(|(_, headers, _)| headers["decision_id"].as_str()).collect();
    assert_eq!(ids.len(), 201);
    for (at, (key, headers, record)) in produced.iter().enumerate() {
        assert_eq!(headers["log_position"], at.to_string());
        assert_eq!(record["decision_id"], headers["decision_id"].as_str());
        assert_eq!(record["event_id"], key.as_str());
        let record = serde_json::from_value::<DecisionRecord>(record.clone()).unwrap().without_clocks();
        assert_eq!(Some(&record), stored.decisions.get(&record.decision_id));
    }
    let letters = kafka.read("dead");
    assert_eq!(letters.len(), 2);
    for ((key, headers, letter), stored) in letters.iter().zip(&stored.letters) {
        assert_eq!(*key, format!("payments/{}/{}", stored.partition, stored.position));
        assert_eq!(headers["reason"], "bad_json");
        assert_eq!(*letter, serde_json::to_value(stored).unwrap());
    }
}

#[test]
fn a_request_whose_dead_letter_a_sink_is_to_have_is_answered() {
    let kafka = Kafka::start();
    kafka.create("shop.public.transactions", PARTITIONS);
    kafka.create("dead", 1);
    let sink = format!(
        "[[sink]]\nname = \"dead\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"dead\"\nwhat = \"dead_letters\"\n",
        kafka.brokers()
    );
    let place = Place::new(&on_topic(&kafka, &sink));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let mut event = crate::place::row(7, 0, 3, "1.00");
    for (id, time) in [(7, "2999-01-01T00:00:00Z"), (8, "2025-06-15T15:06:40Z"), (9, "2999-01-01T00:00:00Z")] {
        (event["transaction_id"], event["tx_datetime"]) = (id.into(), time.into());
        let (status, answer) = caller.post("/v1/decisions", &serde_json::json!({ "event": event }));
        assert_eq!(status, 200, "{answer}");
    }
    process.stop();
    assert_eq!(place.remains().decisions.len(), 3);
    assert_eq!(kafka.read("dead").len(), 2);
}

#[test]
fn a_topic_that_is_missing_ends_the_run_with_what_to_do() {
    let kafka = Kafka::start();
    let log = Place::new(&on_topic(&kafka, "")).fail("run");
    assert!(log.contains("there is no topic 'shop.public.transactions'"), "{log}");
    assert!(log.contains("create it"), "{log}");
}

/// Definitions whose store is a Redis.
pub(crate) fn over_redis(redis: &RedisServer, config: &str) -> String {
    at_redis(&redis.url(), config)
}

/// A configuration with its store in the Redis at `url` instead of a folder.
pub(crate) fn at_redis(url: &str, config: &str) -> String {
    let store = format!("type = \"redis\"\nurl = \"{url}\"\nwait = \"2s\"\nlease = \"1s\"\n");
    let embedded = config.split_once("[store]\n").unwrap().1.lines().next().unwrap();
    config.replacen(&format!("[store]\n{embedded}\n"), &format!("[store]\n{store}"), 1)
}

#[test]
fn one_process_without_a_role_reads_topics_into_a_redis() {
    let (kafka, redis) = (Kafka::start(), RedisServer::start());
    kafka.create("shop.public.transactions", PARTITIONS);
    let place = Place::new(&over_redis(&redis, &on_topic(&kafka, "")));
    let mut process = place.start("run");
    process.wait_for("serving");
    let said = place.fail("run");
    assert!(said.contains("another process without --role works on this namespace"), "{said}");
    process.kill();
    let mut process = place.start("run");
    process.wait_for("serving");
    process.terminate();
    assert!(process.end().0.success());
}

/// What a metric of the sources `payments` says.
fn metric(caller: &Caller, name: &str) -> Option<f64> {
    let (_, metrics) = caller.try_send("GET", "/metrics", &[], "")?;
    let line = format!("interdict_ingest_topic_{name}{{source=\"payments\"}} ");
    metrics.lines().find_map(|found| found.strip_prefix(line.as_str())?.parse().ok())
}

/// Records of all partitions of the source `payments` that wait, and the highest of their lags in seconds.
fn lag(caller: &Caller) -> Option<(f64, f64)> {
    let (_, metrics) = caller.try_send("GET", "/metrics", &[], "")?;
    let of = |name: &str| -> Vec<f64> {
        let start = format!("interdict_ingest_topic_lag_{name}{{source=\"payments\",partition=");
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(start.as_str())?.rsplit_once(' '));
        lines.map(|(_, value)| value.parse().unwrap()).collect()
    };
    Some((of("records").iter().sum(), of("seconds").into_iter().fold(0.0, f64::max)))
}

#[test]
fn what_waits_in_a_topic_is_shown_while_the_store_is_away() {
    let (kafka, mut redis) = (Kafka::start(), RedisServer::start());
    kafka.create("shop.public.transactions", PARTITIONS);
    let place = Place::new(&over_redis(&redis, &on_topic(&kafka, "")).replace("wait = \"2s\"", "wait = \"100ms\""));
    connect(&kafka, "shop.public.transactions", &history(1..50));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    wait_for(&caller, 1..50);
    caller.until(|caller| (lag(caller) == Some((0.0, 0.0))).then_some(()));

    redis.kill();
    let mut last = 50;
    caller.until(|caller| {
        connect(&kafka, "shop.public.transactions", &history(last..last + 5));
        last += 5;
        lag(caller).filter(|(records, seconds)| *records > 0.0 && *seconds > 0.0)
    });
    // What the reader was not asked for is there to be seen, and so is what still comes.
    let (before, age) = lag(&caller).unwrap();
    connect(&kafka, "shop.public.transactions", &history(last..last + 100));
    caller.until(|caller| lag(caller).filter(|(records, seconds)| *records >= before + 100.0 && *seconds > age));
    redis.begin();
    wait_for(&caller, last + 99..last + 100);
    caller.until(|caller| (lag(caller) == Some((0.0, 0.0))).then_some(()));
    process.stop();
}

#[test]
fn a_topic_without_records_is_waited_for() {
    let kafka = Kafka::start();
    kafka.create("shop.public.transactions", PARTITIONS);
    let place = Place::new(&on_topic(&kafka, ""));
    let mut process = place.start("run");
    let said = process.wait_for("the topic holds no record yet");
    assert!(said.contains("see that they are produced to this topic of these brokers"), "{said}");
    let caller = Caller::new(&process.address());
    caller.until(|caller| (metric(caller, "partitions") == Some(4.0)).then_some(()));
    assert_eq!(metric(&caller, "records_total"), Some(0.0));
    connect(&kafka, "shop.public.transactions", &history(1..20));
    wait_for(&caller, 1..20);
    process.stop();
}

#[test]
fn what_cannot_be_read_from_a_topic_is_told_and_the_rest_goes_on() {
    let kafka = Kafka::start();
    kafka.create("shop.public.transactions", PARTITIONS);
    let place = Place::new(&on_topic(&kafka, ""));
    let broken = |line: String| Change { id: 0, customer: 1, line };
    let payment = |id: i64| debezium("c", id.unsigned_abs(), &row(id, id, 1, "10.00"));
    let mut changes = history(1..50);
    changes.insert(10, broken("no json".to_owned()));
    changes.insert(20, broken(payment(901).replace("\"transactions\"", "\"orders\"")));
    changes.insert(30, broken(payment(902).replace("\"10.00\"", "\"A+g=\"")));
    connect(&kafka, "shop.public.transactions", &changes);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    wait_for(&caller, 1..50);
    assert_eq!(metric(&caller, "dead_letters_total"), Some(3.0));
    assert_eq!(metric(&caller, "records_total"), Some(changes.len() as f64));
    process.stop();
    let letters = place.letters();
    let told = |reason: &str| {
        let letter = letters.iter().find(|letter| letter.reason.code() == reason).expect("a letter");
        assert_eq!(letter.partition, 1);
        letter.detail.clone()
    };
    assert_eq!(letters.len(), 3);
    assert!(told("bad_json").contains("JSON"), "{letters:?}");
    assert!(told("unknown_table").contains("orders"), "{letters:?}");
    assert!(told("decimal_mode_unknown").contains("write decimals = \"precise\""), "{letters:?}");
}

#[test]
fn a_broker_that_goes_away_is_waited_for_while_decisions_go_on() {
    let kafka = Kafka::start();
    kafka.create("shop.public.transactions", PARTITIONS);
    let place = Place::new(&on_topic(&kafka, ""));
    connect(&kafka, "shop.public.transactions", &history(1..100));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    wait_for(&caller, 1..100);
    assert_eq!(metric(&caller, "connected"), Some(1.0));
    drop(kafka);
    let said = process.wait_for("no broker is connected");
    assert!(said.contains("it is tried again"), "{said}");
    caller.until(|caller| (metric(caller, "reconnects_total")? >= 1.0).then_some(()));
    caller.until(|caller| (metric(caller, "connected")? < 1.0).then_some(()));
    let event = json!({ "transaction_id": 700, "tx_datetime": "2025-06-15T15:20:00Z", "customer_id": 7, "terminal_id": 1, "amount": 9.0 });
    let (status, answer) = caller.post("/v1/decisions", &json!({ "event": event }));
    assert_eq!(status, 200, "{answer}");
    process.stop();
    let remains = place.remains();
    assert_eq!((remains.decisions.len(), remains.letters.len()), (100, 0));
}

#[test]
fn a_broker_that_nobody_reaches_ends_the_run_with_what_to_do() {
    let kafka = Kafka::start();
    let config = on_topic(&kafka, "").replace(&kafka.brokers(), "127.0.0.1:1");
    let place = Place::new(&config);
    let mut process = place.start("run");
    process.wait_for("the broker is tried again");
    let caller = Caller::new(&process.address());
    caller.until(|caller| (metric(caller, "reconnects_total")? >= 1.0).then_some(()));
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("no broker at 127.0.0.1:1 answers"), "{log}");
    assert!(log.contains("see that it runs, that the address is right"), "{log}");
}
