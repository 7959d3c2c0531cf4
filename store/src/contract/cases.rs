//! One test per promise of the port.

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use uuid::Uuid;

use super::{OUTBOX_CAPACITY, Subject};
use crate::error::{Class, StoreError};
use crate::port::{
    Append, Claim, ClaimOutcome, Commit, EXPIRY_SLACK, Finished, Intent, KEY_BYTES_MAX, ListEntry, ListWrite, LogName,
    OffsetMove, Query, RECENT_DECISIONS_MAX, RegistryEntry, RowKey, RowWrite, StateQuery, StateWrite, Store,
    UNBLOCKS_KEPT, Unblock,
};

/// Runs every case, each on a subject of its own.
///
/// # Panics
/// Where the store breaks a promise.
pub async fn check_all<S: Subject>(subject: impl Fn() -> S) {
    first_claim_holds(&subject()).await;
    stale_offset_writes_nothing(&subject()).await;
    full_outbox_drains(&subject()).await;
    empty_outbox_takes_any_commit(&subject()).await;
    acts_of_people_go_through_the_outbox(&subject()).await;
    the_outbox_goes_on_behind_a_place(&subject()).await;
    recent_decisions_are_bounded(&subject()).await;
    rewritten_records_survive_the_sweep(&subject()).await;
    stale_states_of_a_group_are_pruned(&subject()).await;
    trimmed_logs_number_on(&subject()).await;
    bundles_are_immutable(&subject()).await;
    huge_keys_are_refused_and_absent(&subject()).await;
    contradictions_are_refused(&subject()).await;
    who_was_let_go_is_not_blocked_by_what_was_decided_before(&subject()).await;
}

fn claim(number: u64, entities: Vec<EntityRef>) -> Claim {
    let record = Bytes::from(format!("{{\"number\":{number}}}"));
    Claim { id: id(number), record, entities, intents: Vec::new(), lists: Vec::new() }
}

fn id(number: u64) -> Uuid {
    Uuid::from_u64_pair(number, number)
}

fn intent(decision: Uuid, action: &str) -> Intent {
    Intent { decision, action: action.to_owned(), payload: "{}".to_owned(), created: Timestamp::default() }
}

fn row(id: u64, expires: Option<Timestamp>) -> RowWrite {
    let key = RowKey { stream: "payments".into(), id: id.to_string().into_bytes().into() };
    RowWrite { key, bytes: Some(Bytes::from_static(b"row")), expires, expected: None }
}

fn state(key: &[u8]) -> StateWrite {
    StateWrite {
        entity: "card".into(),
        key: key.into(),
        group: 1,
        bytes: Some(Bytes::from_static(b"state")),
        expires: None,
        expected: None,
    }
}

fn state_query(key: &[u8]) -> Query {
    let wanted = StateQuery { entity: "card".into(), key: key.into(), groups: [1].into() };
    Query { states: vec![wanted], ..Query::default() }
}

async fn has_state(store: &impl Store, key: &[u8]) -> bool {
    store.fetch(&state_query(key)).await.expect("fetches").states[0][0].is_some()
}

/// The oldest unfinished actions.
async fn unfinished(store: &impl Store, limit: usize) -> Vec<Intent> {
    store.outbox(None, limit).await.expect("reads").into_iter().map(|(_, intent)| intent).collect()
}

async fn first_claim_holds(subject: &impl Subject) {
    let first = claim(1, Vec::new());
    let second = Claim { record: Bytes::from_static(b"{}"), intents: vec![intent(id(1), "block")], ..first.clone() };
    let store = subject.open().await;
    let claims = vec![first.clone(), second.clone(), claim(2, Vec::new())];
    let answer = store.commit(Commit { claims, ..Commit::default() }).await.expect("commits");
    let expected = [
        ClaimOutcome::Claimed { position: 0 },
        ClaimOutcome::Existing(first.record.clone()),
        ClaimOutcome::Claimed { position: 1 },
    ];
    assert_eq!(answer.claims, expected, "two claims of one id in one commit");
    drop(store);
    let store = subject.open().await;
    let commit = Commit { claims: vec![second], states: vec![state(b"1")], ..Commit::default() };
    let answer = store.commit(commit).await.expect("commits");
    assert_eq!(answer.claims, [ClaimOutcome::Existing(first.record)]);
    assert!(has_state(&store, b"1").await, "the rest of the commit goes through");
    assert_eq!(unfinished(&store, 10).await, [], "a claim that came second brings no actions");
}

async fn stale_offset_writes_nothing(subject: &impl Subject) {
    let moved = |from, to| OffsetMove { source: "orders".to_owned(), partition: 3, from, to };
    let store = subject.open().await;
    store.commit(Commit { offsets: vec![moved(None, 5)], ..Commit::default() }).await.expect("commits");
    for from in [None, Some(4), Some(6)] {
        let commit = Commit {
            states: vec![state(b"1")],
            claims: vec![claim(1, Vec::new())],
            appends: vec![Append { log: LogName::INPUT, bytes: Bytes::new() }],
            offsets: vec![moved(from, 9)],
            ..Commit::default()
        };
        let error = store.commit(commit).await.expect_err("stale");
        assert!(matches!(error, StoreError::Fenced { stored: Some(5), partition: 3, .. }), "{error}");
        assert!(!has_state(&store, b"1").await);
        assert!(store.decision(id(1)).await.expect("reads").is_none());
        assert_eq!(store.read_log(LogName::INPUT, 0, 10).await.expect("reads"), []);
    }
}

async fn full_outbox_drains(subject: &impl Subject) {
    let store = subject.open().await;
    let acting = |number| Claim { intents: vec![intent(id(number), "block")], ..claim(number, Vec::new()) };
    let capacity = OUTBOX_CAPACITY as u64;
    let claims = (0..capacity).map(acting).collect();
    store.commit(Commit { claims, ..Commit::default() }).await.expect("fits");
    let more = Commit { claims: vec![acting(capacity)], ..Commit::default() };
    let error = store.commit(more.clone()).await.expect_err("is full");
    assert!(matches!(error, StoreError::OutboxFull { .. }), "{error}");
    assert_eq!(error.class(), Class::Transient);
    assert!(store.decision(id(capacity)).await.expect("reads").is_none(), "nothing of the commit is written");
    store.commit(Commit { claims: vec![claim(99, Vec::new())], ..Commit::default() }).await.expect("needs no room");
    let finished = Finished { decision: id(0), action: "block".to_owned(), result: "{\"done\":true}".to_owned() };
    let finish = Commit { finished: vec![finished], ..Commit::default() };
    store.commit(finish.clone()).await.expect("drains");
    store.commit(finish).await.expect("a second time changes nothing");
    let decision = store.decision(id(0)).await.expect("reads").expect("is there");
    assert_eq!(decision.appended, ["{\"done\":true}"]);
    store.commit(more).await.expect("has room again");
    let waiting = unfinished(&store, 100).await;
    assert_eq!(
        waiting.iter().map(|intent| intent.decision).collect::<Vec<_>>(),
        (1..=capacity).map(id).collect::<Vec<_>>()
    );
}

async fn empty_outbox_takes_any_commit(subject: &impl Subject) {
    let store = subject.open().await;
    let acting = |number| Claim { intents: vec![intent(id(number), "block")], ..claim(number, Vec::new()) };
    let many = 2 * OUTBOX_CAPACITY as u64;
    let commit = Commit { claims: (0..many).map(acting).collect(), ..Commit::default() };
    store.commit(commit).await.expect("it would never fit otherwise");
    let waiting = unfinished(&store, 100).await;
    assert_eq!(waiting.len() as u64, many);
    let more = Commit { claims: vec![acting(many)], ..Commit::default() };
    let error = store.commit(more.clone()).await.expect_err("is full");
    assert!(matches!(error, StoreError::OutboxFull { .. }), "{error}");
    let finished = |number: u64| Finished { decision: id(number), action: "block".to_owned(), result: "{}".to_owned() };
    let finish = Commit { finished: (0..many).map(finished).collect(), ..Commit::default() };
    store.commit(finish).await.expect("drains");
    store.commit(more).await.expect("has room again");
}

async fn acts_of_people_go_through_the_outbox(subject: &impl Subject) {
    let act = |number| intent(id(1000 + number), "block");
    let store = subject.open().await;
    store.commit(Commit { intents: vec![act(0), act(0)], ..Commit::default() }).await.expect("before any decision");
    let acting = Claim { intents: vec![intent(id(1), "block")], ..claim(1, Vec::new()) };
    let commit = Commit { intents: vec![act(1), act(0)], claims: vec![acting], ..Commit::default() };
    store.commit(commit).await.expect("commits");
    let later = Claim { intents: vec![intent(id(2), "block")], ..claim(2, Vec::new()) };
    store.commit(Commit { claims: vec![later], ..Commit::default() }).await.expect("commits");
    drop(store);
    let store = subject.open().await;
    let waiting = [act(0), intent(id(1), "block"), act(1), intent(id(2), "block")];
    assert_eq!(unfinished(&store, 100).await, waiting, "oldest first, each once");
    let fill = (2..=OUTBOX_CAPACITY as u64).map(act).collect();
    let error = store.commit(Commit { intents: fill, ..Commit::default() }).await.expect_err("is full");
    assert!(matches!(error, StoreError::OutboxFull { .. }), "{error}");
    let finished = |number: u64| Finished { decision: id(number), action: "block".to_owned(), result: "{}".to_owned() };
    let finish = Commit { finished: vec![finished(1000), finished(1000), finished(1)], ..Commit::default() };
    store.commit(finish.clone()).await.expect("drains");
    store.commit(finish).await.expect("a second time changes nothing");
    assert_eq!(unfinished(&store, 100).await, waiting[2..]);
    assert!(store.decision(id(1000)).await.expect("reads").is_none(), "an act is no decision");
    let both = Commit { intents: vec![act(7)], finished: vec![finished(1007)], ..Commit::default() };
    store.commit(both).await.expect("comes and goes");
    assert_eq!(unfinished(&store, 100).await.len(), 2);
}

async fn the_outbox_goes_on_behind_a_place(subject: &impl Subject) {
    let store = subject.open().await;
    let acting = |number| Claim {
        intents: vec![intent(id(number), "block"), intent(id(number), "tell")],
        ..claim(number, Vec::new())
    };
    let commit = Commit { claims: vec![acting(1)], intents: vec![intent(id(1000), "block")], ..Commit::default() };
    store.commit(commit).await.expect("commits");
    let all = store.outbox(None, 100).await.expect("reads");
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by_key(|(place, _)| place), "{all:?}");
    for (at, (place, _)) in all.iter().enumerate() {
        assert_eq!(store.outbox(Some(place), 100).await.expect("reads"), all[at + 1..], "behind {place:?}");
    }
    assert_eq!(store.outbox(Some(&all[0].0), 1).await.expect("reads"), all[1..2], "no more than asked for");
    let (last, _) = &all[2];
    for finished in [(1, "block"), (1000, "block")] {
        let finished = Finished { decision: id(finished.0), action: finished.1.to_owned(), result: "{}".to_owned() };
        store.commit(Commit { finished: vec![finished], ..Commit::default() }).await.expect("commits");
    }
    assert_eq!(store.outbox(Some(&all[0].0), 100).await.expect("reads"), all[1..2], "a place outlives its entry");
    assert_eq!(store.outbox(Some(last), 100).await.expect("reads"), []);
    let later = Commit { intents: vec![intent(id(1001), "block")], claims: vec![acting(2)], ..Commit::default() };
    store.commit(later).await.expect("commits");
    drop(store);
    let store = subject.open().await;
    let later = store.outbox(Some(last), 100).await.expect("reads");
    assert_eq!(later.len(), 3, "{later:?}");
    assert!(later.iter().all(|(place, _)| place > last), "what enters later stands behind: {later:?}");
    store.replicated().await.expect("nothing is configured to wait for");
}

async fn recent_decisions_are_bounded(subject: &impl Subject) {
    let busy = EntityRef { entity: "card".to_owned(), key: "busy".to_owned() };
    let quiet = EntityRef { entity: "card".to_owned(), key: "quiet".to_owned() };
    let store = subject.open().await;
    for number in 0..500 {
        let entities = if number % 250 == 0 { vec![busy.clone(), quiet.clone()] } else { vec![busy.clone()] };
        store.commit(Commit { claims: vec![claim(number, entities)], ..Commit::default() }).await.expect("commits");
    }
    let recent = store.recent_decisions(&busy, usize::MAX).await.expect("reads");
    let newest = (0..500).rev().map(|number| claim(number, Vec::new()).record).take(RECENT_DECISIONS_MAX);
    assert_eq!(recent, newest.collect::<Vec<_>>());
    let recent = store.recent_decisions(&quiet, 10).await.expect("reads");
    assert_eq!(recent, [claim(250, Vec::new()).record, claim(0, Vec::new()).record]);
}

async fn rewritten_records_survive_the_sweep(subject: &impl Subject) {
    const ROWS: u64 = 10_000;
    let now = Timestamp::from_micros(100 * Span::DAY.micros());
    let (past, future) = (now.minus(EXPIRY_SLACK).minus(Span::SECOND), now.plus(Span::SECOND));
    let store = subject.open().await;
    let rows = (0..ROWS).map(|id| row(id, Some(past))).collect();
    store.commit(Commit { rows, ..Commit::default() }).await.expect("commits");
    let rows = vec![row(1, Some(future)), row(2, None), row(3, Some(past.minus(Span::DAY)))];
    store.commit(Commit { rows, ..Commit::default() }).await.expect("commits");
    assert_eq!(store.expire(now).await.expect("expires"), ROWS - 2);
    assert_eq!(store.expire(now).await.expect("expires"), 0);
    let rows = (0..ROWS).map(|id| row(id, None).key).collect();
    let fetched = store.fetch(&Query { rows, ..Query::default() }).await.expect("fetches");
    let alive = (0..ROWS).zip(&fetched.rows).filter(|(_, row)| row.is_some()).map(|(id, _)| id);
    assert_eq!(alive.collect::<Vec<_>>(), [1, 2]);
    // A late write into a day that was swept already is found by the next sweep.
    store.commit(Commit { rows: vec![row(7, Some(past))], ..Commit::default() }).await.expect("commits");
    assert_eq!(store.expire(now).await.expect("expires"), 1);
    let later = future.plus(EXPIRY_SLACK).plus(Span::SECOND);
    assert_eq!(store.expire(later).await.expect("expires"), 1);
}

async fn stale_states_of_a_group_are_pruned(subject: &impl Subject) {
    const KEYS: u64 = 3_000;
    let stored = |entity: &str, key: u64, group: u64, bytes: &'static [u8]| StateWrite {
        entity: entity.into(),
        group,
        bytes: Some(Bytes::from_static(bytes)),
        ..state(&key.to_be_bytes())
    };
    let store = subject.open().await;
    let odd_is_stale = |key: u64| if key % 2 == 1 { b"stale".as_slice() } else { b"fresh" };
    let mut states: Vec<StateWrite> = (0..KEYS).map(|key| stored("card", key, 1, odd_is_stale(key))).collect();
    states.extend((0..KEYS).map(|key| stored("card", key, 2, b"stale")));
    states.extend(["car", "cards", "c*d", "c[ard"].map(|entity| stored(entity, 1, 1, b"stale")));
    store.commit(Commit { states, ..Commit::default() }).await.expect("commits");
    let is_stale = |state: &[u8]| state == b"stale";
    assert_eq!(store.prune("card", 1, &is_stale).await.expect("prunes"), KEYS / 2);
    assert_eq!(store.prune("card", 1, &is_stale).await.expect("prunes"), 0);
    for key in [0, 1, 2, KEYS - 1] {
        assert_eq!(has_state(&store, &key.to_be_bytes()).await, key % 2 == 0, "{key}");
    }
    assert_eq!(store.prune("c*d", 1, &is_stale).await.expect("prunes"), 1, "a name stands for itself");
    assert_eq!(store.prune("c[ard", 1, &is_stale).await.expect("prunes"), 1);
    for entity in ["car", "cards"] {
        assert_eq!(store.prune(entity, 1, &is_stale).await.expect("prunes"), 1, "it was left where it was");
    }
    assert_eq!(store.prune("card", 2, &is_stale).await.expect("prunes"), KEYS);
}

async fn trimmed_logs_number_on(subject: &impl Subject) {
    const ENTRIES: u64 = 10_000;
    let append = |number: u64| Append { log: LogName::AUDIT, bytes: Bytes::from(number.to_string()) };
    let store = subject.open().await;
    let appends = (0..ENTRIES).map(append).collect();
    let answer = store.commit(Commit { appends, ..Commit::default() }).await.expect("commits");
    assert_eq!(answer.appended, (0..ENTRIES).collect::<Vec<_>>());
    store.trim_log(LogName::AUDIT, ENTRIES - 1).await.expect("trims");
    let left = store.read_log(LogName::AUDIT, 0, 10).await.expect("reads");
    assert_eq!(left, [(ENTRIES - 1, append(ENTRIES - 1).bytes)]);
    store.trim_log(LogName::AUDIT, u64::MAX).await.expect("trims");
    drop(store);
    let store = subject.open().await;
    let commit = Commit { appends: vec![append(0)], ..Commit::default() };
    assert_eq!(store.commit(commit).await.expect("commits").appended, [ENTRIES]);
}

async fn bundles_are_immutable(subject: &impl Subject) {
    let bundle = |version: &str, hash: &str| RegistryEntry {
        name: "fraud".to_owned(),
        version: version.to_owned(),
        hash: hash.to_owned(),
        location: "models/fraud".to_owned(),
        registered: Timestamp::default(),
    };
    let store = subject.open().await;
    store.register(bundle("1", "aa")).await.expect("registers");
    store.register(bundle("1", "aa")).await.expect("registers the same again");
    store.register(bundle("2", "bb")).await.expect("registers");
    let error = store.register(bundle("1", "cc")).await.expect_err("another hash");
    assert!(matches!(error, StoreError::BundleTaken { .. }), "{error}");
    for (alias, version) in [("fraud@champion", "3"), ("other@champion", "1"), ("fraud", "1")] {
        let error = store.set_alias(alias, version).await.expect_err(alias);
        assert_eq!(error.class(), Class::Rejected, "{error}");
    }
    store.set_alias("fraud@champion", "1").await.expect("points");
    store.set_alias("fraud@champion", "2").await.expect("points elsewhere");
    drop(store);
    let (bundles, aliases) = subject.open().await.registry().await.expect("reads");
    assert_eq!(bundles, [bundle("1", "aa"), bundle("2", "bb")]);
    assert_eq!(aliases, [("fraud@champion".to_owned(), "2".to_owned())]);
}

async fn huge_keys_are_refused_and_absent(subject: &impl Subject) {
    let store = subject.open().await;
    let huge = vec![b'x'; 1 << 20];
    assert!(!has_state(&store, &huge).await, "a read of it finds nothing");
    let commit = Commit { states: vec![state(b"1"), state(&huge)], ..Commit::default() };
    let error = store.commit(commit).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert_eq!(error.class(), Class::Rejected);
    assert!(!has_state(&store, b"1").await, "nothing of the commit is written");
    let most = vec![b'x'; KEY_BYTES_MAX - "card".len()];
    store.commit(Commit { states: vec![state(&most)], ..Commit::default() }).await.expect("fits");
    assert!(has_state(&store, &most).await);
    let entity = EntityRef { entity: "card".to_owned(), key: "\0".repeat(KEY_BYTES_MAX - "card".len()) };
    store.commit(Commit { claims: vec![claim(1, vec![entity.clone()])], ..Commit::default() }).await.expect("fits");
    assert_eq!(store.recent_decisions(&entity, 9).await.expect("reads").len(), 1);
}

async fn contradictions_are_refused(subject: &impl Subject) {
    let store = subject.open().await;
    let twice = vec![intent(id(1), "block"), intent(id(1), "block")];
    let foreign = vec![intent(id(2), "block")];
    for intents in [twice, foreign] {
        let claims = vec![Claim { intents, ..claim(1, Vec::new()) }];
        let error = store.commit(Commit { claims, ..Commit::default() }).await.expect_err("refused");
        assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    }
    let appends = vec![Append { log: LogName::DECISIONS, bytes: Bytes::new() }];
    let error = store.commit(Commit { appends, ..Commit::default() }).await.expect_err("refused");
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert!(store.decision(id(1)).await.expect("reads").is_none());
}

async fn who_was_let_go_is_not_blocked_by_what_was_decided_before(subject: &impl Subject) {
    let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
    let card = |key: &str| EntityRef { entity: "card".to_owned(), key: key.to_owned() };
    let entry = |key: &str, list: ListKind, created: Timestamp| ListEntry {
        list,
        entity: card(key),
        reason: "burst".to_owned(),
        decision: None,
        author: "decision".to_owned(),
        created,
        expires: None,
    };
    let blocking = |number: u64, key: &str, created: Timestamp| {
        let lists = vec![entry(key, ListKind::AutomaticBlock, created), entry(key, ListKind::Allow, created)];
        Commit { claims: vec![Claim { lists, ..claim(number, Vec::new()) }], ..Commit::default() }
    };
    async fn blocked(store: &impl Store) -> Vec<String> {
        let lists = store.lists().await.expect("reads");
        let blocks = lists.into_iter().filter(|entry| entry.list == ListKind::AutomaticBlock);
        blocks.map(|entry| entry.entity.key).collect()
    }
    let store = subject.open().await;
    store.commit(blocking(1, "a", at(10))).await.expect("commits");
    assert_eq!(blocked(&store).await, ["a"]);
    let lists = vec![ListWrite::Remove { list: ListKind::AutomaticBlock, entity: card("a") }];
    let unblocks = vec![Unblock { entity: card("a"), at: at(20) }, Unblock { entity: card("a"), at: at(15) }];
    store.commit(Commit { lists, unblocks, ..Commit::default() }).await.expect("commits");
    for (number, created) in [(2, 12), (3, 20)] {
        let committed = store.commit(blocking(number, "a", at(created))).await.expect("commits");
        assert!(matches!(committed.claims[0], ClaimOutcome::Claimed { .. }), "the decision is stored all the same");
        assert_eq!(blocked(&store).await, [""; 0], "decided at {created}");
    }
    assert_eq!(store.lists().await.expect("reads").len(), 1, "other lists are entered");
    drop(store);
    let store = subject.open().await;
    store.commit(blocking(4, "a", at(19))).await.expect("commits");
    store.commit(blocking(5, "b", at(1))).await.expect("commits");
    assert_eq!(blocked(&store).await, ["b"]);
    store.commit(blocking(6, "a", at(21))).await.expect("commits");
    assert_eq!(blocked(&store).await, ["a", "b"], "what is decided later holds");
    let later = at(21).plus(UNBLOCKS_KEPT);
    let unblocks = vec![Unblock { entity: card("c"), at: later }];
    let lists = vec![ListWrite::Remove { list: ListKind::AutomaticBlock, entity: card("a") }];
    store.commit(Commit { lists, unblocks, ..Commit::default() }).await.expect("commits");
    store.commit(blocking(7, "a", at(5))).await.expect("commits");
    assert_eq!(blocked(&store).await, ["a", "b"], "it is remembered for so long");
}
