//! Accounts that are blocked in a real database: once, and as the analyst left them, whatever dies in between.

use serde_json::{Value, json};

use crate::bank::Bank;
use crate::place::{Caller, DEFINITIONS, Place, debezium, row};

const LEDGER: &str = "SELECT kind, outcome, entity_key FROM interdict_ledger ORDER BY decided_at";

fn config(bank: &Bank) -> String {
    format!(
        "{DEFINITIONS}\n{}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\n\
         stream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n",
        bank.action()
    )
}

/// Seven payments of a customer, of which the sixth is blocked by rule and the seventh by the list.
fn burst(customer: i64) -> String {
    let place = customer * 100;
    (1..=7).map(|n| debezium("c", (place + n).cast_unsigned(), &row(place + n, place + n, customer, "5.00"))).collect()
}

fn change(caller: &Caller, method: &str, list: &str, customer: i64) -> Value {
    let body = json!({ "list": list, "entity": "customer", "key": customer, "reason": "talked to them" });
    let (status, answer) = caller.send(method, "/v1/blocks", &[], &body);
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn an_account_is_blocked_once_and_an_analysts_unblock_stays() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank));
    place.write("live.jsonl", burst(6));
    let mut process = place.start("run");
    process.wait_for("serving");
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 6", "blocked|1");
    process.kill();

    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    assert_eq!(change(&caller, "DELETE", "automatic_block", 6)["removed"], true);
    process.kill();
    // What the analyst was told is on disk: the unblocking arrives, and the events that are read again change nothing.
    let mut process = place.start("run");
    process.wait_for("serving");
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 6", "active|1");
    process.kill();

    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    bank.crash();
    change(&caller, "POST", "manual_block", 7);
    change(&caller, "POST", "allow", 8);
    process.kill();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    bank.start();
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 7", "blocked|1");
    change(&caller, "DELETE", "manual_block", 7);
    bank.wait_for("SELECT status FROM accounts WHERE id = 7", "active");
    change(&caller, "DELETE", "manual_block", 7);
    bank.wait_for(LEDGER, "block|done|6\nunblock|done|6\nmanual_block|done|7\nunblock|done|7\nunblock|done|7");
    assert_eq!(bank.ask("SELECT count(*) FROM accounts WHERE status <> 'active'"), "0");
    process.stop();
    assert!(place.store().outbox_now(None, 10).unwrap().is_empty());
}

#[test]
fn a_statement_that_cannot_be_right_keeps_the_process_from_starting() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank).replace("UPDATE accounts SET status = 'active'", "UPDATE acounts SET x = 1"));
    place.write("live.jsonl", "");
    let told = place.fail("run");
    assert!(told.contains("block_account") && told.contains("relation \"acounts\" does not exist"), "{told}");
}
