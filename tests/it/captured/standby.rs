//! Two processes without roles on one slot and one Redis: whoever lost the slot decides nothing on what it remembers.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::decision;
use crate::bank::Bank;
use crate::place::{Caller, DEFINITIONS, Place};
use crate::redis_server::RedisServer;
use crate::requests::{counted, event};
use crate::route::Route;
use crate::topics::over_redis;

fn config(bank: &Bank, redis: &RedisServer) -> String {
    let (definitions, monitor) = DEFINITIONS.split_once("[monitor]").unwrap();
    assert!(monitor.len() < 100, "nothing follows it");
    over_redis(
        redis,
        &format!(
            "{definitions}{}\n{}[engine]\ncheckpoint = \"20ms\"\n[http]\nbind = \"127.0.0.1:0\"\n",
            crate::bank::CHARGEBACKS,
            bank.source("interdict")
        ),
    )
}

#[test]
fn who_lost_the_slot_overwrites_nothing_of_who_has_it() {
    let (bank, redis) = (Bank::open(), RedisServer::start());
    let route = Route::to(bank.server().port);
    let config = config(&bank, &redis);
    let direct = format!("localhost:{}/", bank.server().port);
    let first = Place::new(&config.replace(&direct, &format!("localhost:{}/", route.port)));
    let second = Place::new(&config);

    let mut owner = first.start("run");
    let by_owner = Caller::new(&owner.address());
    owner.wait_for("the snapshot is read");
    bank.pay(1, 7, "5.00");
    decision(&by_owner, 1);
    let mut standby = second.start("run");
    let by_standby = Caller::new(&standby.address());
    standby.wait_for("standing by for it");
    let (status, answer) = by_standby.post("/v1/decisions", &event(90, 60, 7, "5.00"));
    assert_eq!(status, 503, "a standby changes nothing: {answer}");
    assert_eq!(by_standby.get("/health/ready").0, 503);
    assert_eq!(counted(&by_standby, 7, "1d"), json!(1), "and reads what is stored");

    route.cut();
    by_standby.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    for payment in 2..=4 {
        bank.pay(payment, 7, "5.00");
        decision(&by_standby, payment);
    }
    route.mend();
    by_owner.until(|caller| match caller.try_send("GET", "/health/ready", &[], "") {
        Some((200, _)) => None,
        _ => Some(()),
    });
    // Its memory is that of one payment.
    let answered = by_owner.try_send("POST", "/v1/decisions", &[], &event(91, 60, 7, "5.00").to_string());
    assert!(answered.is_none_or(|(status, _)| status >= 500), "it decides nothing");
    let (status, log) = owner.end();
    assert!(!status.success() && log.contains("another process has taken over"), "{log}");

    let (status, answer) = by_standby.post("/v1/decisions", &event(92, 60, 7, "5.00"));
    assert_eq!(status, 200, "{answer}");
    standby.work(Duration::from_millis(50));
    standby.terminate();
    assert!(standby.end().0.success());
    let mut again = second.start("run");
    let caller = Caller::new(&again.address());
    caller.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    assert_eq!(counted(&caller, 7, "1d"), json!(5), "four payments and a request");
    again.terminate();
    assert!(again.end().0.success());
}

#[test]
fn what_the_process_before_left_to_be_done_is_done_at_once() {
    let (bank, redis) = (Bank::open(), RedisServer::start());
    let route = Route::to(bank.server().port);
    let rule = "[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"huge\"\ncondemns = \"customer\"\n";
    let acting = |action: &str| config(&bank, &redis).replacen("[engine]", &format!("{rule}{action}[engine]"), 1);
    let direct = format!("localhost:{}/", bank.server().port);
    let first = Place::new(&acting(&bank.action().replace(&direct, &format!("localhost:{}/", route.port))));
    let second = Place::new(&acting(&bank.action()));
    let mut owner = first.start("run");
    let by_owner = Caller::new(&owner.address());
    owner.wait_for("the snapshot is read");
    bank.pay(1, 7, "5.00");
    decision(&by_owner, 1);
    // It decides, and dies before it can act. Who stands by sees what waits, and leaves it to him until then.
    route.cut();
    bank.pay(2, 7, "2000.00");
    decision(&by_owner, 2);
    let mut standby = second.start("run");
    standby.wait_for("standing by for it");
    standby.work(Duration::from_millis(300));
    assert_eq!(bank.ask("SELECT status, blocks FROM accounts WHERE id = 7"), "active|0");
    owner.kill();
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 7", "blocked|1");
    standby.stop();
}

/// Payments from the database, chargebacks from a file that is followed and has a row from the beginning.
fn with_file(config: &str, file: &Path) -> String {
    std::fs::write(file, "transaction_id,is_fraud,reported_at\n1,true,2025-06-15T15:10:00Z\n").unwrap();
    let source = format!(
        "[[source]]\nname = \"reports\"\ntype = \"file\"\npath = {file:?}\nformat = \"csv\"\nstream = \"chargebacks\"\nfollow = true\n"
    );
    let table = ", chargebacks = \"public.chargebacks\"";
    assert!(config.contains(table));
    config.replace(table, "").replace("[engine]", &(source + "[engine]"))
}

#[test]
fn who_has_held_no_slot_yet_takes_nothing_from_who_has_it() {
    let (bank, redis) = (Bank::open(), RedisServer::start());
    let route = Route::to(bank.server().port);
    let folder = tempfile::tempdir().unwrap();
    let config = with_file(&config(&bank, &redis), &folder.path().join("reports.csv"));
    let direct = format!("localhost:{}/", bank.server().port);
    let first = Place::new(&config);
    let second = Place::new(&config.replace(&direct, &format!("localhost:{}/", route.port)));

    let mut owner = first.start("run");
    let by_owner = Caller::new(&owner.address());
    owner.wait_for("the snapshot is read");
    bank.pay(1, 7, "5.00");
    decision(&by_owner, 1);
    // It does not know that another one has the slot, nor could it; its file is at hand.
    route.cut();
    let mut other = second.start("run");
    let by_other = Caller::new(&other.address());
    let (status, answer) = by_other.post("/v1/decisions", &event(90, 60, 7, "5.00"));
    assert_eq!(status, 503, "{answer}");
    let (status, answer) = by_other.post("/v1/labels", &json!({ "id": 1, "value": "fraud" }));
    assert_eq!(status, 503, "{answer}");
    assert_eq!(counted(&by_other, 7, "1d"), json!(1), "it reads what is stored");
    bank.pay(2, 7, "5.00");
    decision(&by_owner, 2);
    let (status, answer) = by_owner.post("/v1/decisions", &event(91, 60, 7, "5.00"));
    assert_eq!(status, 200, "the owner is in charge: {answer}");
    other.terminate();
    let (status, told) = other.end();
    assert!(status.success(), "a source that waits for the slot holds up no end: {told}");

    owner.terminate();
    let (status, log) = owner.end();
    assert!(status.success(), "{log}\n--- the other one\n{told}");
    route.mend();
    let mut heir = second.start("run");
    let by_heir = Caller::new(&heir.address());
    by_heir.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    bank.pay(3, 7, "5.00");
    decision(&by_heir, 3);
    assert_eq!(counted(&by_heir, 7, "1d"), json!(4), "three payments and a request");
    heir.terminate();
    assert!(heir.end().0.success());
}
