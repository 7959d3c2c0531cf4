//! Everything that breaks for a while: nothing is lost, nothing is done twice, nobody else waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use interdict_scorer::action::delivery::ActionStatus;

use super::proxy::{self, Break};
use super::rig::{Outbox, Rig, action, until};
use super::server::Server;

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_settled_by_the_ledger() {
    for (at, reason) in [(Break::BeforeCommit, "1 rows changed"), (Break::AfterCommit, "the ledger has it")] {
        let rig = Rig::new(&[]).await;
        let (port, broken) = proxy::open(rig.server.port, at, 3).await;
        let url = format!("postgres://interdict@127.0.0.1:{port}/{}", rig.name);
        // Making the ledger commits too; only acts are to be broken.
        rig.outbox.receivers().check().await.unwrap();
        let outbox = Outbox::new(&action(&url, &[]));
        let id = outbox.decide(1, 7, 90);
        outbox.drain().await;
        assert!(broken.load(Ordering::SeqCst) >= 3, "{at:?}");
        assert_eq!(rig.account(7).await, ("blocked".to_owned(), 1, 0), "{at:?}");
        assert_eq!(rig.ledger(7).await.len(), 1);
        outbox.check_result(id, ActionStatus::Done, reason);
        assert!(outbox.result(id).tries > 1, "{at:?}");
    }
}

#[tokio::test]
async fn a_process_that_dies_within_the_transaction_leaves_it_to_the_next() {
    let rig = Rig::new(&[]).await;
    let id = rig.outbox.decide(1, 7, 90);
    rig.bank.batch_execute("BEGIN; SELECT FROM accounts WHERE id = 7 FOR UPDATE").await.unwrap();
    let watcher = rig.server.connect(&rig.name).await;
    let running = rig.outbox.start();
    until("the statement waits for the row", async || waiting(&watcher).await == 1).await;
    running.die().await;
    until("the session is gone", async || waiting(&watcher).await == 0).await;
    rig.bank.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rig.account(7).await.0, "active");
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 1, 0));
    rig.outbox.check_result(id, ActionStatus::Done, "1 rows changed");
}

/// How many of our sessions wait for a lock.
async fn waiting(watcher: &tokio_postgres::Client) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND usename = 'interdict' AND wait_event_type = 'Lock'";
    watcher.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_locked_account_keeps_no_other_waiting() {
    let rig = Rig::new(&[("connections", "2"), ("timeout", "\"200ms\"")]).await;
    let locked = rig.outbox.decide(1, 7, 90);
    rig.bank.batch_execute("BEGIN; SELECT FROM accounts WHERE id = 7 FOR UPDATE").await.unwrap();
    for number in 2..=6_u64 {
        rig.outbox.decide(number, 7, 90 + number.cast_signed());
    }
    for number in 10..=19_u64 {
        rig.outbox.decide(number, number.cast_signed(), 90);
    }
    let running = rig.outbox.start();
    rig.outbox.wait_left(6).await;
    let left = rig.outbox.store.outbox_now(None, 100).unwrap();
    assert!(left.iter().all(|(_, intent)| intent.payload.contains("\"key\":\"7\"")), "{left:?}");
    let watcher = rig.server.connect(&rig.name).await;
    until("it is tried again", async || running.has_retried()).await;
    assert!(waiting(&watcher).await <= 1, "the others of the account stand behind the first");
    rig.bank.batch_execute("COMMIT").await.unwrap();
    rig.outbox.wait_empty().await;
    running.end().await;
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 6, 0));
    assert!(rig.outbox.result(locked).tries > 1);
}

#[tokio::test]
async fn sessions_that_are_killed_are_opened_anew() {
    let rig = Rig::new(&[]).await;
    let running = rig.outbox.start();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND usename = 'interdict'";
    for number in 1..=60_u64 {
        rig.outbox.decide(number, (number % 20 + 1).cast_signed(), number.cast_signed());
        running.wake();
        if number % 3 == 0 {
            rig.bank.query_one(kill, &[]).await.unwrap();
        }
    }
    rig.outbox.wait_empty().await;
    running.end().await;
    let sums = rig.bank.query_one(
        "SELECT sum(blocks), min(blocks), (SELECT count(*) FROM interdict_ledger WHERE outcome = 'done') FROM accounts",
        &[],
    );
    let sums = sums.await.unwrap();
    assert_eq!((sums.get::<_, i64>(0), sums.get::<_, i32>(1), sums.get::<_, i64>(2)), (60, 3, 60));
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_gets_everything_once() {
    let server = Arc::new(Server::start("localhost"));
    let rig = Rig::on(Arc::clone(&server), &[]).await;
    let running = rig.outbox.start();
    for number in 1..=20_u64 {
        rig.outbox.decide(number, number.cast_signed(), 90);
    }
    running.wake();
    rig.outbox.wait_left(15).await;
    server.crash();
    for number in 21..=40_u64 {
        rig.outbox.decide(number, (number - 20).cast_signed(), 91);
    }
    running.wake();
    until("it is tried in vain", async || running.has_retried()).await;
    server.resume();
    rig.outbox.wait_empty().await;
    running.end().await;
    let bank = server.connect(&rig.name).await;
    let sums = bank.query_one("SELECT min(blocks), max(blocks), count(*) FROM accounts", &[]).await.unwrap();
    assert_eq!((sums.get::<_, i32>(0), sums.get::<_, i32>(1), sums.get::<_, i64>(2)), (2, 2, 20));
}

/// Has a trigger raise errors, whose count survives the rollback.
async fn fail(rig: &Rig) {
    let made = rig.bank.batch_execute(
        "CREATE SEQUENCE count; GRANT ALL ON SEQUENCE count TO interdict; CREATE TABLE code AS SELECT ''::text AS code, 0 AS times; \
         GRANT SELECT ON code TO interdict; \
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF nextval('count') <= (SELECT times FROM code) THEN \
             RAISE EXCEPTION USING ERRCODE = (SELECT code.code FROM code), MESSAGE = 'no'; \
           END IF; RETURN NEW; END $$; \
         CREATE TRIGGER fail BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    made.await.unwrap();
}

/// Has the next `times` blocks fail with `code`.
async fn raise(rig: &Rig, code: &str, times: u32) {
    let set = format!("UPDATE code SET code = '{code}', times = {times}; ALTER SEQUENCE count RESTART");
    rig.bank.batch_execute(&set).await.unwrap();
}

#[tokio::test]
async fn what_passes_is_tried_again_and_counted() {
    let rig = Rig::new(&[]).await;
    let codes =
        ["40001", "40P01", "53100", "53200", "53300", "25006", "55P03", "57014", "57P01", "58030", "08006", "XX000"];
    fail(&rig).await;
    for (number, code) in (1_u64..).zip(codes) {
        raise(&rig, code, 2).await;
        let id = rig.outbox.decide(number, number.cast_signed(), 90);
        let running = rig.outbox.start();
        rig.outbox.wait_empty().await;
        let shown = running.scrape();
        running.end().await;
        assert!(shown.contains("interdict_scorer_action_retries_total{action=\"block\"} 2"), "{code}: {shown}");
        let result = rig.outbox.result(id);
        assert_eq!((result.status, result.tries), (ActionStatus::Done, 3), "{code}: {result:?}");
        assert_eq!(rig.account(number.cast_signed()).await.1, 1, "{code}");
    }
}

#[tokio::test]
async fn what_passes_says_what_to_do_and_that_acts_go_on() {
    // What is told at the last try is told at each.
    let rig = Rig::new(&[("give_up_after", "\"1s\"")]).await;
    fail(&rig).await;
    for (number, (code, advice)) in (1_u64..).zip([
        ("53100", "free space on the database's disk"),
        ("53200", "more memory"),
        ("53300", "raise max_connections"),
        ("25006", "name the primary in 'url'"),
        ("57P01", "who stopped the server"),
        ("57P03", "starting, stopping or recovering"),
        ("58030", "see the database's disk"),
    ]) {
        raise(&rig, code, u32::MAX >> 1).await;
        check_given_up(&rig, number, &[code, advice, "acts go on by themselves"]).await;
    }
    let (name, other) = (&rig.name, rig.server.connect("postgres").await);
    for (number, (away, back, advice)) in (100_u64..).zip([
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1", ["53300", "CONNECTION LIMIT"]),
        (
            "SET default_transaction_read_only = on",
            "RESET default_transaction_read_only",
            ["does not allow writes", "default_transaction_read_only"],
        ),
    ]) {
        other.batch_execute(&format!("ALTER DATABASE {name} {away}")).await.unwrap();
        check_given_up(&rig, number, &advice).await;
        other.batch_execute(&format!("ALTER DATABASE {name} {back}")).await.unwrap();
    }
}

/// Decides a block that fails, and is given up at once: what is told of it, and the counter.
async fn check_given_up(rig: &Rig, number: u64, words: &[&str]) {
    let id = rig.outbox.decide(number, 7, 90);
    let running = rig.outbox.start();
    rig.outbox.wait_empty().await;
    let shown = running.scrape();
    running.end().await;
    let counted = "interdict_scorer_actions_total{action=\"block\",status=\"given_up\"} 1";
    assert!(shown.contains(counted), "{shown}");
    for word in words {
        rig.outbox.check_result(id, ActionStatus::DeadLetter, word);
    }
}

#[tokio::test]
async fn a_database_that_takes_no_writes_or_connections_is_waited_for() {
    let rig = Rig::new(&[]).await;
    rig.outbox.drain().await;
    let (name, other) = (&rig.name, rig.server.connect("postgres").await);
    for (number, (away, back)) in (1_u64..).zip([
        (
            format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
            format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
        ),
        (format!("ALTER DATABASE {name} CONNECTION LIMIT 0"), format!("ALTER DATABASE {name} CONNECTION LIMIT -1")),
        (
            format!("ALTER DATABASE {name} RENAME TO {name}_away"),
            format!("ALTER DATABASE {name}_away RENAME TO {name}"),
        ),
    ]) {
        let is_rename = away.contains("RENAME");
        let mut rig_bank = None;
        if !is_rename {
            rig_bank = Some(rig.server.connect(name).await);
        } else {
            let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1";
            other.query(kill, &[name]).await.unwrap();
        }
        other.batch_execute(&away).await.unwrap();
        let id = rig.outbox.decide(number, number.cast_signed(), 90);
        // Whoever starts now starts all the same.
        rig.outbox.receivers().check().await.unwrap();
        let running = rig.outbox.start();
        until("it is tried in vain", async || running.has_retried()).await;
        assert_eq!(rig.outbox.store.outbox_now(None, 10).unwrap().len(), 1, "{away}");
        other.batch_execute(&back).await.unwrap();
        rig.outbox.wait_empty().await;
        running.end().await;
        rig.outbox.check_result(id, ActionStatus::Done, "");
        drop(rig_bank);
    }
}

#[tokio::test]
async fn a_ledger_that_vanishes_is_made_anew() {
    let rig = Rig::new(&[]).await;
    let running = rig.outbox.start();
    rig.outbox.decide(1, 7, 90);
    running.wake();
    rig.outbox.wait_empty().await;
    rig.bank.batch_execute("DROP TABLE interdict_ledger").await.unwrap();
    let id = rig.outbox.decide(2, 8, 91);
    running.wake();
    rig.outbox.wait_empty().await;
    running.end().await;
    rig.outbox.check_result(id, ActionStatus::Done, "1 rows changed");
    assert_eq!(rig.ledger(8).await.len(), 1);
}
