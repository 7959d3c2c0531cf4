//! Full lists of blocks: intake waits until there is room, and nobody who is blocked gets through meanwhile.

use serde_json::{Value, json};

use crate::place::{Caller, Place, debezium, row};
use crate::requests::{config, counted, event};

fn metric(caller: &Caller, name: &str) -> Option<String> {
    let (_, metrics) = caller.get("/metrics");
    let line = metrics.as_str().unwrap().lines().find(|line| line.starts_with(name)).map(str::to_owned)?;
    line.split_whitespace().last().map(str::to_owned)
}

fn unblock(caller: &Caller, customer: i64) {
    let entry = json!({ "list": "automatic_block", "entity": "customer", "key": customer, "reason": "cleared" });
    let (status, answer) = caller.send("DELETE", "/v1/blocks", &[], &entry);
    assert_eq!((status, &answer["removed"]), (200, &json!(true)), "{answer}");
}

#[test]
fn intake_waits_while_the_lists_are_full_and_goes_on_by_itself() {
    let rule = "[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"an amount over 1000\"\ncondemns = \"customer\"\n";
    let place = Place::new(&config(rule).replace("[scorer]\n", "[scorer]\nlist_entries_max = 2\n"));
    let huge = |id: i64| debezium("c", id.cast_unsigned(), &row(id, id, id, "2000.00"));
    place.write("live.jsonl", [huge(1), huge(2), huge(3)].concat());
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let told = process.wait_for("intake waits");
    assert!(told.contains("list_entries_max"), "{told}");
    assert_eq!(metric(&caller, "interdict_scorer_list_entries"), Some("3".to_owned()), "no block of a batch is lost");
    assert_eq!(metric(&caller, "interdict_scorer_lists_full"), Some("1".to_owned()));
    let (status, ready) = caller.get("/health/ready");
    assert_eq!(status, 503, "{ready}");
    assert!(ready.to_string().contains("lists_full"), "{ready}");

    place.append("live.jsonl", huge(4));
    let (status, answer) = caller.post("/v1/decisions", &event(5, 5, 5, "2000.00"));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("overloaded")), "{answer}");
    let (status, answer) = caller.post("/v1/decisions", &event(2, 2, 2, "2000.00"));
    assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{answer}");
    let manual = json!({ "list": "manual_block", "entity": "customer", "key": 9, "reason": "stolen" });
    assert_eq!(caller.post("/v1/blocks", &manual).0, 503);
    assert_eq!(counted(&caller, 4, "1d"), json!(0), "it waits");

    // Nothing is lost by a restart, and a process that waits can be stopped.
    process.terminate();
    assert!(process.end().0.success());
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("intake waits");
    unblock(&caller, 1);
    unblock(&caller, 2);
    caller.until(|caller| (counted(caller, 4, "1d") == json!(1)).then_some(()));
    process.wait_for("intake waits");
    unblock(&caller, 3);
    unblock(&caller, 4);
    let decided = |answer: &Value| answer["decision"]["outcome"].clone();
    let answer = caller.until(|caller| {
        let (status, answer) = caller.post("/v1/decisions", &event(5, 5, 5, "2000.00"));
        (status == 200).then_some(answer)
    });
    assert_eq!(decided(&answer), "block", "{answer}");
    assert_eq!(metric(&caller, "interdict_scorer_lists_full"), Some("0".to_owned()));
    process.terminate();
    assert!(process.end().0.success());
    assert_eq!(place.remains().decisions.len(), 5);
}
