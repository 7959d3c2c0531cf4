//! What an act does when nothing is in its way.

use interdict_scorer::action::act::ActKind;
use interdict_scorer::action::delivery::ActionStatus;
use interdict_store::port::Commit;

use super::rig::{Rig, block};

#[tokio::test]
async fn a_block_reaches_the_account_and_the_ledger_once() {
    let rig = Rig::new(&[]).await;
    let id = rig.outbox.decide(1, 7, 90);
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 1, 0));
    rig.outbox.check_result(id, ActionStatus::Done, "1 rows changed");
    let query = "SELECT action, entity, entity_key, kind, outcome, decided_at = '2023-11-14 22:14:50+00', at > now() - '1h'::interval, \
         (SELECT told FROM accounts WHERE id = 7), (SELECT count(*) FROM accounts WHERE status = 'blocked') \
         FROM interdict_ledger WHERE decision_id = $1";
    let line = rig.bank.query_one(query, &[&id]).await.unwrap();
    let texts: Vec<String> = (0..5).map(|at| line.get(at)).collect();
    assert_eq!(texts, ["block", "customer", "7", "block", "done"]);
    assert!(line.get::<_, bool>(5) && line.get::<_, bool>(6));
    assert_eq!((line.get::<_, &str>(7), line.get::<_, i64>(8)), ("many small payments", 1), "and no other account");
}

#[tokio::test]
async fn an_act_that_the_ledger_has_is_not_done_again() {
    let rig = Rig::new(&[]).await;
    // A crash after the commit and before the outbox entry was finished leaves just this: the entry, and the line.
    let act = rig.outbox.act(ActKind::ManualBlock, 1, 7, 90);
    for _ in 0..3 {
        rig.outbox.drain().await;
        rig.outbox.put(&act);
    }
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 1, 0));
    assert_eq!(rig.ledger(7).await.len(), 1);
    let told = rig.outbox.told(&act);
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|result| result.status == ActionStatus::Done), "{told:?}");
    assert!(told[1].reason.contains("the ledger has it") && told[1].reason == told[3].reason, "{told:?}");
}

#[tokio::test]
async fn parameters_are_bound_by_name_and_never_become_sql() {
    let columns = [
        ("decision_id", "uuid"),
        ("decided_at", "timestamptz"),
        ("action", "text"),
        ("entity", "varchar(20)"),
        ("kind", "mood"),
        ("author", "text"),
        ("outcome", "text"),
        ("score", "numeric"),
        ("event_id", "bigint"),
        ("stream", "text"),
        ("amount", "numeric(18,2)"),
        ("country", "char(2)"),
        ("reason", "text"),
    ];
    let sets = (2..).zip(&columns).map(|(number, (name, kind))| match *name {
        // The declared type of an event's id is text here; the statement says what it takes it for.
        "event_id" => format!("c_event_id = ${number}::text::bigint"),
        _ => format!("c_{name} = ${number}::{kind}"),
    });
    let block = format!("\"UPDATE accounts SET {} WHERE id = $1\"", sets.collect::<Vec<_>>().join(", "));
    let names = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let list = format!("[\"customer_id\", {names}]");
    let rig = Rig::new(&[("block", &block), ("block_parameters", &list)]).await;
    let add: String = columns.iter().map(|(name, kind)| format!("ALTER TABLE accounts ADD c_{name} {kind};")).collect();
    rig.bank.batch_execute(&format!("CREATE TYPE mood AS ENUM ('block', 'manual_block'); {add}")).await.unwrap();
    let hostile = "'); DROP TABLE accounts; -- \\ $1 \u{1F600} \"";
    let mut act = self::block(4, 7, 90);
    act.reason = hostile.to_owned();
    let judged = act.decision.as_mut().unwrap();
    judged.columns.insert("amount".to_owned(), interdict_features::value::Value::Double(12.34));
    judged.columns.insert("country".to_owned(), interdict_features::value::Value::Text("NL".into()));
    rig.outbox.put(&act);
    rig.outbox.drain().await;
    let row = rig
        .bank
        .query_one(
            "SELECT c_reason, concat_ws(',', c_decision_id, c_decided_at AT TIME ZONE 'UTC', c_action, c_entity, c_kind, \
             c_author, c_outcome, c_score, c_event_id, c_stream, c_amount, c_country) FROM accounts WHERE id = 7",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), hostile);
    let expected = format!("{},2023-11-14 22:14:50,block,customer,block,block,0.97,4,transactions,12.34,NL", act.id);
    assert_eq!(row.get::<_, &str>(1), expected, "the author of a decision is null");
    // What only decisions have is null for a block by hand.
    let act = rig.outbox.act(ActKind::ManualBlock, 5, 8, 91);
    rig.outbox.drain().await;
    assert_eq!(rig.outbox.told(&act)[0].status, ActionStatus::Done);
    let row = rig.bank.query_one("SELECT c_kind::text, c_author, c_score::text FROM accounts WHERE id = 8", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("manual_block", "ana"));
    assert_eq!(row.get::<_, Option<&str>>(2), None);
}

#[tokio::test]
async fn many_blocks_go_over_few_connections() {
    let rig = Rig::new(&[("connections", "4")]).await;
    rig.bank.batch_execute("INSERT INTO accounts (id) SELECT generate_series(21, 120)").await.unwrap();
    for number in 1..=120_u64 {
        rig.outbox.decide(number, number.cast_signed(), 90);
    }
    let running = rig.outbox.start();
    rig.outbox.wait_left(60).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename = 'interdict'";
    let sessions: i64 = rig.bank.query_one(sessions, &[&rig.name]).await.unwrap().get(0);
    assert!((2..=4).contains(&sessions), "{sessions}");
    rig.outbox.wait_empty().await;
    let shown = running.scrape();
    running.end().await;
    for line in [
        "interdict_scorer_actions_total{action=\"block\",status=\"done\"} 120",
        "interdict_scorer_action_seconds_count{action=\"block\"} 120",
        "interdict_scorer_outbox_oldest_seconds 0.0",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let blocked = rig.bank.query_one("SELECT count(*), sum(blocks) FROM accounts WHERE status = 'blocked'", &[]);
    let blocked = blocked.await.unwrap();
    assert_eq!((blocked.get::<_, i64>(0), blocked.get::<_, i64>(1)), (120, 120));
}

#[tokio::test]
async fn what_is_of_another_kind_is_no_act() {
    let rig = Rig::new(&[]).await;
    let intent = interdict_store::port::Intent {
        decision: uuid::Uuid::from_u128(1),
        action: "block".to_owned(),
        payload: "{\"type\": \"interdict.decision.block\"}".to_owned(),
        created: crate::support::at(90),
    };
    rig.outbox.store.commit_now(&Commit { intents: vec![intent], ..Commit::default() }).unwrap();
    let running = rig.outbox.start();
    rig.outbox.wait_empty().await;
    assert!(running.scrape().contains("status=\"rejected\"} 1"));
    running.end().await;
}
