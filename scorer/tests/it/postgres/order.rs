//! Of a block and an unblocking the later one counts, in whatever order they arrive.

use interdict_scorer::action::act::ActKind;
use interdict_scorer::action::delivery::ActionStatus;

use super::rig::Rig;

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
