//! What goes over the wire: one round trip per read, and commits whose answers are lost.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::error::Class;
use crate::port::{
    Append, Claim, ClaimOutcome, Durability, ListWrite, OffsetMove, RowKey, RowWrite, StateQuery, StateWrite,
};

/// What happens to what comes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Traffic {
    Passes,
    /// The next answer is lost and its connection with it.
    LosesAnAnswer,
    /// Requests of connections that are there stand still.
    HoldsRequests,
    /// Answers stand still.
    HoldsAnswers,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    /// Pieces in which requests came.
    requests: AtomicU64,
    /// How often a request came after an answer (or first).
    turns: AtomicU64,
}

struct Shared {
    upstream: PathBuf,
    traffic: Mutex<Traffic>,
    changed: Condvar,
    counters: Counters,
}

/// Stands between a store and its server.
struct Proxy {
    folder: TempDir,
    shared: Arc<Shared>,
}

impl Proxy {
    fn before(upstream: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("proxy")).unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            traffic: Mutex::new(Traffic::Passes),
            changed: Condvar::new(),
            counters: Counters::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(server) = UnixStream::connect(&accepting.upstream) else { continue };
                accepting.carry(client.unwrap(), server);
            }
        });
        Self { folder, shared }
    }

    fn config(&self, server: &Server) -> RedisConfig {
        let url = format!("unix://{}", self.folder.path().join("proxy").display());
        let namespace = server.config().namespace;
        RedisConfig { wait: Duration::from_secs(30), ..RedisConfig::new(&namespace, &[&url]).unwrap() }
    }

    fn set(&self, traffic: Traffic) {
        *self.shared.traffic.lock().unwrap() = traffic;
        self.shared.changed.notify_all();
    }

    fn counted(&self) -> (u64, u64) {
        let counters = &self.shared.counters;
        (counters.turns.load(Ordering::SeqCst), counters.requests.load(Ordering::SeqCst))
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: UnixStream, server: UnixStream) {
        self.counters.connections.fetch_add(1, Ordering::SeqCst);
        let is_first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (shared, asks) = (Arc::clone(self), Arc::clone(&is_first));
        let born_under = *self.traffic.lock().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                shared.counters.requests.fetch_add(1, Ordering::SeqCst);
                shared.counters.turns.fetch_add(u64::from(asks.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
                let mut traffic = shared.traffic.lock().unwrap();
                while *traffic == Traffic::HoldsRequests && born_under != Traffic::HoldsRequests {
                    traffic = shared.changed.wait(traffic).unwrap();
                }
                drop(traffic);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _gone = to.shutdown(std::net::Shutdown::Write);
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let (mut from, mut to) = (server, client);
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let mut traffic = shared.traffic.lock().unwrap();
                while *traffic == Traffic::HoldsAnswers {
                    traffic = shared.changed.wait(traffic).unwrap();
                }
                if *traffic == Traffic::LosesAnAnswer {
                    *traffic = Traffic::Passes;
                    break;
                }
                drop(traffic);
                is_first.store(true, Ordering::SeqCst);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _gone = (to.shutdown(std::net::Shutdown::Both), from.shutdown(std::net::Shutdown::Both));
        });
    }
}

fn entity(number: u64) -> EntityRef {
    EntityRef { entity: "card".to_owned(), key: number.to_string() }
}

fn claim(number: u64) -> Claim {
    let record = Bytes::from(format!("{{\"number\":{number}}}"));
    let id = Uuid::from_u64_pair(3, number);
    Claim { id, record, entities: vec![entity(number)], intents: Vec::new(), lists: Vec::new() }
}

fn state(key: u64, group: u64, body: &[u8]) -> StateWrite {
    let key = key.to_be_bytes().into();
    let bytes = Some(Bytes::copy_from_slice(body));
    StateWrite { entity: "card".into(), key, group, bytes, expires: None }
}

/// Everything that commit `number` of a source writes.
fn numbered(number: u64) -> Commit {
    let from = number.checked_sub(1).filter(|from| *from > 0);
    Commit {
        states: (0..20).map(|key| state(key, 1, &number.to_be_bytes())).collect(),
        claims: vec![claim(number)],
        appends: vec![Append { log: LogName::INPUT, bytes: Bytes::from(number.to_string()) }],
        offsets: vec![OffsetMove { source: "orders".to_owned(), partition: 0, from, to: number }],
        ..Commit::default()
    }
}

/// The same without an offset that would tell a second time from the first.
fn unguarded(number: u64) -> Commit {
    Commit { offsets: Vec::new(), claims: Vec::new(), ..numbered(number) }
}

async fn input(store: &RedisStore) -> Vec<String> {
    let entries = store.read_log(LogName::INPUT, 0, usize::MAX).await.unwrap();
    entries.into_iter().map(|(_, entry)| String::from_utf8(entry.to_vec()).unwrap()).collect()
}

#[test]
fn one_read_is_one_write_and_one_answer() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::before(&server.socket());
    block_on(async {
        let store = RedisStore::connect(proxy.config(&server)).await.unwrap();
        let entry = crate::port::ListEntry {
            list: interdict_features::decision::ListKind::ManualBlock,
            entity: entity(1),
            reason: "stolen".to_owned(),
            decision: None,
            author: "operator".to_owned(),
            created: Timestamp::default(),
            expires: None,
        };
        let key = RowKey { stream: "payments".into(), id: (*b"7").into() };
        let commit = Commit {
            states: (0..3).flat_map(|key| [state(key, 1, b"one"), state(key, 2, b"two")]).collect(),
            rows: vec![RowWrite { key: key.clone(), bytes: Some(Bytes::from_static(b"row")), expires: None }],
            lists: vec![ListWrite::Set(entry.clone())],
            ..numbered(1)
        };
        store.commit(commit).await.unwrap();
        let wanted =
            |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1, 2, 3].into() };
        let query = Query {
            states: (0..3).map(wanted).collect(),
            rows: vec![key],
            decisions: vec![Uuid::from_u64_pair(3, 1), Uuid::from_u64_pair(3, 2)],
            lists: (0..3).map(entity).collect(),
        };
        let feeds =
            [Feed { source: "orders".to_owned(), partition: 0 }, Feed { source: "orders".to_owned(), partition: 1 }];
        server.say(&["CONFIG", "RESETSTAT"]);
        let (turns, requests) = proxy.counted();
        let (fetched, positions) = store.fetch_with_positions(&query, &feeds).await.unwrap();
        assert_eq!(proxy.counted(), (turns + 1, requests + 1), "round trips and writes");
        let state = [Some(Bytes::from_static(b"one")), Some(Bytes::from_static(b"two")), None];
        assert_eq!(fetched.states, [state.clone(), state.clone(), state]);
        assert_eq!(fetched.rows, [Some(Bytes::from_static(b"row"))]);
        assert_eq!(fetched.decisions, [Some(claim(1).record), None]);
        assert_eq!(fetched.lists, [vec![], vec![entry], vec![]]);
        assert_eq!(positions, [Some(1), None]);
        let statistics = server.say(&["INFO", "commandstats"]);
        let calls = |command: &str| {
            let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<u64>().unwrap())
        };
        // The positions, everything that is a record, the lists; and the questions about them.
        assert_eq!((calls("hmget"), calls("mget"), calls("config|resetstat")), (2, 1, 1), "{statistics}");
    });
}

#[test]
fn all_callers_share_two_connections() {
    let proxy = Proxy::before(&Server::shared().socket());
    block_on(async {
        let store = Arc::new(RedisStore::connect(proxy.config(Server::shared())).await.unwrap());
        let mut readers = tokio::task::JoinSet::new();
        for key in 0..200_u64 {
            let store = Arc::clone(&store);
            readers.spawn(async move {
                store.commit(unguarded(key)).await.unwrap();
                let wanted = StateQuery { entity: "card".into(), key: [0; 8].into(), groups: [1].into() };
                store.fetch(&Query { states: vec![wanted], ..Query::default() }).await.unwrap().states[0][0].is_some()
            });
        }
        assert!(readers.join_all().await.into_iter().all(|is_there| is_there));
        assert_eq!(input(&store).await.len(), 200);
    });
    assert_eq!(proxy.shared.counters.connections.load(Ordering::SeqCst), 2);
}

#[test]
fn a_commit_whose_answer_is_lost_is_asked_about_and_not_made_twice() {
    let proxy = Proxy::before(&Server::shared().socket());
    block_on(async {
        let store = RedisStore::connect(proxy.config(Server::shared())).await.unwrap();
        for number in 1..=5 {
            proxy.set(Traffic::LosesAnAnswer);
            let answer = store.commit(numbered(number)).await.unwrap();
            assert_eq!(answer.claims, [ClaimOutcome::Claimed { position: number - 1 }]);
            assert_eq!(answer.appended, [number - 1]);
        }
        let second = Claim { record: Bytes::from_static(b"{}"), ..claim(1) };
        proxy.set(Traffic::LosesAnAnswer);
        let answer = store.commit(Commit { claims: vec![second, claim(9)], ..Commit::default() }).await.unwrap();
        let expected = [ClaimOutcome::Existing(claim(1).record), ClaimOutcome::Claimed { position: 5 }];
        assert_eq!(answer.claims, expected, "the record that was there is found again");
        assert_eq!(input(&store).await, ["1", "2", "3", "4", "5"]);
    });
}

#[test]
fn a_commit_in_doubt_is_settled_when_its_caller_makes_it_again() {
    let proxy = Proxy::before(&Server::shared().socket());
    block_on(async {
        let config = RedisConfig { wait: Duration::ZERO, ..proxy.config(Server::shared()) };
        let store = RedisStore::connect(config).await.unwrap();
        for commit in [unguarded(1), numbered(1)] {
            proxy.set(Traffic::LosesAnAnswer);
            let error = store.commit(commit.clone()).await.unwrap_err();
            assert_eq!(error.class(), Class::Transient, "{error}");
            store.commit(Commit { states: vec![state(99, 1, b"")], ..Commit::default() }).await.unwrap();
            let appended = input(&store).await.len() as u64;
            assert_eq!(store.commit(commit.clone()).await.unwrap().appended, [appended - 1], "it was made");
            assert_eq!(input(&store).await.len() as u64, appended);
        }
        let error = store.commit(numbered(1)).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Fenced { stored: Some(1), .. }),
            "a second time it is another one: {error}"
        );
        assert_eq!(store.commit(unguarded(1)).await.unwrap().appended, [2], "wanted a second time, it is made");
    });
}

#[test]
fn a_commit_whose_caller_went_away_is_not_made_twice() {
    let proxy = Proxy::before(&Server::shared().socket());
    block_on(async {
        let store = RedisStore::connect(proxy.config(Server::shared())).await.unwrap();
        proxy.set(Traffic::HoldsAnswers);
        let (_, requests) = proxy.counted();
        let commit = store.commit(unguarded(1));
        let is_sent = async {
            while proxy.counted().1 == requests {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = commit => unreachable!("its answer is held"),
            () = is_sent => {}
        }
        proxy.set(Traffic::Passes);
        assert_eq!(store.commit(unguarded(1)).await.unwrap().appended, [0]);
        assert_eq!(input(&store).await, ["1"]);
    });
}

#[test]
fn what_an_old_connection_still_holds_comes_too_late() {
    let proxy = Proxy::before(&Server::shared().socket());
    block_on(async {
        let config = RedisConfig { response_timeout: Duration::from_millis(400), ..proxy.config(Server::shared()) };
        let store = RedisStore::connect(config).await.unwrap();
        proxy.set(Traffic::HoldsRequests);
        // Its first connections stand still, those made after them do not.
        assert_eq!(store.commit(unguarded(1)).await.unwrap().appended, [0]);
        assert_eq!(store.commit(unguarded(2)).await.unwrap().appended, [1]);
        let calls = || {
            let statistics = Server::shared().say(&["INFO", "commandstats"]);
            let line =
                statistics.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=").map(str::to_owned));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<u64>().unwrap())
        };
        let before = calls();
        proxy.set(Traffic::Passes);
        tokio::time::timeout(Duration::from_secs(30), async {
            while calls() == before {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the held request arrives");
        assert_eq!(input(&store).await, ["1", "2"]);
    });
}

#[test]
fn scripts_that_the_server_forgot_are_loaded_again() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let store = server.store().await;
        for number in 1..=3 {
            server.say(&["SCRIPT", "FLUSH"]);
            assert_eq!(store.commit(numbered(number)).await.unwrap().appended, [number - 1]);
            server.say(&["SCRIPT", "FLUSH"]);
            assert_eq!(store.recent_decisions(&entity(number), 9).await.unwrap(), [claim(number).record]);
        }
    });
}

#[test]
fn one_of_many_racing_claims_wins_and_readers_see_commits_whole() {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 50;
    block_on(async {
        let config = Server::shared().config();
        let mut writers = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let config = config.clone();
            writers.spawn(async move {
                let store = RedisStore::connect(config).await.unwrap();
                let mut claimed = 0;
                for round in 0..ROUNDS {
                    let body = (task * ROUNDS + round).to_be_bytes();
                    let claim = Claim { record: Bytes::copy_from_slice(&body), ..claim(round) };
                    let states = (0..64).map(|number| state(number / 2, number % 2, &body)).collect();
                    let answer =
                        store.commit(Commit { claims: vec![claim], states, ..Commit::default() }).await.unwrap();
                    claimed += u64::from(matches!(answer.claims[0], ClaimOutcome::Claimed { .. }));
                }
                claimed
            });
        }
        let store = RedisStore::connect(config).await.unwrap();
        let wanted =
            |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [0, 1].into() };
        let query = Query { states: (0..32).map(wanted).collect(), ..Query::default() };
        let mut claimed = 0;
        while !writers.is_empty() {
            let fetched = store.fetch(&query).await.unwrap();
            let states = fetched.states.concat();
            assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "a commit was seen in part");
            while let Some(count) = writers.try_join_next() {
                claimed += count.unwrap();
            }
        }
        assert_eq!(claimed, ROUNDS);
        assert_eq!(store.read_log(LogName::DECISIONS, 0, 1000).await.unwrap().len() as u64, ROUNDS);
    });
}

#[test]
fn commits_over_the_bounds_are_refused_before_they_are_sent() {
    block_on(async {
        let store = Server::shared().store().await;
        let states = (0..300_000).map(|key| state(key, 1, b"")).collect();
        let error = store.commit(Commit { states, ..numbered(1) }).await.unwrap_err();
        assert!(error.to_string().contains("commit more often"), "{error}");
        assert_eq!(error.class(), Class::Rejected);
        let states = (0..3).map(|key| state(key, 1, &vec![0; 50 << 20])).collect();
        let error = store.commit(Commit { states, ..numbered(1) }).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { what: "one commit", .. }), "{error}");
        // As large as may be, in one piece.
        let states = (0..200_000).map(|key| state(key, 1, b"large")).collect();
        let durability = Durability::Power;
        assert_eq!(store.commit(Commit { states, durability, ..numbered(1) }).await.unwrap().appended, [0]);
    });
}
