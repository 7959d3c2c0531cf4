//! What several writers of one namespace rest on: stamps, work, leases, presence.

use std::time::Duration;

use super::proxy::Proxy;
use super::*;
use crate::error::Class;
use crate::port::{Append, Fence, Lease, OffsetMove, RowKey, RowWrite, Stamp, StateQuery, StateWrite, WorkId};

const SOON: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

fn state(key: u64, number: u64, expected: Option<Stamp>) -> StateWrite {
    let bytes = Some(Bytes::from(number.to_string()));
    StateWrite { entity: "card".into(), key: key.to_be_bytes().into(), group: 1, bytes, expires: None, expected }
}

fn row_key(key: u64) -> RowKey {
    RowKey { stream: "payments".into(), id: key.to_be_bytes().into() }
}

fn query(keys: std::ops::Range<u64>) -> Query {
    let wanted = |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
    Query { states: keys.clone().map(wanted).collect(), rows: keys.map(row_key).collect(), ..Query::default() }
}

fn states(states: Vec<StateWrite>) -> Commit {
    Commit { states, ..Commit::default() }
}

fn number(bytes: Option<&Bytes>) -> u64 {
    bytes.map_or(0, |bytes| std::str::from_utf8(bytes).unwrap().parse().unwrap())
}

#[test]
fn a_commit_on_top_of_what_was_written_meanwhile_writes_nothing() {
    block_on(async {
        let store = Server::shared().store().await;
        let before = store.snapshot(&query(0..3)).await.unwrap();
        assert_eq!((&before.states, &before.rows), (&vec![vec![Stamp::ABSENT]; 3], &vec![Stamp::ABSENT; 3]));
        let row = RowWrite { key: row_key(1), bytes: Some(Bytes::new()), expires: None, expected: Some(Stamp::ABSENT) };
        let first = Commit { rows: vec![row.clone()], ..states(vec![state(0, 7, Some(Stamp::ABSENT))]) };
        store.commit(first.clone()).await.unwrap();
        let now = store.snapshot(&query(0..3)).await.unwrap();
        assert_eq!(now.commit, before.commit + 1);
        assert_eq!((now.states[0][0], now.rows[1]), (Stamp(now.commit), Stamp(now.commit)));
        for _ in 0..2 {
            let error = store.commit(first.clone()).await.unwrap_err();
            assert!(matches!(&error, StoreError::Conflict { what: "a state", of } if of == "card"), "{error}");
            assert_eq!(error.class(), Class::Stale);
        }
        let stale = Commit { rows: vec![row], ..states(vec![state(2, 1, None), state(0, 8, Some(now.states[0][0]))]) };
        let error = store.commit(stale).await.unwrap_err();
        assert!(matches!(&error, StoreError::Conflict { what: "a row record", of } if of == "payments"), "{error}");
        let same = store.snapshot(&query(0..3)).await.unwrap();
        assert_eq!((same.commit, &same.fetched.states), (now.commit, &now.fetched.states));
        let removed = StateWrite { bytes: None, ..state(0, 0, Some(now.states[0][0])) };
        store.commit(states(vec![removed])).await.unwrap();
        assert_eq!(store.snapshot(&query(0..1)).await.unwrap().states, [[Stamp::ABSENT]]);
    });
}

#[test]
fn a_snapshot_of_thirty_thousand_records_is_one_round_trip_and_one_instant() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::before(&server.socket());
    block_on(async {
        let store = RedisStore::connect(proxy.config(&server)).await.unwrap();
        let moved = OffsetMove { source: "orders".to_owned(), partition: 2, from: None, to: 9 };
        let commit = Commit { offsets: vec![moved], ..states((0..15_000).map(|key| state(key, key, None)).collect()) };
        store.commit(commit).await.unwrap();
        server.say(&["CONFIG", "RESETSTAT"]);
        let (turns, _) = proxy.counted();
        let snapshot = store.snapshot(&query(0..15_000)).await.unwrap();
        assert_eq!(proxy.counted().0, turns + 1, "one question, one answer");
        let read = snapshot.fetched.states.iter().map(|states| number(states[0].as_ref()));
        assert!(read.eq(0..15_000));
        let [position] = snapshot.positions.as_slice() else { panic!("{:?}", snapshot.positions) };
        assert_eq!((position.source.as_str(), position.partition, position.position), ("orders", 2, 9));
        let statistics = server.say(&["INFO", "commandstats"]);
        for (command, calls) in [("multi", 1), ("exec", 1), ("mget", 15), ("hgetall", 1)] {
            assert!(statistics.contains(&format!("cmdstat_{command}:calls={calls},")), "{command}: {statistics}");
        }
    });
}

#[test]
fn what_many_writers_make_is_what_one_after_the_other_makes() {
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 60;
    const KEYS: u64 = 3;
    let config = Server::shared().config();
    block_on(async {
        let writers = (0..WRITERS).map(|writer| {
            let config = config.clone();
            tokio::spawn(async move {
                let store = RedisStore::connect(config).await.unwrap();
                let mut conflicts = 0;
                for round in 0..ROUNDS {
                    let (from, to) = ((writer + round) % KEYS, (writer * 2 + round + 1) % KEYS);
                    loop {
                        let read = store.snapshot(&query(0..KEYS)).await.unwrap();
                        let more = |key: u64| {
                            let at = usize::try_from(key).unwrap();
                            let stored = number(read.fetched.states[at][0].as_ref());
                            state(key, stored + 1, Some(read.states[at][0]))
                        };
                        let writes = if from == to { vec![more(from)] } else { vec![more(from), more(to)] };
                        let count = writes.len() as u64;
                        let entry = Append { log: LogName::AUDIT, bytes: count.to_string().into(), applied_by: None };
                        let commit = Commit { appends: vec![entry], ..states(writes) };
                        match store.commit(commit).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                conflicts
            })
        });
        let mut conflicts = 0;
        for writer in writers.collect::<Vec<_>>() {
            conflicts += writer.await.unwrap();
        }
        assert!(conflicts > 0, "they met");
        let store = RedisStore::connect(config.clone()).await.unwrap();
        let written = store.read_log(LogName::AUDIT, 0, usize::MAX).await.unwrap();
        assert_eq!(written.len() as u64, WRITERS * ROUNDS);
        let expected: u64 = written.iter().map(|(_, count)| number(Some(count))).sum();
        let stored = store.snapshot(&query(0..KEYS)).await.unwrap().fetched.states;
        assert_eq!(stored.iter().map(|states| number(states[0].as_ref())).sum::<u64>(), expected);
    });
}

#[test]
fn work_is_done_once_also_when_a_worker_was_only_slow() {
    let config = RedisConfig { work_capacity: 3, ..Server::shared().config() };
    block_on(async {
        let store = RedisStore::connect(config).await.unwrap();
        let work = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        assert_eq!(store.take_work("one", 10, SOON, LONG).await.unwrap(), []);
        let enqueue = Commit { work: work(&["a", "b", "c"]), ..Commit::default() };
        let (taken, ()) = tokio::join!(store.take_work("one", 2, LONG, LONG), async {
            store.commit(enqueue.clone()).await.unwrap();
        });
        let (a, b) = ((WorkId(0), Bytes::from_static(b"a")), (WorkId(1), Bytes::from_static(b"b")));
        assert_eq!(taken.unwrap(), [a.clone(), b.clone()], "it waited for them");
        assert_eq!(store.take_work("two", 9, SOON, LONG).await.unwrap(), [(WorkId(2), Bytes::from_static(b"c"))]);
        let error = store.commit(Commit { work: work(&["d"]), ..Commit::default() }).await.unwrap_err();
        assert!(matches!(error, StoreError::WorkFull { capacity: 3 }), "{error}");
        let swap = Commit { done: vec![b.0], work: work(&["d"]), ..Commit::default() };
        store.commit(swap).await.expect("it leaves no more than there were");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let again = store.take_work("two", 1, SOON, SOON).await.unwrap();
        assert_eq!(again, [a.clone()], "its worker seems dead");
        let done = |key| Commit { done: vec![a.0], ..states(vec![state(key, 1, None)]) };
        store.commit(done(1)).await.unwrap();
        let error = store.commit(done(2)).await.unwrap_err();
        assert!(matches!(error, StoreError::WorkGone { id: 0 }), "{error}");
        assert_eq!(store.snapshot(&query(2..3)).await.unwrap().states, [[Stamp::ABSENT]]);
        assert_eq!(store.work_waiting().await.unwrap(), 2);
    });
}

#[test]
fn a_lease_has_one_holder_and_fences_those_before() {
    block_on(async {
        let store = Server::shared().store().await;
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let lease = |holder, ttl| store.lease("sweep", holder, ttl);
        assert_eq!(lease(one, LONG).await.unwrap(), Some(Lease { epoch: 1 }));
        assert_eq!(lease(two, LONG).await.unwrap(), None);
        store.release("sweep", two).await.unwrap();
        assert_eq!(lease(one, SOON).await.unwrap(), Some(Lease { epoch: 1 }), "renewed");
        let fenced = |epoch| {
            let fences = vec![Fence { lease: "sweep".to_owned(), epoch }];
            Commit { fences, ..states(vec![state(1, epoch, None)]) }
        };
        store.commit(fenced(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(lease(two, LONG).await.unwrap(), Some(Lease { epoch: 2 }));
        let error = store.commit(fenced(1)).await.unwrap_err();
        assert!(matches!(&error, StoreError::LeaseLost { epoch: 1, .. }), "{error}");
        store.commit(fenced(2)).await.unwrap();
        store.release("sweep", two).await.unwrap();
        assert!(matches!(store.commit(fenced(2)).await, Err(StoreError::LeaseLost { .. })));
        assert_eq!(lease(one, LONG).await.unwrap(), Some(Lease { epoch: 3 }));
        assert_eq!(store.join("scorer", two, LONG).await.unwrap(), [two]);
        assert_eq!(store.join("scorer", one, SOON).await.unwrap(), [one, two]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(store.join("scorer", two, LONG).await.unwrap(), [two]);
        store.leave("scorer", two).await.unwrap();
        assert_eq!(store.join("scorer", one, LONG).await.unwrap(), [one]);
    });
}

#[test]
fn entries_are_applied_in_their_order_and_none_is_skipped() {
    block_on(async {
        let store = Server::shared().store().await;
        let entry = |source: Option<&str>| Append {
            log: LogName::INPUT,
            bytes: Bytes::new(),
            applied_by: source.map(str::to_owned),
        };
        let append = |entries: Vec<Append>| store.commit(Commit { appends: entries, ..Commit::default() });
        assert_eq!(append(vec![entry(Some("http")), entry(Some("http"))]).await.unwrap().appended, [0, 1]);
        assert_eq!(append(vec![entry(Some("http"))]).await.unwrap().appended, [2]);
        assert_eq!(store.positions("http").await.unwrap()[0].position, 2);
        let mixed = append(vec![entry(Some("http")), entry(None)]).await.unwrap_err();
        assert_eq!(mixed.class(), Class::Rejected);
        append(vec![entry(None)]).await.unwrap();
        let error = append(vec![entry(Some("http"))]).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { stored: Some(2), expected: Some(3), .. }), "{error}");
        assert_eq!(store.log_next(LogName::INPUT).await.unwrap(), 4);
    });
}
