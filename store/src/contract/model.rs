//! Random steps, taken by a store and by its [`Twin`].

use std::sync::Arc;

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use uuid::Uuid;

use super::Subject;
use super::twin::Twin;
use crate::error::StoreError;
use crate::port::{
    Append, Claim, Commit, Durability, Finished, Intent, ListEntry, ListWrite, LogName, Note, OffsetMove, OutboxPlace,
    Query, RowKey, RowWrite, StateQuery, StateWrite, Store, Unblock,
};

const SOURCE: &str = "orders";
const PARTITIONS: u32 = 2;
const IDS: u8 = 8;
const LOGS: [LogName; 3] = [LogName::INPUT, LogName::DECISIONS, LogName::AUDIT];
const ENTITIES: [&str; 3] = ["card", "cardholder", "nul\0in it"];
const KEYS: [&str; 3] = ["", "7", "7\u{1}"];
const GROUPS: [u64; 2] = [1, u64::MAX];

/// One step.
#[derive(Clone, Debug)]
pub enum Action {
    /// Commits something new. Offsets move from where they stand.
    Commit(Box<Commit>),
    /// Commits the last commit again, as a source that replays would: its offsets have moved.
    Replay,
    /// Commits the same claims, notes and states again under the present offsets.
    Repeat,
    /// Commits with an offset of long ago.
    Zombie(Box<Commit>),
    /// Loses the process and opens the store again.
    Reopen,
    /// Removes what expired before the beginning of a day.
    Expire(i64),
    /// Removes the states of an entity's group whose first byte is even.
    Prune(usize, usize),
    /// Trims a log.
    Trim(usize, u64),
}

/// Sequences of steps.
pub fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        8 => commits().prop_map(|commit| Action::Commit(Box::new(commit))),
        1 => Just(Action::Replay),
        2 => Just(Action::Repeat),
        1 => commits().prop_map(|commit| Action::Zombie(Box::new(commit))),
        2 => Just(Action::Reopen),
        2 => (0..8_i64).prop_map(Action::Expire),
        2 => (0..ENTITIES.len(), 0..GROUPS.len()).prop_map(|(entity, group)| Action::Prune(entity, group)),
        1 => (0..LOGS.len(), 0..12_u64).prop_map(|(log, position)| Action::Trim(log, position)),
    ];
    vec(action, 1..24)
}

/// Takes the steps with a store and its twin.
///
/// # Panics
/// Where their answers differ.
pub async fn check(subject: &impl Subject, actions: Vec<Action>) {
    let mut store = subject.open().await;
    let mut twin = Twin::default();
    let mut last = Commit::default();
    for action in actions {
        match &action {
            Action::Commit(commit) => {
                last = placed(&twin, commit);
                commit_both(&store, &mut twin, &last).await;
            }
            Action::Replay => commit_both(&store, &mut twin, &last).await,
            Action::Repeat => {
                last = placed(&twin, &last);
                commit_both(&store, &mut twin, &last).await;
            }
            Action::Zombie(commit) => {
                let mut commit = placed(&twin, commit);
                let from = Some(u64::MAX);
                commit.offsets.push(OffsetMove { source: SOURCE.to_owned(), partition: 0, from, to: 1 });
                commit_both(&store, &mut twin, &commit).await;
            }
            Action::Reopen => {
                drop(store);
                store = subject.open().await;
            }
            Action::Expire(day) => {
                let now = Timestamp::default().plus(Span::from_micros(day * Span::DAY.micros()));
                assert_eq!(store.expire(now).await.expect("expires"), twin.expire(now), "{action:?}");
            }
            Action::Prune(entity, group) => {
                let (entity, group) = (ENTITIES[*entity], GROUPS[*group]);
                let is_stale = |state: &[u8]| state.first().is_some_and(|byte| byte % 2 == 0);
                let removed = store.prune(entity, group, &is_stale).await.expect("prunes");
                assert_eq!(removed, twin.prune(entity, group, is_stale), "{action:?}");
            }
            Action::Trim(log, position) => {
                store.trim_log(LOGS[*log], *position).await.expect("trims");
                twin.trim(LOGS[*log], *position);
            }
        }
        compare(&store, &twin, &action).await;
    }
}

async fn commit_both(store: &impl Store, twin: &mut Twin, commit: &Commit) {
    let expected = twin.commit(commit);
    match (store.commit(commit.clone()).await, expected) {
        (Ok(answer), Ok(expected)) => {
            assert_eq!(answer.claims, expected.claims, "{commit:?}");
            assert_eq!(answer.appended, expected.appended, "{commit:?}");
        }
        (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected.to_string()),
        (answer, expected) => panic!("{commit:?}: {answer:?}, expected {expected:?}"),
    }
}

/// The commit with its offsets moved from where they stand, one after the other.
fn placed(twin: &Twin, commit: &Commit) -> Commit {
    let mut commit = commit.clone();
    let mut offsets = twin.offsets.clone();
    for wanted in &mut commit.offsets {
        let stored = offsets.entry((wanted.source.clone(), wanted.partition));
        wanted.from = match &stored {
            std::collections::btree_map::Entry::Occupied(stored) => Some(*stored.get()),
            std::collections::btree_map::Entry::Vacant(_) => None,
        };
        wanted.to = wanted.from.unwrap_or(0) + 3;
        stored.insert_entry(wanted.to);
    }
    commit
}

async fn compare(store: &impl Store, twin: &Twin, action: &Action) {
    let query = everything();
    let fetched = store.fetch(&query).await.expect("fetches");
    for (query, states) in query.states.iter().zip(&fetched.states) {
        let at = |group: &u64| (query.entity.to_string(), query.key.to_vec(), *group);
        let expected = query.groups.iter().map(|group| twin.states.get(&at(group)).map(|(bytes, _)| bytes.clone()));
        assert_eq!(*states, expected.collect::<Vec<_>>(), "state of {query:?} after {action:?}");
    }
    for (key, row) in query.rows.iter().zip(&fetched.rows) {
        let expected = twin.rows.get(&(key.stream.to_string(), key.id.to_vec())).map(|(bytes, _)| bytes);
        assert_eq!(row.as_ref(), expected, "row {key:?} after {action:?}");
    }
    for (id, record) in query.decisions.iter().zip(&fetched.decisions) {
        let expected = twin.decision(*id);
        assert_eq!(*record, expected.as_ref().map(|decision| decision.record.clone()), "decision after {action:?}");
        let decision = store.decision(*id).await.expect("reads");
        let pair = |decision: StoredParts| decision.map(|decision| (decision.record, decision.appended));
        assert_eq!(pair(decision), pair(expected), "decision after {action:?}");
    }
    for (entity, entries) in query.lists.iter().zip(&fetched.lists) {
        let expected = twin.lists.values().filter(|entry| entry.entity == *entity).cloned();
        assert_eq!(*entries, expected.collect::<Vec<_>>(), "lists of {entity:?} after {action:?}");
        for limit in [1, 5, usize::MAX] {
            let recent = store.recent_decisions(entity, limit).await.expect("reads");
            assert_eq!(recent, twin.recent(entity, limit), "recent of {entity:?} after {action:?}");
        }
    }
    let lists = store.lists().await.expect("reads");
    assert_eq!(lists, twin.lists.values().cloned().collect::<Vec<_>>(), "after {action:?}");
    let waiting = store.outbox(None, 100).await.expect("reads");
    let intents =
        |entries: &[(OutboxPlace, Intent)]| entries.iter().map(|(_, intent)| intent.clone()).collect::<Vec<_>>();
    assert_eq!(intents(&waiting), twin.outbox, "outbox after {action:?}");
    for (at, (place, _)) in waiting.iter().enumerate() {
        let behind = store.outbox(Some(place), 1).await.expect("reads");
        let expected = twin.outbox.iter().skip(at + 1).take(1).cloned().collect::<Vec<_>>();
        assert_eq!(intents(&behind), expected, "outbox behind {at} after {action:?}");
    }
    for log in LOGS {
        for (position, limit) in [(0, 1000), (3, 2)] {
            let entries = store.read_log(log, position, limit).await.expect("reads");
            assert_eq!(entries, twin.read_log(log, position, limit), "log {log:?} after {action:?}");
        }
    }
    let offsets = store.offsets(SOURCE, "first").await.expect("reads");
    let offsets = offsets.into_iter().map(|offset| ((SOURCE.to_owned(), offset.partition), offset.position));
    assert_eq!(offsets.collect::<std::collections::BTreeMap<_, _>>(), twin.offsets, "offsets after {action:?}");
    let other = store.offsets(SOURCE, "second").await;
    if twin.offsets.is_empty() {
        assert!(other.expect("nothing binds yet").is_empty(), "offsets of another incarnation after {action:?}");
        store.offsets(SOURCE, "first").await.expect("takes its place");
    } else {
        assert!(matches!(other, Err(StoreError::Incarnation { .. })), "{other:?}");
    }
}

type StoredParts = Option<crate::port::StoredDecision>;

fn everything() -> Query {
    let pairs = || ENTITIES.into_iter().flat_map(|entity| KEYS.into_iter().map(move |key| (entity, key)));
    let groups: Arc<[u64]> = GROUPS.into();
    Query {
        states: pairs()
            .map(|(entity, key)| StateQuery {
                entity: entity.into(),
                key: key.as_bytes().into(),
                groups: groups.clone(),
            })
            .collect(),
        rows: pairs().map(|(stream, id)| RowKey { stream: stream.into(), id: id.as_bytes().into() }).collect(),
        decisions: (0..IDS).map(id).collect(),
        lists: pairs().map(|(entity, key)| EntityRef { entity: entity.to_owned(), key: key.to_owned() }).collect(),
    }
}

fn id(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn entities() -> impl Strategy<Value = EntityRef> {
    (0..ENTITIES.len(), 0..KEYS.len())
        .prop_map(|(entity, key)| EntityRef { entity: ENTITIES[entity].to_owned(), key: KEYS[key].to_owned() })
}

fn ids() -> impl Strategy<Value = Uuid> {
    (0..IDS).prop_map(id)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

/// An hour into a day, so that stores that sweep whole days and stores that are exact agree on what
/// [`Action::Expire`] removes.
fn expiries() -> impl Strategy<Value = Option<Timestamp>> {
    option::of(0..8_i64)
        .prop_map(|day| day.map(|day| Timestamp::from_micros(day * Span::DAY.micros()).plus(Span::HOUR)))
}

fn commits() -> impl Strategy<Value = Commit> {
    let writes =
        (vec(states(), 0..4), vec(rows(), 0..4), vec(claims(), 0..4), vec(intents(), 0..3), vec(list_writes(), 0..3));
    let rest = (
        vec(appends(), 0..3),
        vec(finished(), 0..4),
        vec(notes(), 0..3),
        vec(moves(), 0..3),
        vec(unblocks(), 0..2),
        weighted(0.1),
    );
    (writes, rest).prop_map(
        |((states, rows, claims, intents, lists), (appends, finished, notes, offsets, unblocks, is_power))| {
            let durability = if is_power { Durability::Power } else { Durability::Process };
            Commit {
                states,
                rows,
                claims,
                intents,
                lists,
                unblocks,
                appends,
                finished,
                notes,
                offsets,
                durability,
                ..Commit::default()
            }
        },
    )
}

fn states() -> impl Strategy<Value = StateWrite> {
    (entities(), 0..GROUPS.len(), option::weighted(0.8, bytes()), expiries()).prop_map(|(at, group, bytes, expires)| {
        let (entity, key) = (at.entity.into(), at.key.into_bytes().into());
        StateWrite { entity, key, group: GROUPS[group], bytes, expires, expected: None }
    })
}

fn rows() -> impl Strategy<Value = RowWrite> {
    (entities(), option::weighted(0.8, bytes()), expiries()).prop_map(|(at, bytes, expires)| RowWrite {
        key: RowKey { stream: at.entity.into(), id: at.key.into_bytes().into() },
        bytes,
        expires,
        expected: None,
    })
}

fn list_entries() -> impl Strategy<Value = ListEntry> {
    let list = prop_oneof![Just(ListKind::ManualBlock), Just(ListKind::Allow), Just(ListKind::AutomaticBlock)];
    (list, entities(), "[a-z]{0,3}", option::of(ids()), days(), expiries()).prop_map(
        |(list, entity, reason, decision, created, expires)| {
            let author = "operator".to_owned();
            ListEntry { list, entity, reason, decision, author, created, expires }
        },
    )
}

fn claims() -> impl Strategy<Value = Claim> {
    let intents = (any::<bool>(), any::<bool>());
    (ids(), bytes(), vec(entities(), 0..3), intents, vec(list_entries(), 0..2)).prop_map(
        |(id, record, entities, (is_block, is_webhook), lists)| {
            let wanted = [("block", is_block), ("webhook", is_webhook)];
            let intent = |action: &str| Intent {
                decision: id,
                action: action.to_owned(),
                payload: "{}".to_owned(),
                created: Timestamp::default(),
            };
            let intents = wanted.iter().filter(|(_, is_wanted)| *is_wanted).map(|(action, _)| intent(action)).collect();
            Claim { id, record, entities, intents, lists }
        },
    )
}

/// Acts of people; their ids are no decision's.
fn intents() -> impl Strategy<Value = Intent> {
    (acts(), prop_oneof![Just("block"), Just("webhook")], "[a-c]").prop_map(|(decision, action, payload)| Intent {
        decision,
        action: action.to_owned(),
        payload,
        created: Timestamp::default(),
    })
}

fn acts() -> impl Strategy<Value = Uuid> {
    (0..IDS / 2).prop_map(|number| id(0x80 | number))
}

fn list_writes() -> impl Strategy<Value = ListWrite> {
    prop_oneof![
        2 => list_entries().prop_map(ListWrite::Set),
        1 => list_entries().prop_map(|entry| ListWrite::Remove { list: entry.list, entity: entry.entity }),
    ]
}

/// Instants of which some are further apart than unblocks are kept.
fn days() -> impl Strategy<Value = Timestamp> {
    (0..12_i64).prop_map(|day| Timestamp::from_micros(day * Span::DAY.micros()))
}

fn unblocks() -> impl Strategy<Value = Unblock> {
    (entities(), days()).prop_map(|(entity, at)| Unblock { entity, at })
}

fn appends() -> impl Strategy<Value = Append> {
    (prop_oneof![Just(LogName::INPUT), Just(LogName::AUDIT)], bytes()).prop_map(|(log, bytes)| Append { log, bytes })
}

fn finished() -> impl Strategy<Value = Finished> {
    let done = prop_oneof![ids(), acts()];
    (done, prop_oneof![Just("block"), Just("webhook")], "[a-c]").prop_map(|(decision, action, result)| Finished {
        decision,
        action: action.to_owned(),
        result,
    })
}

fn notes() -> impl Strategy<Value = Note> {
    (ids(), "[a-c]").prop_map(|(decision, text)| Note { decision, text })
}

fn moves() -> impl Strategy<Value = OffsetMove> {
    (0..PARTITIONS).prop_map(|partition| OffsetMove { source: SOURCE.to_owned(), partition, from: None, to: 0 })
}
