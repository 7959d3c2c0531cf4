//! Lists that people change through several scorers at once.

use std::sync::Barrier;

use serde_json::{Value, json};

use super::Fleet;
use crate::place::Caller;

const CUSTOMERS: std::ops::Range<i64> = 100..140;

fn change(caller: &Caller, method: &str, list: &str, customer: i64) -> Value {
    let body = json!({ "list": list, "entity": "customer", "key": customer, "reason": "talked to them" });
    let (status, answer) = caller.send(method, "/v1/blocks", &[], &body);
    assert!((200..300).contains(&status), "{method} {list} of {customer}: {answer}");
    answer
}

#[test]
fn who_takes_the_last_block_away_unblocks_whoever_else_is_at_it() {
    let mut fleet = Fleet::open("lists");
    fleet.begin(0);
    fleet.stored_snapshot("lists");
    fleet.begin_all();
    let (first, last) = (CUSTOMERS.start, CUSTOMERS.end - 1);
    // Eight within a day are a block.
    fleet.bank.ask(&format!(
        "INSERT INTO transactions SELECT c * 100 + n, timestamptz '2025-06-15 15:06:40+00' + interval '1 second' * n, c, 5000 + c, 5 FROM generate_series({first}, {last}) c, generate_series(1, 8) n"
    ));
    for customer in CUSTOMERS {
        fleet.decided("lists", customer * 100 + 8);
    }
    fleet.settle("lists");
    let callers = [fleet.caller(0), fleet.caller(1)];
    CUSTOMERS.for_each(|customer| drop(change(&callers[0], "POST", "manual_block", customer)));
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for (caller, list) in callers.iter().zip(["manual_block", "automatic_block"]) {
            let (caller, both) = (caller.apart(), &both);
            scope.spawn(move || {
                for customer in CUSTOMERS {
                    both.wait();
                    assert_eq!(change(&caller, "DELETE", list, customer)["removed"], true);
                }
            });
        }
    });
    fleet.settle("lists");
    let (_, left) = callers[0].get("/v1/blocks");
    assert_eq!(left["entries"].as_array().map(Vec::len), Some(0), "{left}");
    let blocked = "SELECT count(*) FROM accounts WHERE status <> 'active'";
    assert_eq!(fleet.bank.ask(blocked), "0", "nobody stays blocked whom no list names");
    fleet.end_all();
}

#[test]
fn scorers_judge_nothing_new_while_the_lists_are_full() {
    let mut fleet = Fleet::open("crowded");
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    fleet.place.write("interdict.toml", config.replacen("[scorer]\n", "[scorer]\nlist_entries_max = 2\n", 1));
    let scorer = 2;
    fleet.begin_scoring("crowded", &[scorer]);
    for (customer, full) in [(5, 0), (6, 1)] {
        fleet.condemn(customer);
        fleet.await_block(customer);
        fleet.wait_until("full lists", |fleet| fleet.metric(scorer, "interdict_scorer_lists_full") == Some(full));
    }
    assert_eq!(fleet.metric(scorer, "interdict_scorer_list_entries"), Some(2));
    let caller = fleet.caller(0);
    let (status, ready) = caller.get("/health/ready");
    assert!(status == 503 && ready.to_string().contains("lists_full"), "{ready}");

    let event = |id: i64, customer: i64| {
        json!({ "event": {
            "transaction_id": id, "customer_id": customer, "terminal_id": 1, "tx_datetime": "2025-06-15T15:06:40Z", "amount": 1,
        } })
    };
    let (status, answer) = caller.post("/v1/decisions", &event(999, 9));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("overloaded")), "{answer}");
    let (status, answer) = caller.post("/v1/decisions", &event(507, 5));
    assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{answer}");
    let manual =
        |customer: i64| json!({ "list": "manual_block", "entity": "customer", "key": customer, "reason": "stolen" });
    assert_eq!(caller.post("/v1/blocks", &manual(9)).0, 503);
    fleet.condemn(7);
    fleet.wait_until("work that waits", |fleet| fleet.redis.say(&["XLEN", "{crowded}:work"]) == "8");
    assert_eq!(fleet.decisions("crowded"), 16);

    // It goes on by itself, up to the bound again.
    assert_eq!(change(&caller, "DELETE", "automatic_block", 5)["removed"], true);
    fleet.await_block(7);
    fleet.wait_until("full lists", |fleet| fleet.metric(scorer, "interdict_scorer_list_entries") == Some(2));
    assert_eq!(caller.post("/v1/blocks", &manual(9)).0, 503);
    assert_eq!(change(&caller, "DELETE", "automatic_block", 7)["removed"], true);
    change(&caller, "POST", "manual_block", 9);
    assert_eq!(fleet.redis.say(&["HLEN", "{crowded}:lists"]), "2");
    fleet.end_all();
}
