//! Updates that leave columns out: a database does not send large values that did not change.

use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome};
use serde_json::{Value, json};

use crate::audit::assert_all_equal;
use crate::place::Place;

const CONFIG: &str = r#"
[stream.transactions]
id = "id"
time = "at"
judge = "after.status == 'paid'"
columns = { id = "int64", at = "timestamp", customer = "string", status = "string", agent = "string" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1d"]
features = { n = "count()", agent = "last(agent)" }
[scorer]
default = "review"
[[rule]]
id = "bot"
when = "agent == 'bot'"
outcome = "block"
reason = "no person"
condemns = "customer"
[[action]]
name = "block_customer"
type = "store"
rules = ["bot"]
[source]
name = "payments"
type = "file"
path = "live.jsonl"
format = "debezium"
stream = "transactions"
[store]
path = "data"
[monitor]
log_dir = "decisions"
"#;

fn change(lsn: u64, op: &str, id: u64, status: &str, customer: &str, agent: &str) -> Value {
    let at = format!("2024-01-01T00:00:{lsn:02}Z");
    let after = json!({"id": id, "at": at, "customer": customer, "status": status, "agent": agent});
    json!({"op": op, "before": null, "after": after, "source": {"table": "transactions", "lsn": lsn, "ts_ms": 1_704_067_200_000_u64 + lsn}})
}

#[test]
fn a_judged_update_is_judged_by_its_row_and_not_by_what_it_sent() {
    const UNSENT: &str = "__debezium_unavailable_value";
    let changes = [
        change(1, "c", 1, "new", "c7", "bot"),
        change(2, "u", 1, "paid", "c7", UNSENT),
        change(3, "c", 2, "new", "c7", "phone"),
        change(4, "u", 2, "paid", UNSENT, UNSENT),
    ];
    let place = Place::new(CONFIG);
    place.write("live.jsonl", changes.map(|change| format!("{change}\n")).concat());
    place.run("run --until-end");
    let records: Vec<DecisionRecord> = place.decisions(&place.store()).into_values().collect();
    let of = |event: &str| records.iter().find(|record| record.event_id == event).unwrap();
    let (first, second) = (of("1"), of("2"));
    assert_eq!((first.outcome, first.decided_by), (Outcome::Block, DecidedBy::Rules));
    assert_eq!(first.event["agent"], interdict_features::value::Value::Text("bot".into()));
    assert_eq!((second.outcome, second.decided_by), (Outcome::Block, DecidedBy::List), "{second:?}");
    assert_eq!(second.entities[0].key, "c7");
    assert_eq!(assert_all_equal(&place), 2);
}
