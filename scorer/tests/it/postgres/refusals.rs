//! What the database refuses stops nothing else, and says why.

use interdict_scorer::action::delivery::ActionStatus;

use super::rig::Rig;

#[tokio::test]
async fn an_account_that_vanished_is_reported_and_leaves_no_line() {
    let rig = Rig::new(&[]).await;
    rig.bank.batch_execute("DELETE FROM accounts WHERE id = 7").await.unwrap();
    let gone = rig.outbox.decide(1, 7, 90);
    let there = rig.outbox.decide(2, 8, 90);
    let running = rig.outbox.start();
    rig.outbox.wait_empty().await;
    let shown = running.scrape();
    assert!(shown.contains("interdict_scorer_actions_total{action=\"block\",status=\"rejected\"} 1"), "{shown}");
    running.end().await;
    rig.outbox.check_result(gone, ActionStatus::DeadLetter, "there is no such account");
    rig.outbox.check_result(there, ActionStatus::Done, "");
    assert_eq!(rig.ledger(7).await, []);
}

/// Blocks account 7 after `change` by the superuser; its result, while account 8 is blocked beside it.
async fn refused(lines: &[(&str, &str)], change: &str, expected: &str) {
    let rig = Rig::new(lines).await;
    rig.outbox.receivers().check().await.unwrap();
    let before = rig.outbox.decide(1, 8, 90);
    rig.outbox.drain().await;
    rig.outbox.check_result(before, ActionStatus::Done, "");
    rig.bank.batch_execute(change).await.unwrap();
    let id = rig.outbox.decide(2, 7, 91);
    rig.outbox.drain().await;
    rig.outbox.check_result(id, ActionStatus::DeadLetter, expected);
    let result = rig.outbox.result(id);
    assert_eq!(result.tries, 1, "{result:?}");
    assert!(!result.reason.contains("swordfish"), "{result:?}");
    assert_eq!(rig.ledger(7).await, []);
}

#[tokio::test]
async fn what_the_database_refuses_is_a_dead_letter_that_says_what_to_do() {
    refused(&[], "REVOKE UPDATE ON accounts FROM interdict", "grant the user of 'url' this right").await;
    refused(&[], "ALTER TABLE accounts RENAME COLUMN told TO said", "write the column's name").await;
    refused(&[], "ALTER TABLE accounts RENAME TO customers", "create the table, or write its name").await;
    refused(&[], "ALTER TABLE accounts ADD CHECK (id <> 7 OR status <> 'blocked')", "accounts_check").await;
    refused(
        &[],
        "REVOKE INSERT ON interdict_ledger FROM interdict; ALTER TABLE interdict_ledger OWNER TO postgres",
        "a line in the ledger",
    )
    .await;
    let raise = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'the password of % is swordfish', NEW.id; END $$; \
        CREATE TRIGGER no BEFORE UPDATE ON accounts FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no()";
    refused(&[], raise, "P0001").await;
    let quote = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM 'swordfish'::int; RETURN NEW; END $$; \
        CREATE TRIGGER no BEFORE UPDATE ON accounts FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no()";
    refused(&[], quote, "22P02").await;
    let deferred = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23514', MESSAGE = 'no'; END $$; \
        CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED \
        FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no()";
    refused(&[], deferred, "see the table's constraints").await;
}

#[tokio::test]
async fn a_statement_that_changes_too_much_is_undone() {
    let wide = "\"UPDATE accounts SET status = 'blocked', told = $2 WHERE id = $1 OR $1 = 7\"";
    let rig = Rig::new(&[("block", wide), ("rows_max", "19")]).await;
    let id = rig.outbox.decide(1, 7, 90);
    let narrow = rig.outbox.decide(2, 8, 90);
    rig.outbox.drain().await;
    rig.outbox.check_result(id, ActionStatus::DeadLetter, "would change 20 rows, more than rows_max = 19");
    rig.outbox.check_result(narrow, ActionStatus::Done, "1 rows changed");
    let blocked = rig.bank.query_one("SELECT array_agg(id) FROM accounts WHERE status = 'blocked'", &[]).await.unwrap();
    assert_eq!(blocked.get::<_, Vec<i64>>(0), [8]);
    assert_eq!(rig.ledger(7).await, []);
}
