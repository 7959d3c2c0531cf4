//! Of a block and an unblocking the later one counts, in whatever order they arrive.

use interdict_scorer::action::act::{Act, ActKind, by_hand};
use interdict_scorer::action::delivery::ActionStatus;
use interdict_store::port::Commit;

use super::rig::{Outbox, Rig, action, block};
use crate::support::definitions;

fn line(kind: &str, outcome: &str) -> (String, String) {
    (kind.to_owned(), outcome.to_owned())
}

#[tokio::test]
async fn an_analysts_unblock_stays() {
    let rig = Rig::new(&[]).await;
    let first = rig.outbox.decide(1, 7, 10);
    rig.outbox.drain().await;
    let unblock = rig.outbox.act(ActKind::Unblock, 2, 7, 20);
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("active".to_owned(), 1, 1));
    // An older decision that was stuck elsewhere arrives now, and again after a crash.
    let late = rig.outbox.decide(3, 7, 15);
    rig.outbox.drain().await;
    let late_by_hand = rig.outbox.act(ActKind::ManualBlock, 4, 7, 20);
    rig.outbox.drain().await;
    rig.outbox.put(&late_by_hand);
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("active".to_owned(), 1, 1));
    rig.outbox.check_result(first, ActionStatus::Done, "1 rows");
    rig.outbox.check_result(late, ActionStatus::Superseded, "unblocked after this was decided");
    assert!(rig.outbox.told(&late_by_hand).iter().all(|told| told.status == ActionStatus::Superseded));
    assert_eq!(rig.outbox.told(&unblock)[0].status, ActionStatus::Done);
    let expected = [
        line("block", "done"),
        line("block", "superseded"),
        line("manual_block", "superseded"),
        line("unblock", "done"),
    ];
    assert_eq!(rig.ledger(7).await, expected);
    // A new decision blocks anew.
    rig.outbox.decide(5, 7, 21);
    rig.outbox.drain().await;
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 2, 1));
    // And an unblocking of long ago does not take it back.
    let stale = rig.outbox.act(ActKind::Unblock, 6, 7, 18);
    rig.outbox.drain().await;
    assert_eq!(rig.outbox.told(&stale)[0].status, ActionStatus::Superseded);
    assert_eq!(rig.account(7).await, ("blocked".to_owned(), 2, 1));
}

#[tokio::test]
async fn an_unblock_that_comes_before_its_block_stays_whatever_its_statement_matches() {
    let condition =
        "\"UPDATE accounts SET status = 'active', unblocks = unblocks + 1 WHERE id = $1 AND status = 'blocked'\"";
    let rig = Rig::new(&[("unblock", condition)]).await;
    let unblock = rig.outbox.act(ActKind::Unblock, 1, 7, 20);
    rig.outbox.drain().await;
    let told = rig.outbox.told(&unblock);
    assert_eq!(told[0].status, ActionStatus::DeadLetter, "a person sees that nothing was blocked: {told:?}");
    let block = rig.outbox.decide(2, 7, 10);
    rig.outbox.drain().await;
    rig.outbox.check_result(block, ActionStatus::Superseded, "unblocked");
    assert_eq!(rig.account(7).await, ("active".to_owned(), 0, 0));
    assert_eq!(rig.ledger(7).await, [line("block", "superseded"), line("unblock", "unmatched")]);
    rig.outbox.put(&unblock);
    rig.outbox.drain().await;
    let told = rig.outbox.told(&unblock);
    assert_eq!((told.len(), &told[0].reason), (2, &told[1].reason), "the second try says what the first did");
}

#[tokio::test]
async fn acts_of_one_account_keep_their_order() {
    let rig = Rig::new(&[]).await;
    for number in 0..40_u64 {
        let second = number.cast_signed();
        if number % 2 == 0 {
            rig.outbox.decide(number, 7, second);
        } else {
            rig.outbox.act(ActKind::Unblock, number, 7, second);
        }
    }
    rig.outbox.drain().await;
    // None overtook another: then one would be superseded.
    assert_eq!(rig.account(7).await, ("active".to_owned(), 20, 20));
    assert!(rig.ledger(7).await.iter().all(|(_, outcome)| outcome == "done"));
}

#[tokio::test]
async fn what_one_action_did_supersedes_nothing_of_another() {
    let rig = Rig::new(&[]).await;
    let marking = [
        ("name", "\"mark\""),
        ("block", "\"UPDATE accounts SET told = 'marked' WHERE id = $1\""),
        ("unblock", "\"UPDATE accounts SET told = 'clear' WHERE id = $1\""),
        ("block_parameters", "[\"customer_id\"]"),
    ];
    let outbox = Outbox::new(&(action(&rig.url(), &[]) + &action(&rig.url(), &marking)));
    let put = |kind: ActKind, number: u64, second: i64, action: &str| {
        let act = Act { kind, author: Some("ana".to_owned()), decision: None, ..block(number, 7, second) };
        let mut intents = by_hand(&outbox.policy, &definitions(), &act).unwrap();
        intents.retain(|intent| intent.action == action);
        assert_eq!(intents.len(), 1);
        outbox.store.commit_now(&Commit { intents, ..Commit::default() }).unwrap();
        act
    };
    put(ActKind::ManualBlock, 1, 10, "mark");
    put(ActKind::ManualBlock, 2, 30, "block");
    outbox.drain().await;
    let cleared = put(ActKind::Unblock, 3, 20, "mark");
    let late = put(ActKind::ManualBlock, 4, 15, "block");
    let older = put(ActKind::ManualBlock, 5, 15, "mark");
    outbox.drain().await;
    let status = |act: &Act| outbox.told(act)[0].status;
    assert_eq!(status(&cleared), ActionStatus::Done, "a later block by another action keeps nobody marked");
    assert_eq!(status(&late), ActionStatus::Done, "nor is it one that was unmarked");
    assert_eq!(status(&older), ActionStatus::Superseded);
}
