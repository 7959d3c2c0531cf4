//! Keys of several columns, with every sign in them.

use serde_json::{Value, json};

use crate::place::{Caller, Place};

const CONFIG: &str = r#"
[stream.payments]
id = "id"
time = "at"
columns = { id = "int64", at = "timestamp", bank = "string", account = "string", amount = "decimal(2)" }

[entity.account]
key = ["bank", "account"]

[[group]]
name = "spend"
entity = "account"
windows = ["1d"]
features = { count = "count()" }

[scorer]
default = "approve"

[store]
path = "data"

[http]
bind = "127.0.0.1:0"
deadline = "20s"
"#;

fn decide(caller: &Caller, id: i64, [bank, account]: [&str; 2]) -> Value {
    let event = json!({ "id": id, "at": "2026-01-01T00:00:00Z", "bank": bank, "account": account, "amount": "1.00" });
    let (status, answer) = caller.post("/v1/decisions", &json!({ "event": event }));
    assert_eq!(status, 200, "{answer}");
    answer["decision"].clone()
}

#[test]
fn a_block_binds_the_key_it_names_and_no_other() {
    let place = Place::new(CONFIG);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let (status, set) = caller.post(
        "/v1/blocks",
        &json!({ "list": "manual_block", "entity": "account", "key": ["a|b", "c"], "reason": "stolen" }),
    );
    assert_eq!(status, 200, "{set}");
    for (id, stranger) in (1..).zip([["a", "b|c"], ["a|b", "C"], ["a|b|c", ""], ["a\\", "b|c"], ["a\\|b", "c"]]) {
        assert_eq!(decide(&caller, id, stranger)["outcome"], "approve", "{stranger:?}");
    }
    let blocked = decide(&caller, 100, ["a|b", "c"]);
    assert_eq!((&blocked["outcome"], &blocked["decided_by"]), (&json!("block"), &json!("list")), "{blocked}");
    // The text that records and lists show names it again.
    let shown = json!({ "shown_key": set["entry"]["entity"]["key"], "as_of": "2026-01-01T00:00:01Z" });
    let (_, read) = caller.post("/v1/entities/account", &shown);
    assert_eq!((&read["state"], &read["features"][0]["value"]), (&json!("blocked"), &json!(1)), "{read}");
    process.terminate();
    assert!(process.end().0.success());
}
