//! Several processes on one namespace: what a commit expects, work, leases.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::port::{
    ListEntry, ListWrite, Listed, OffsetMove, Place, RowKey, RowWrite, Snapshot, Stamp, StateQuery, StateWrite,
    Unblock, Unchanged, WorkId,
};
use interdict_features::decision::ListKind;

const SHORT: Duration = Duration::from_millis(1);

fn query(keys: &[u64]) -> Query {
    let state = |key: &u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
    Query { states: keys.iter().map(state).collect(), rows: vec![row()], ..Query::default() }
}

fn row() -> RowKey {
    RowKey { stream: "payments".into(), id: (*b"7").into() }
}

/// Adds one to each of `keys`, as they were read, and moves the writer's own offset.
fn increment(keys: &[u64], read: &Snapshot, source: &str, from: Option<u64>) -> Commit {
    let count = |at: usize| {
        let stored =
            read.fetched.states[at][0].as_deref().map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        Bytes::copy_from_slice(&(stored + 1).to_be_bytes())
    };
    let write = |(at, key): (usize, &u64)| StateWrite {
        entity: "card".into(),
        key: key.to_be_bytes().into(),
        group: 1,
        bytes: Some(count(at)),
        expires: None,
        expected: Some(read.states[at][0]),
    };
    let to = from.map_or(0, |from| from + 1);
    Commit {
        states: keys.iter().enumerate().map(write).collect(),
        offsets: vec![OffsetMove { source: source.to_owned(), partition: 0, from, to }],
        ..Commit::default()
    }
}

#[test]
fn what_was_written_meanwhile_refuses_a_commit_as_a_whole() {
    block_on(async {
        let store = Server::shared().store().await;
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        assert_eq!((&read.states, &read.rows), (&vec![vec![Stamp::ABSENT]; 2], &vec![Stamp::ABSENT]));
        store.commit(increment(&[1, 2], &read, "a", None)).await.unwrap();
        // The same once more: both states are others by now.
        let refused = store.commit(increment(&[1, 2], &read, "b", None)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict), "{refused}");
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        assert_eq!(
            read.fetched.states,
            [
                [Some(Bytes::copy_from_slice(&1_u64.to_be_bytes()))],
                [Some(Bytes::copy_from_slice(&1_u64.to_be_bytes()))]
            ]
        );
        assert_eq!(read.positions.len(), 1, "the refused one moved no offset");
        // One of two is enough, and a row record counts as a state does.
        let mut commit = increment(&[3, 1], &store.snapshot(&query(&[3, 1])).await.unwrap(), "b", None);
        commit.rows = vec![RowWrite {
            key: row(),
            bytes: Some(Bytes::from_static(b"row")),
            expires: None,
            expected: Some(Stamp::ABSENT),
        }];
        store.commit(commit.clone()).await.unwrap();
        commit.states.clear();
        commit.offsets.clear();
        assert!(matches!(store.commit(commit.clone()).await.unwrap_err(), StoreError::Conflict));
        // What is removed again is as it never was.
        let read = store.snapshot(&query(&[])).await.unwrap();
        commit.rows[0].bytes = None;
        commit.rows[0].expected = Some(read.rows[0]);
        store.commit(commit.clone()).await.unwrap();
        commit.rows[0].expected = Some(Stamp::ABSENT);
        commit.rows[0].bytes = Some(Bytes::from_static(b"other"));
        store.commit(commit).await.unwrap();
    });
}

#[test]
fn what_a_commit_rests_on_and_does_not_write_refuses_it_once_it_has_changed() {
    block_on(async {
        let store = Server::shared().store().await;
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        let state = Place::State { entity: "card".into(), key: 2_u64.to_be_bytes().into(), group: 1 };
        let resting = |read: &Snapshot, source: &str| {
            let states = Unchanged { place: state.clone(), expected: read.states[1][0] };
            let rows = Unchanged { place: Place::Row(row()), expected: read.rows[0] };
            Commit { unchanged: vec![states, rows], ..increment(&[1], read, source, None) }
        };
        store.commit(resting(&read, "a")).await.unwrap();
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        store.commit(increment(&[2], &store.snapshot(&query(&[2])).await.unwrap(), "b", None)).await.unwrap();
        let refused = store.commit(resting(&read, "c")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict), "{refused}");
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        store.commit(resting(&read, "c")).await.unwrap();
        let read = store.snapshot(&query(&[1, 2])).await.unwrap();
        let (key, bytes) = (row(), Some(Bytes::from_static(b"row")));
        let rows = vec![RowWrite { key, bytes, expires: None, expected: None }];
        store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
        assert!(matches!(store.commit(resting(&read, "d")).await.unwrap_err(), StoreError::Conflict));
    });
}

#[test]
fn what_was_read_of_lists_refuses_a_commit_once_it_has_changed() {
    let card = EntityRef { entity: "card".to_owned(), key: "7".to_owned() };
    let entry = |list: ListKind| ListEntry {
        list,
        entity: card.clone(),
        reason: "burst".to_owned(),
        decision: None,
        author: "ann".to_owned(),
        created: Timestamp::from_micros(5),
        expires: None,
    };
    let remove = |list: ListKind, listed: Listed| {
        let lists = vec![ListWrite::Remove { list, entity: card.clone() }];
        let unblocks = vec![Unblock { entity: card.clone(), at: Timestamp::from_micros(1_750_000_000_000_001) }];
        Commit { lists, unblocks, listed: vec![listed], ..Commit::default() }
    };
    block_on(async {
        let store = Server::shared().store().await;
        let lists = [ListKind::ManualBlock, ListKind::AutomaticBlock].map(|list| ListWrite::Set(entry(list)));
        store.commit(Commit { lists: lists.to_vec(), ..Commit::default() }).await.unwrap();
        let (found, listed) = store.entries(&card).await.unwrap();
        assert_eq!((found.len(), listed.unblocked()), (2, None));
        // Each of two people takes another entry away, and neither has seen that of the other go.
        store.commit(remove(ListKind::ManualBlock, listed.clone())).await.unwrap();
        let refused = store.commit(remove(ListKind::AutomaticBlock, listed)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict), "{refused}");
        let (found, listed) = store.entries(&card).await.unwrap();
        assert_eq!(found, [entry(ListKind::AutomaticBlock)]);
        assert_eq!(listed.unblocked(), Some(Timestamp::from_micros(1_750_000_000_000_001)));
        store.commit(remove(ListKind::AutomaticBlock, listed.clone())).await.unwrap();
        // Somebody let go counts as well as an entry.
        let unblocks = vec![Unblock { entity: card.clone(), at: Timestamp::from_micros(1_750_000_000_000_002) }];
        let (_, listed) = store.entries(&card).await.unwrap();
        store.commit(Commit { unblocks, ..Commit::default() }).await.unwrap();
        let refused = store.commit(Commit { listed: vec![listed], ..Commit::default() }).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict), "{refused}");
    });
}

#[test]
fn writers_at_once_lose_nothing() {
    const WRITERS: u64 = 4;
    const TIMES: u64 = 60;
    block_on(async {
        let config = Server::shared().config();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let config = config.clone();
            writers.spawn(async move {
                let store = RedisStore::connect(config).await.unwrap();
                let (source, mut from, mut conflicts) = (format!("writer-{writer}"), None, 0);
                for time in 0..TIMES {
                    let keys = [time % 3, 3 + (time + writer) % 5];
                    loop {
                        let read = store.snapshot(&query(&keys)).await.unwrap();
                        match store.commit(increment(&keys, &read, &source, from)).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    from = Some(from.map_or(0, |from| from + 1));
                }
                conflicts
            });
        }
        let conflicts: u64 = writers.join_all().await.into_iter().sum();
        assert!(conflicts > 0, "they never met");
        let store = RedisStore::connect(config).await.unwrap();
        let read = store.snapshot(&query(&[0, 1, 2, 3, 4, 5, 6, 7])).await.unwrap();
        let counted =
            |states: &Vec<Option<Bytes>>| u64::from_be_bytes(states[0].as_deref().unwrap().try_into().unwrap());
        assert_eq!(read.fetched.states.iter().map(counted).sum::<u64>(), 2 * WRITERS * TIMES);
        assert!(read.positions.iter().all(|at| at.position == TIMES - 1), "{:?}", read.positions);
    });
}

fn work(pieces: std::ops::Range<u64>) -> Commit {
    Commit { work: pieces.map(|piece| Bytes::copy_from_slice(&piece.to_be_bytes())).collect(), ..Commit::default() }
}

async fn take(store: &RedisStore, worker: &str, limit: usize, abandoned_after: Duration) -> Vec<(WorkId, Bytes)> {
    store.take_work(worker, limit, SHORT, abandoned_after).await.unwrap()
}

fn numbers(taken: &[(WorkId, Bytes)]) -> Vec<u64> {
    taken.iter().map(|(_, piece)| u64::from_be_bytes(piece.as_ref().try_into().unwrap())).collect()
}

#[test]
fn work_stays_until_it_is_done_whoever_has_taken_it() {
    let long = Duration::from_secs(600);
    block_on(async {
        let store = Server::shared().store().await;
        assert!(take(&store, "a", 10, long).await.is_empty(), "nobody ever asked before");
        store.commit(work(0..5)).await.unwrap();
        let first = take(&store, "a", 3, long).await;
        assert_eq!(numbers(&first), [0, 1, 2]);
        assert_eq!(numbers(&take(&store, "b", 3, long).await), [3, 4]);
        assert!(take(&store, "b", 3, long).await.is_empty());
        assert_eq!(store.work_waiting().await.unwrap(), 5);
        // The first worker has died after it did one of its pieces.
        let done = vec![first[0].0.clone()];
        store.commit(Commit { done: done.clone(), ..Commit::default() }).await.unwrap();
        store.commit(Commit { done, ..Commit::default() }).await.unwrap();
        let mut left = take(&store, "b", 10, Duration::ZERO).await;
        left.sort_by_key(|(_, piece)| piece.clone());
        assert_eq!(numbers(&left), [1, 2, 3, 4]);
        let done = left.into_iter().map(|(id, _)| id).collect();
        store.commit(Commit { done, ..Commit::default() }).await.unwrap();
        assert!(take(&store, "b", 10, Duration::ZERO).await.is_empty());
        assert_eq!(store.work_waiting().await.unwrap(), 0);
    });
}

#[test]
fn whoever_waits_for_work_has_it_at_once_and_keeps_nobody_waiting() {
    block_on(async {
        let store = Arc::new(Server::shared().store().await);
        take(&store, "a", 1, SHORT).await;
        let waiting = Arc::clone(&store);
        let waits = tokio::spawn(async move {
            let long = Duration::from_secs(5);
            waiting.take_work("a", 10, long, long).await.unwrap()
        });
        let asked = tokio::time::Instant::now();
        store.fetch(&query(&[1])).await.unwrap();
        store.commit(work(0..1)).await.unwrap();
        assert_eq!(numbers(&waits.await.unwrap()), [0]);
        assert!(asked.elapsed() < Duration::from_secs(4));
    });
}

#[test]
fn the_queue_of_work_is_bounded_and_takes_any_commit_when_it_is_empty() {
    block_on(async {
        let config = RedisConfig { work_capacity: 3, ..Server::shared().config() };
        let store = RedisStore::connect(config).await.unwrap();
        store.commit(work(0..5)).await.unwrap();
        let refused = store.commit(work(5..6)).await.unwrap_err();
        assert!(matches!(refused, StoreError::WorkFull { capacity: 3 }), "{refused}");
        let taken = take(&store, "a", 10, SHORT).await;
        if taken.is_empty() {
            // The first one to ask made the group.
            let taken = take(&store, "a", 10, SHORT).await;
            store
                .commit(Commit { done: taken.into_iter().map(|(id, _)| id).collect(), ..Commit::default() })
                .await
                .unwrap();
        }
        store.commit(work(5..6)).await.unwrap();
    });
}

#[test]
fn a_lease_has_one_holder_and_its_epoch_never_goes_back() {
    let (long, a, b) = (Duration::from_secs(600), Uuid::from_u128(1), Uuid::from_u128(2));
    block_on(async {
        let store = Server::shared().store().await;
        let epoch = async |holder, time_to_live| {
            store.lease("monitor", holder, time_to_live).await.unwrap().map(|lease| lease.epoch)
        };
        let first = epoch(a, long).await.unwrap();
        assert_eq!(epoch(b, long).await, None);
        assert_eq!(epoch(a, SHORT).await, Some(first), "renewed, and ending soon");
        let taken_over = async || loop {
            if let Some(epoch) = epoch(b, long).await {
                return epoch;
            }
        };
        let second = taken_over().await;
        assert!(first < second, "{first} {second}");
        assert_eq!(epoch(a, long).await, None);
        store.release(&["monitor".to_owned()], a).await.unwrap();
        assert_eq!(epoch(a, long).await, None, "what another one holds is not given back");
        store.release(&["monitor".to_owned()], b).await.unwrap();
        let third = epoch(b, long).await.unwrap();
        assert!(second < third, "{second} {third}");
        // One that nobody knows any more, as behind a fail-over, goes on above what was seen.
        store.release(&["monitor".to_owned()], b).await.unwrap();
        assert_eq!(store.leases("monitor", Some("monitor")).await.unwrap(), []);
        let from =
            async |holder, seen| store.lease_from("monitor", holder, long, seen).await.unwrap().map(|it| it.epoch);
        let fourth = from(a, third).await.unwrap();
        assert!(third < fourth, "{third} {fourth}");
        // Nor does it stay below what was seen of a server that is lost.
        let seen = fourth + 1_000_000_000;
        assert_eq!(from(a, fourth).await, Some(fourth));
        assert_eq!(from(b, seen).await, None);
        assert_eq!(from(a, seen).await, Some(seen + 1));
        assert_eq!(from(a, seen).await, Some(seen + 1));
        store.release(&["monitor".to_owned()], a).await.unwrap();
        assert_eq!(from(b, seen + 1).await, Some(seen + 2), "another one's is another");
    });
}

#[test]
fn leases_are_listed_while_they_are_held_and_passing_ones_are_forgotten() {
    let (long, a, b) = (Duration::from_secs(600), Uuid::from_u128(1), Uuid::from_u128(2));
    block_on(async {
        let store = Server::shared().store().await;
        let held = async || {
            let leases = store.leases("topic/payments/", Some("topic/payments/reader/")).await.unwrap();
            leases.into_iter().map(|it| (it.name, it.holder)).collect::<Vec<_>>()
        };
        assert_eq!(held().await, []);
        for name in ["topic/payments/reader/a", "topic/payments/10", "topic/payments/2", "topic/payment", "monitor"] {
            store.lease(name, a, long).await.unwrap().unwrap();
        }
        store.lease("topic/payments/reader/b", b, SHORT).await.unwrap().unwrap();
        store.lease("topic/payments/3", b, SHORT).await.unwrap().unwrap();
        let mine = ["topic/payments/10", "topic/payments/2", "topic/payments/reader/a"];
        let mine: Vec<_> = mine.iter().map(|name| ((*name).to_owned(), a)).collect();
        // Those of the other one end by themselves.
        while held().await != mine {}
        store.lease("topic/payments/3", a, long).await.unwrap().unwrap();
        store.lease("topic/payments/reader/b", b, long).await.unwrap().unwrap();
        for name in ["topic/payments/3", "topic/payments/reader/b"] {
            assert!(held().await.iter().any(|(held, _)| held == name));
            store.release(&[name.to_owned()], if name.ends_with('b') { b } else { a }).await.unwrap();
        }
        assert_eq!(held().await, mine);
        let several = ["topic/payments/3", "topic/payments/2", "topic/payments/4"].map(str::to_owned);
        let leases = store.lease_all(&several, b, long).await.unwrap();
        assert_eq!(leases.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(held().await.len(), 5);
        store.release(&several, b).await.unwrap();
        assert_eq!(held().await, mine);
    });
}
