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
