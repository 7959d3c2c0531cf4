//! What a person is told when something is wrong with the database, and that nothing is lost meanwhile.
#![expect(clippy::float_cmp, reason = "counters hold whole numbers")]

use serde_json::{Value, json};

use super::{config, decision, metric};
use crate::bank::Bank;
use crate::place::{Caller, Place, Process};

fn serve(place: &Place) -> (Process, Caller) {
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    (process, caller)
}

/// What a process says last: why it ends.
fn last_line(told: &str) -> &str {
    told.lines().next_back().unwrap_or_default().strip_prefix("interdict: ").unwrap_or_default()
}

/// Serves with the snapshot read and stored.
fn begin(place: &Place) {
    let (mut process, _) = serve(place);
    process.wait_for("the snapshot is read");
    process.stop();
}

/// The results of actions under the decision on a payment, once there is one.
fn results(caller: &Caller, payment: i64) -> Value {
    caller.until(|caller| {
        let appended = decision(caller, payment)["appended"].clone();
        (appended.as_array().unwrap().iter().any(|result| result.to_string().contains("block_account")))
            .then_some(appended)
    })
}

#[test]
fn an_analysts_unblock_stays_after_a_kill_and_what_is_read_again() {
    let bank = Bank::open();
    // Nothing is told to be stored before the kill, so everything comes again.
    let place = Place::new(&config(&bank, "interdict", &bank.action()).replace("\"20ms\"", "\"1h\""));
    let (mut process, caller) = serve(&place);
    process.wait_for("the snapshot is read");
    let confirmed = bank.confirmed();
    bank.burst(6);
    let blocked = "SELECT status, blocks FROM accounts WHERE id = 6";
    bank.wait_for(blocked, "blocked|1");
    let entry = json!({ "list": "automatic_block", "entity": "customer", "key": 6, "reason": "talked to them" });
    let (status, answer) = caller.send("DELETE", "/v1/blocks", &[], &entry);
    assert_eq!((status, &answer["removed"]), (200, &json!(true)), "{answer}");
    process.kill();
    for payment in 701..=702 {
        let (process, caller) = serve(&place);
        bank.wait_for(blocked, "active|1");
        decision(&caller, 607);
        bank.pay(payment, 7, "1.00");
        decision(&caller, payment);
        caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == 0.0).then_some(()));
        assert_eq!(metric(&caller, "interdict_scorer_list_entries", ""), 0.0);
        process.kill();
    }
    let (process, caller) = serve(&place);
    bank.pay(799, 7, "1.00");
    decision(&caller, 799);
    process.stop();
    assert!(bank.confirmed() >= confirmed);
    assert_eq!(bank.ask(blocked), "active|1");
    assert_eq!(bank.ask("SELECT kind, outcome FROM interdict_ledger ORDER BY decided_at"), "block|done\nunblock|done");
}

#[test]
fn a_vanished_account_and_a_revoked_right_stop_nothing_and_are_told() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    let (mut process, caller) = serve(&place);
    process.wait_for("the snapshot is read");
    bank.ask("DELETE FROM accounts WHERE id = 9");
    bank.burst(9);
    let told = results(&caller, 906).to_string();
    assert!(told.contains("no row") || told.contains("no account"), "{told}");
    bank.ask("REVOKE UPDATE ON accounts FROM interdict");
    bank.burst(10);
    let told = results(&caller, 1_006).to_string();
    assert!(told.contains("permission denied") && told.contains("grant"), "{told}");
    let rejected = |caller: &Caller| metric(caller, "interdict_scorer_actions_total", "status=\"rejected\"");
    caller.until(|caller| (rejected(caller) == 2.0).then_some(()));
    assert_eq!(caller.get("/health/ready").0, 200);
    process.wait_for("action given up");
    bank.ask("GRANT UPDATE ON accounts TO interdict");
    bank.burst(11);
    bank.wait_for("SELECT id FROM accounts WHERE status = 'blocked'", "11");
    assert_eq!(metric(&caller, "interdict_scorer_outbox_intents", ""), 0.0);
    process.stop();
    assert_eq!(bank.ask("SELECT entity_key, outcome FROM interdict_ledger"), "11|done");
}

#[test]
fn an_amount_that_is_no_number_is_decided_by_default_unless_it_is_history() {
    let bank = Bank::open();
    bank.pay(1, 1, "'NaN'");
    bank.pay(2, 2, "5.00");
    let place = Place::new(&config(&bank, "interdict", ""));
    let (mut process, caller) = serve(&place);
    process.wait_for("the snapshot is read");
    bank.ask(
        "BEGIN; INSERT INTO transactions VALUES (3, '2025-06-15 15:06:41+00', 3, 3, 5); \
              INSERT INTO transactions VALUES (4, '2025-06-15 15:06:41+00', 4, 4, 'NaN'); COMMIT",
    );
    bank.pay(5, 5, "5.00");
    assert_eq!(decision(&caller, 5)["decision"]["decided_by"], "rules");
    assert_eq!(metric(&caller, "interdict_ingest_dead_letters_total", ""), 2.0);
    assert_eq!(metric(&caller, "interdict_ingest_postgres_dead_letters_total", ""), 2.0);
    process.stop();
    let letters = place.letters();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters[0].row.is_none() && letters[0].detail.contains("snapshot"), "{letters:?}");
    assert!(letters[1].row == Some(2) && letters[1].detail.contains("amount"), "{letters:?}");
    let store = place.store();
    let records = place.decisions(&store);
    let mut decided: Vec<String> =
        records.values().map(|record| format!("{:?} {:?}", record.decided_by, record.outcome)).collect();
    decided.sort();
    assert_eq!(decided, ["Default Review", "Rules Approve", "Rules Approve"]);
}

#[test]
fn a_slot_that_was_removed_while_stopped_stops_the_start() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", ""));
    begin(&place);
    bank.pay(1, 1, "5.00");
    bank.wait_for("SELECT active FROM pg_replication_slots", "f");
    bank.ask("SELECT pg_drop_replication_slot('interdict')");
    let before = place.remains();
    for _ in 0..2 {
        let told = place.fail("run");
        assert!(told.contains("replication slot 'interdict' is gone") && told.contains("new namespace"), "{told}");
        assert!(last_line(&told).contains("replication slot 'interdict' is gone"), "{told}");
    }
    assert_eq!(bank.ask("SELECT count(*) FROM pg_replication_slots"), "0", "no new slot hides the gap");
    place.remains().assert_equals(&before);
}

#[test]
fn a_wrong_password_is_told_and_nothing_is_lost() {
    let bank = Bank::open();
    bank.ask("ALTER ROLE interdict PASSWORD 'right'");
    let config = config(&bank, "interdict", "");
    let place = Place::new(&config.replace("heartbeat =", "password_file = \"password\"\nheartbeat ="));
    place.write("password", "right\n");
    std::fs::write(
        bank.server().data().join("pg_hba.conf"),
        "host all postgres localhost trust\nhost all interdict localhost scram-sha-256\n",
    )
    .unwrap();
    bank.ask("SELECT pg_reload_conf()");
    begin(&place);
    bank.pay(1, 1, "5.00");
    place.write("password", "wrong\n");
    let told = place.fail("run");
    assert!(told.contains("refuses role 'interdict'") && told.contains("password_file"), "{told}");
    assert!(last_line(&told).contains("refuses role 'interdict'"), "{told}");
    assert!(!told.contains("wrong\n") && !told.contains("right"), "{told}");
    place.write("password", "right\n");
    let (process, caller) = serve(&place);
    assert_eq!(decision(&caller, 1)["decision"]["outcome"], "approve");
    process.stop();
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    begin(&place);
    bank.pay(1, 1, "5.00");
    bank.crash();
    let (mut process, caller) = serve(&place);
    let told = process.wait_for("not connected; trying again");
    assert!(told.contains("cannot be reached") && told.contains("see that it runs"), "{told}");
    let (status, answer) = caller.get("/health/ready");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.to_string().contains("source_not_reached"), "{answer}");
    bank.start();
    assert_eq!(decision(&caller, 1)["decision"]["outcome"], "approve");
    caller.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    bank.burst(6);
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 6", "blocked|1");
    // Away while it runs, it is waited for just so; requests are still decided by what is known.
    bank.crash();
    process.wait_for("the capture is interrupted");
    assert_eq!(caller.get("/health/ready").0, 200);
    bank.start();
    bank.pay(2, 2, "5.00");
    assert_eq!(decision(&caller, 2)["decision"]["outcome"], "approve");
    assert!(metric(&caller, "interdict_ingest_postgres_reconnects_total", "") >= 1.0);
    process.stop();
}

#[test]
fn a_server_without_room_for_connections_is_waited_for_with_what_to_do() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    let (mut process, caller) = serve(&place);
    process.wait_for("the snapshot is read");
    bank.ask(
        "ALTER ROLE interdict CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'interdict'",
    );
    bank.burst(6);
    let told = process.wait_for("not connected; trying again");
    assert!(told.contains("too many connections") && told.contains("raise max_connections"), "{told}");
    bank.ask("ALTER ROLE interdict CONNECTION LIMIT -1");
    assert_eq!(decision(&caller, 606)["decision"]["outcome"], "block");
    bank.wait_for("SELECT id, status, blocks FROM accounts WHERE blocks > 0", "6|blocked|1");
    assert!(metric(&caller, "interdict_ingest_postgres_reconnects_total", "") >= 1.0);
    process.stop();
}
