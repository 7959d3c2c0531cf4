//! Decisions, labels and lists over HTTP, on a running process.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use interdict_features::decision::Outcome;
use serde_json::{Value, json};

use crate::place::{Caller, DEFINITIONS, Place, Process, debezium, row};

pub(crate) fn config(more: &str) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n{more}"
    )
}

/// A running process over a followed file with one payment of customer 1 in it.
pub(crate) fn serving(config: &str) -> (Place, Process, Caller) {
    let place = Place::new(config);
    place.write("live.jsonl", debezium("c", 1, &row(1, 0, 1, "10.00")));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    caller.until(|caller| (counted(caller, 1, "1d") == json!(1)).then_some(()));
    (place, process, caller)
}

pub(crate) fn event(id: i64, second: i64, customer: i64, amount: &str) -> Value {
    let time = jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + second * 1_000_000).unwrap();
    json!({ "event": {
        "transaction_id": id, "tx_datetime": time.to_string(), "customer_id": customer, "terminal_id": customer % 7,
        "amount": amount,
    }})
}

pub(crate) fn entity(caller: &Caller, entity: &str, key: i64, second: i64) -> Value {
    let time = jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + second * 1_000_000).unwrap();
    let (status, answer) =
        caller.post(&format!("/v1/entities/{entity}"), &json!({ "key": key, "as_of": time.to_string() }));
    assert_eq!(status, 200, "{answer}");
    answer
}

pub(crate) fn feature(features: &Value, name: &str) -> Value {
    let found = features.as_array().unwrap().iter().find(|feature| feature["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {features}"))["value"].clone()
}

/// How many payments a customer made in a window that ends an hour after the beginning.
pub(crate) fn counted(caller: &Caller, customer: i64, window: &str) -> Value {
    let answer = entity(caller, "customer", customer, 3_600);
    feature(&answer["features"], &format!("customer_spend.tx_count_{window}"))
}

#[test]
fn a_request_and_its_change_are_one_event_and_one_decision() {
    let (place, process, caller) = serving(&config(""));
    let body = event(2, 60, 1, "20.00");
    let (status, first) = caller.send("POST", "/v1/decisions", &[("idempotency-key", "a")], &body);
    assert_eq!(status, 200, "{first}");
    assert_eq!(first["decision"]["outcome"], "approve");
    assert_eq!((&first["unlogged"], &first["replayed"]), (&json!(false), &json!(false)));
    assert_eq!(feature(&first["decision"]["features"], "customer_spend.tx_count_1d"), json!(2), "its own event once");

    let (status, again) = caller.send("POST", "/v1/decisions", &[("idempotency-key", "a")], &body);
    assert_eq!((status, &again["replayed"]), (200, &json!(true)));
    assert_eq!(again["decision"], first["decision"]);
    let (status, other) = caller.send("POST", "/v1/decisions", &[("idempotency-key", "a")], &event(3, 61, 1, "20.00"));
    assert_eq!(status, 422, "{other}");

    // The database tells the row with another amount, then one that is new; the request's row is replaced, not counted again.
    place.append("live.jsonl", debezium("c", 2, &row(2, 60, 1, "30.00")));
    place.append("live.jsonl", debezium("c", 3, &row(4, 62, 9, "30.00")));
    caller.until(|caller| (counted(caller, 9, "1d") == json!(1)).then_some(()));
    assert_eq!(counted(&caller, 1, "1d"), json!(2));
    let customer = entity(&caller, "customer", 1, 3_600);
    assert_eq!(feature(&customer["features"], "customer_spend.amount_avg_1d"), json!(20.0), "(10 + 30) / 2");
    assert_eq!(customer["known"], json!(true));
    assert_eq!(customer["decisions"].as_array().unwrap().len(), 2, "payments 1 and 2: {customer}");
    let id = first["decision"]["decision_id"].as_str().unwrap();
    assert_eq!(caller.get(&format!("/v1/decisions/{id}")).1["decision"], first["decision"]);

    let unknown = entity(&caller, "customer", 77, 3_600);
    assert_eq!((&unknown["known"], &unknown["state"]), (&json!(false), &json!("none")));
    assert_eq!(feature(&unknown["features"], "customer_spend.tx_count_1d"), json!(0));
    assert_eq!(caller.post("/v1/entities/nobody", &json!({ "key": 1 })).0, 404);

    let (_, metrics) = caller.get("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics.contains("interdict_scorer_decisions_total{outcome=\"approve\",decided_by=\"rules\"}")
            || metrics.contains("interdict_scorer_decisions_total{outcome=\"approve\",decided_by=\"default\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("interdict_ingest_events_total"), "{metrics}");
    assert_eq!(caller.get("/health/ready").0, 200);
    process.stop();
    assert_eq!(place.remains().decisions.len(), 3);
}

#[test]
fn labels_count_after_their_delay_whenever_they_come() {
    let (place, process, caller) = serving(&config(""));
    let reported = |second: i64| jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + second * 1_000_000).unwrap();
    let label = |id: i64, second: i64| {
        let (status, answer) = caller
            .post("/v1/labels", &json!({ "id": id, "value": "fraud", "reported_at": reported(second).to_string() }));
        assert!((200..300).contains(&status), "{answer}");
    };
    label(1, 600);
    label(5, 700);
    place.append("live.jsonl", debezium("c", 5, &row(5, 100, 8, "30.00")));
    caller.until(|caller| (counted(caller, 8, "1d") == json!(1)).then_some(()));
    // Payments 1 and 5 were made at terminal 1; its windows end an hour back, and both labels were known by then.
    let early = entity(&caller, "terminal", 1, 1_000);
    assert_eq!(feature(&early["features"], "terminal_risk.tx_count_1d"), json!(0));
    let late = entity(&caller, "terminal", 1, 5_000);
    assert_eq!(feature(&late["features"], "terminal_risk.tx_count_1d"), json!(2));
    assert_eq!(feature(&late["features"], "terminal_risk.fraud_ratio_1d"), json!(1.0));

    // What the process has not stored yet comes back from its input log.
    process.kill();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let late = caller.until(|caller| {
        let late = entity(caller, "terminal", 1, 5_000);
        (feature(&late["features"], "terminal_risk.tx_count_1d") == json!(2)).then_some(late)
    });
    assert_eq!(feature(&late["features"], "terminal_risk.fraud_ratio_1d"), json!(1.0));
}

#[test]
fn blocks_bind_the_next_decision() {
    let (place, process, caller) = serving(&config(""));
    let block = json!({ "list": "manual_block", "entity": "customer", "key": 5, "reason": "stolen card" });
    let (status, answer) = caller.post("/v1/blocks", &block);
    assert!((200..300).contains(&status), "{answer}");
    let (_, blocked) = caller.post("/v1/decisions", &event(50, 60, 5, "1.00"));
    assert_eq!(blocked["decision"]["outcome"], "block");
    assert_eq!(blocked["decision"]["decided_by"], "list");
    assert_eq!(blocked["decision"]["reasons"][0]["text"], "stolen card");
    assert_eq!(entity(&caller, "customer", 5, 3_600)["state"], "blocked");
    let (status, answer) = caller.send("DELETE", "/v1/blocks", &[], &block);
    assert!((200..300).contains(&status), "{answer}");
    assert_eq!(caller.post("/v1/decisions", &event(51, 61, 5, "1.00")).1["decision"]["outcome"], "approve");

    // Seven payments of customer 6 in one piece: the sixth is blocked by a rule, the seventh because of that.
    let burst: String =
        (0..7).map(|n| debezium("c", 100 + n, &row(100 + n as i64, 120 + n as i64, 6, "5.00"))).collect();
    place.append("live.jsonl", burst);
    caller.until(|caller| (counted(caller, 6, "1d") == json!(7)).then_some(()));
    let customer = caller.until(|caller| {
        let customer = entity(caller, "customer", 6, 3_600);
        (customer["decisions"].as_array().unwrap().len() == 7).then_some(customer)
    });
    let decisions = customer["decisions"].as_array().unwrap();
    let of = |id: &str| decisions.iter().find(|decision| decision["event_id"] == id).unwrap();
    assert_eq!((&of("104")["outcome"], &of("104")["decided_by"]), (&json!("approve"), &of("103")["decided_by"]));
    assert_eq!((&of("105")["outcome"], &of("105")["decided_by"]), (&json!("block"), &json!("rules")));
    assert_eq!((&of("106")["outcome"], &of("106")["decided_by"]), (&json!("block"), &json!("list")));
    assert_eq!(customer["lists"][0]["list"], "automatic_block");

    // The list outlives the process, and an unblocking as well.
    process.kill();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let (_, next) = caller.post("/v1/decisions", &event(107, 130, 6, "5.00"));
    assert_eq!((&next["decision"]["outcome"], &next["decision"]["decided_by"]), (&json!("block"), &json!("list")));
    assert_eq!(caller.post("/v1/decisions", &event(52, 140, 5, "1.00")).1["decision"]["outcome"], "approve");
}

#[test]
fn a_deadline_is_kept_and_its_answer_is_what_is_stored() {
    let (place, process, caller) = serving(&config(""));
    // While the engine works off thousands of payments, callers who will not wait are answered by default.
    let work: String = (200..24_200)
        .map(|n| debezium("c", n, &row(n.cast_signed(), 10, 11 + n.cast_signed() % 500, "5.00")))
        .collect();
    place.append("live.jsonl", work);
    let mut asked = 0;
    loop {
        let body = event(1_000_000 + asked, 60, 7, "1.00");
        let (status, answer) = caller.send("POST", "/v1/decisions", &[("x-deadline-ms", "20")], &body);
        asked += 1;
        assert!(asked < 2_000, "the engine is never too busy");
        if status == 503 && answer["error"]["code"] == "deadline" {
            // Not even what is stored could be looked up in time; nothing was told.
            continue;
        }
        assert_eq!(status, 200, "{answer}");
        let decision = &answer["decision"];
        let id = decision["decision_id"].as_str().unwrap();
        let stored = caller.until(|caller| {
            let (status, stored) = caller.get(&format!("/v1/decisions/{id}"));
            (status == 200).then_some(stored)
        });
        assert_eq!(stored["decision"], *decision);
        if answer["unlogged"] == json!(true) {
            // The sixth payment within a day has blocked the customer, which binds what is told without the engine as well.
            let told = (&decision["decided_by"], &decision["outcome"]);
            let is_blocked = told == (&json!("list"), &json!("block"));
            assert!(is_blocked || (asked <= 6 && told == (&json!("default"), &json!("review"))), "{answer}");
            break;
        }
    }
    assert_eq!(counted(&caller, 7, "1d"), json!(asked), "it counts all the same");
    assert!(caller.get("/metrics").1.as_str().unwrap().contains("interdict_scorer_unlogged_answers_total"));
    let large = event(61, 61, 7, &"1".repeat(70_000));
    assert_eq!(caller.apart().post("/v1/decisions", &large).0, 413);
    let (status, answer) = caller.post("/v1/decisions", &json!({ "event": { "transaction_id": 62 } }));
    assert!((400..500).contains(&status), "{answer}");
    caller.until(|caller| (counted(caller, 11, "1d") == json!(48)).then_some(()));
    process.terminate();
    assert!(process.end().0.success());
    assert_eq!(place.remains().decisions.len(), 24_001 + usize::try_from(asked).unwrap());
}

#[test]
fn what_was_answered_before_a_kill_is_there_afterwards() {
    let place = Place::new(&config("[engine]\ncheckpoint = \"50ms\"\n"));
    place.write("live.jsonl", debezium("c", 1, &row(1, 0, 1, "10.00")));
    let mut answered: Vec<(i64, Value)> = Vec::new();
    let mut next = 1_000;
    for round in 0..8 {
        let mut process = place.start("run");
        let address = process.address();
        let caller = Caller::new(&address);
        for (id, record) in answered.iter().rev().take(3) {
            let decision = record["decision_id"].as_str().unwrap();
            assert_eq!(caller.get(&format!("/v1/decisions/{decision}")).1["decision"], *record, "round {round}");
            let (status, again) = caller.post("/v1/decisions", &event(*id, 60 + id - 1_000, 2 + id % 3, "1.00"));
            assert_eq!((status, &again["replayed"], &again["decision"]), (200, &json!(true), record), "round {round}");
        }
        let first = next;
        next += 40;
        let asking = std::thread::spawn(move || {
            let caller = Caller::new(&address);
            let ask = |id: i64| {
                let body = event(id, 60 + id - 1_000, 2 + id % 3, "1.00").to_string();
                let (status, text) = caller.try_send("POST", "/v1/decisions", &[], &body)?;
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(status, 200, "{answer}");
                Some((id, answer["decision"].clone()))
            };
            (first..first + 40).map_while(ask).collect::<Vec<_>>()
        });
        process.work(std::time::Duration::from_millis(7 * (round + 1)));
        process.kill();
        answered.extend(asking.join().unwrap());
    }
    assert!(answered.len() > 8, "{} answered", answered.len());
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    for id in 1_000..next {
        let (status, answer) = caller.post("/v1/decisions", &event(id, 60 + id - 1_000, 2 + id % 3, "1.00"));
        assert_eq!(status, 200, "{answer}");
        if let Some((_, record)) = answered.iter().find(|(answered, _)| *answered == id) {
            assert_eq!((&answer["replayed"], &answer["decision"]), (&json!(true), record));
        }
    }
    let sum: i64 = (2..5).map(|customer| counted(&caller, customer, "1d").as_i64().unwrap()).sum();
    assert_eq!(sum, next - 1_000, "each request counts once");
    process.terminate();
    assert!(process.end().0.success());
    let events = usize::try_from(next - 1_000).unwrap() + 1;
    assert_eq!(place.remains().decisions.len(), events);
}

#[test]
fn a_request_that_is_not_judged_says_so_and_survives_a_kill() {
    let conditional = config("").replace("judge = \"insert\"", "judge = \"after.amount > 50.0\"");
    let (place, process, caller) = serving(&conditional);
    let key = [("idempotency-key", "k")];
    let not_judged = json!({ "judged": false, "decision": null, "unlogged": false, "replayed": false });
    for _ in 0..2 {
        let answer = caller.send("POST", "/v1/decisions", &key, &event(2, 60, 1, "20.00"));
        assert_eq!(answer, (200, not_judged.clone()));
    }
    assert_eq!(counted(&caller, 1, "1d"), json!(2));
    process.kill();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    assert_eq!(counted(&caller, 1, "1d"), json!(2), "what a read has shown is not forgotten");
    let (status, answer) = caller.send("POST", "/v1/decisions", &key, &event(3, 60, 1, "20.00"));
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("idempotency_key_reused")), "{answer}");
    // Its row is judged once the condition holds; from then on there is a decision to be had.
    place.append("live.jsonl", debezium("u", 2, &row(2, 60, 1, "70.00")));
    let judged = caller.until(|caller| {
        let (status, answer) = caller.send("POST", "/v1/decisions", &key, &event(2, 60, 1, "20.00"));
        assert_eq!(status, 200, "{answer}");
        (answer["judged"] == true).then_some(answer)
    });
    assert_eq!((&judged["replayed"], &judged["decision"]["event"]["amount"]), (&json!(true), &json!(70.0)), "{judged}");
    process.terminate();
    assert!(process.end().0.success());
}

#[test]
fn a_row_that_comes_twice_in_one_batch_blocks_nobody_by_its_second_judgement() {
    let append_only = DEFINITIONS
        .replace("label = \"is_fraud\"", "append_only = true")
        .replace(", fraud_ratio = \"share(label)\"", "");
    let place = Place::new(&format!(
        "{append_only}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n"
    ));
    // Four payments, then the fifth (id 5), a late one before it (id 6), and the fifth again, which is the sixth by now. Id 7 comes days later.
    let payments = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 10), (6, 5), (5, 10), (7, 200_000)];
    let lines = (1..).zip(payments).map(|(lsn, (id, second))| debezium("c", lsn, &row(id, second, 6, "5.00")));
    place.write("live.jsonl", lines.collect::<String>());
    place.run("run");
    let remains = place.remains();
    assert_eq!(remains.decisions.len(), 7);
    let outcome = |id: &str| remains.decisions.values().find(|record| record.event_id == id).unwrap().outcome;
    assert_eq!((outcome("5"), outcome("7")), (Outcome::Approve, Outcome::Approve));
    assert!(remains.lists.is_empty(), "{:?}", remains.lists);
}

#[test]
fn a_request_over_the_limit_is_turned_away_while_another_one_is_held() {
    let (_place, process, caller) = serving(&config("requests_max = 1\n"));
    let body = event(2, 60, 1, "20.00").to_string();
    let mut held = TcpStream::connect(caller.address()).unwrap();
    let head = format!(
        "POST /v1/decisions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    held.write_all(head.as_bytes()).unwrap();
    // The process asks for the body: the request is being answered.
    let mut asked = [0; 25];
    held.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (status, answer) = caller.post("/v1/decisions", &event(3, 61, 1, "20.00"));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("overloaded")), "{answer}");
    assert!(caller.get("/metrics").1.as_str().unwrap().contains("interdict_scorer_http_shed_total 1"));
    held.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    held.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(caller.post("/v1/decisions", &event(3, 61, 1, "20.00")).0, 200);
    process.terminate();
    assert!(process.end().0.success());
}

#[test]
fn a_second_judgement_of_a_requested_event_blocks_nobody() {
    let rule = "[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"an amount over 1000\"\ncondemns = \"customer\"\n";
    let forgetful = config(rule).replace("judge = \"insert\"", "judge = \"insert\"\non_unmatched = \"drop\"");
    let (place, process, caller) = serving(&forgetful);
    let allow = json!({ "list": "allow", "entity": "customer", "key": 6, "reason": "known to us" });
    let (status, answer) = caller.post("/v1/blocks", &allow);
    assert!((200..300).contains(&status), "{answer}");
    let (_, answer) = caller.post("/v1/decisions", &event(200, 60, 6, "2000.00"));
    assert_eq!(answer["decision"]["outcome"], "approve", "{answer}");
    let (status, answer) = caller.send("DELETE", "/v1/blocks", &[], &allow);
    assert!((200..300).contains(&status), "{answer}");
    // Its row comes now that the allow entry is gone, and another payment of the customer behind it.
    let rows = [debezium("c", 200, &row(200, 60, 6, "2000.00")), debezium("c", 201, &row(201, 61, 6, "1.00"))];
    place.append("live.jsonl", rows.concat());
    caller.until(|caller| (counted(caller, 6, "1d") == json!(2)).then_some(()));
    let decisions = entity(&caller, "customer", 6, 3_600)["decisions"].clone();
    let outcomes: Vec<&Value> = decisions.as_array().unwrap().iter().map(|decision| &decision["outcome"]).collect();
    assert_eq!(outcomes, ["approve", "approve"], "{decisions}");
    process.terminate();
    assert!(process.end().0.success());
}

#[test]
fn requests_of_one_round_keep_their_own_keys() {
    let (_place, process, caller) = serving(&config(""));
    let ask = |caller: &Caller, key: &str, id: i64| {
        let (status, _) = caller.send("POST", "/v1/decisions", &[("idempotency-key", key)], &event(id, id, id, "5.00"));
        status
    };
    assert_eq!(ask(&caller, "used", 100), 200);
    // Many at once, so that rounds hold several: per event one with a key of its own and one with a key that another event has.
    let callers: Vec<_> = (0..24_i64)
        .map(|number| {
            let (caller, is_used) = (caller.apart(), number % 2 == 0);
            let key = move |id: i64| if is_used { "used".to_owned() } else { format!("own-{id}") };
            let ids = (0..8).map(move |turn| 200 + number / 2 + 100 * turn);
            std::thread::spawn(move || ids.map(|id| (is_used, ask(&caller, &key(id), id))).collect::<Vec<_>>())
        })
        .collect();
    let given: Vec<(bool, u16)> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    let wrong: Vec<_> = given.iter().filter(|(is_used, status)| *status != if *is_used { 422 } else { 200 }).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(given.len(), 192);
    drop(process);
}
