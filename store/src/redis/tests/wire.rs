//! What goes over the wire: one round trip per read, and commits whose answers are lost.

use std::sync::Arc;
use std::time::Duration;

use super::proxy::{Proxy, Traffic};
use super::*;
use crate::error::Class;
use crate::port::{
    Append, Claim, ClaimOutcome, Durability, ListWrite, OffsetMove, RowKey, RowWrite, StateQuery, StateWrite,
};
use crate::port::{Snapshot, SourcePosition, Stamp};

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
    StateWrite { entity: "card".into(), key, group, bytes, expires: None, expected: None }
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
            rows: vec![RowWrite {
                key: key.clone(),
                bytes: Some(Bytes::from_static(b"row")),
                expires: None,
                expected: None,
            }],
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
        server.say(&["CONFIG", "RESETSTAT"]);
        let (turns, requests) = proxy.counted();
        let Snapshot { fetched, states, rows, positions } = store.snapshot(&query).await.unwrap();
        assert_eq!(proxy.counted(), (turns + 1, requests + 1), "round trips and writes");
        let state = [Some(Bytes::from_static(b"one")), Some(Bytes::from_static(b"two")), None];
        assert_eq!(fetched.states, [state.clone(), state.clone(), state]);
        assert_eq!(fetched.rows, [Some(Bytes::from_static(b"row"))]);
        assert_eq!(fetched.decisions, [Some(claim(1).record), None]);
        assert_eq!(fetched.lists, [vec![], vec![entry], vec![]]);
        let is_there = [true, true, false];
        assert!(states.iter().all(|stamps| stamps.iter().map(|stamp| *stamp != Stamp::ABSENT).eq(is_there)));
        assert_ne!(rows, [Stamp::ABSENT]);
        assert_eq!(positions, [SourcePosition { source: "orders".to_owned(), partition: 0, position: 1 }]);
        let statistics = server.say(&["INFO", "commandstats"]);
        let calls = |command: &str| {
            let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<u64>().unwrap())
        };
        // The positions, everything that is a record, the lists; and the questions about them.
        let calls = ["hgetall", "hmget", "mget", "exec"].map(calls);
        assert_eq!(calls, [1, 1, 1, 1], "{statistics}");
    });
}

#[test]
fn all_callers_share_three_connections() {
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
    assert_eq!(proxy.connections(), 3);
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
fn a_commit_in_doubt_that_nobody_makes_again_keeps_its_own_answer_and_no_other() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::before(&server.socket());
    let fields = |server: &Server| {
        let count = "return redis.call('HLEN', redis.call('KEYS', ARGV[1])[1])";
        server.say(&["EVAL", count, "0", "*:writer:*"]).trim().parse::<u64>().unwrap()
    };
    block_on(async {
        let config = RedisConfig { wait: Duration::ZERO, ..proxy.config(&server) };
        let store = RedisStore::connect(config).await.unwrap();
        for number in [1, 2] {
            proxy.set(Traffic::LosesAnAnswer);
            store.commit(unguarded(number)).await.unwrap_err();
        }
        let mut most = 0;
        for number in 0..1_000_u64 {
            let states = vec![state(99, 1, &number.to_be_bytes())];
            store.commit(Commit { states, ..Commit::default() }).await.unwrap();
            most = most.max(fields(&server));
        }
        assert!(most <= 150, "{most} answers are kept");
        for number in [2, 1] {
            assert_eq!(store.commit(unguarded(number)).await.unwrap().appended, [number - 1], "it was made");
        }
        assert_eq!(input(&store).await, ["1", "2"]);
        assert_eq!(store.commit(unguarded(1)).await.unwrap().appended, [2], "wanted a second time, it is made");
    });
}

#[test]
fn a_commit_in_doubt_that_arrives_late_takes_nothing_back() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::before(&server.socket());
    block_on(async {
        let config = proxy.config(&server);
        let config = RedisConfig { wait: Duration::ZERO, response_timeout: Duration::from_secs(3), ..config };
        let store = RedisStore::connect(config).await.unwrap();
        proxy.set(Traffic::HoldsRequests);
        store.commit(unguarded(1)).await.unwrap_err();
        for number in 0..150_u64 {
            let states = vec![state(99, 1, &number.to_be_bytes())];
            store.commit(Commit { states, ..Commit::default() }).await.unwrap();
        }
        let standing =
            "return table.concat(redis.call('HMGET', redis.call('KEYS', ARGV[1])[1], 'turn', 'low', 'kept'), ' ')";
        let standing = || server.say(&["EVAL", standing, "0", "*:writer:*"]);
        let before = standing();
        assert!(before.contains(",1,"), "{before}");
        proxy.set(Traffic::Passes);
        tokio::time::timeout(Duration::from_secs(30), async {
            while input(&store).await.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the held request arrives");
        assert_eq!(standing(), before, "what was said later holds");
        assert_eq!(store.commit(unguarded(1)).await.unwrap().appended, [0], "it was made");
        assert_eq!(input(&store).await, ["1"]);
    });
}

#[test]
fn a_commit_stays_in_doubt_whatever_is_said_meanwhile() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(&server.socket());
    block_on(async {
        let config = RedisConfig { wait: Duration::ZERO, ..proxy.config(&server) };
        let store = RedisStore::connect(config).await.unwrap();
        proxy.set(Traffic::LosesAnAnswer);
        store.commit(numbered(1)).await.unwrap_err();
        for replicas in ["1", "0"] {
            server.say(&["CONFIG", "SET", "min-replicas-to-write", replicas]);
            let made = store.commit(numbered(1)).await;
            assert_eq!(made.is_ok(), replicas == "0", "{made:?}");
            assert_eq!(input(&store).await, ["1"]);
        }
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
fn a_paused_server_is_waited_for() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::before(&server.socket());
    block_on(async {
        let config = RedisConfig { response_timeout: Duration::from_millis(200), ..proxy.config(&server) };
        let store = RedisStore::connect(config).await.unwrap();
        store.commit(numbered(1)).await.unwrap();
        server.signal(rustix::process::Signal::STOP);
        let awake = async {
            // Its first attempt timed out, and another connection stands in line.
            while proxy.connections() < 3 {
                tokio::task::yield_now().await;
            }
            server.signal(rustix::process::Signal::CONT);
        };
        let (second, ()) = tokio::join!(store.commit(numbered(2)), awake);
        assert_eq!(second.unwrap().appended, [1]);
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
fn the_next_position_of_a_log_outlives_its_entries() {
    block_on(async {
        let store = Server::shared().store().await;
        let next = async |log| store.log_next(log).await.unwrap();
        assert_eq!((next(LogName::INPUT).await, next(LogName::DECISIONS).await), (0, 0));
        store.commit(numbered(1)).await.unwrap();
        store.commit(unguarded(2)).await.unwrap();
        for log in [LogName::INPUT, LogName::DECISIONS] {
            store.trim_log(log, u64::MAX).await.unwrap();
        }
        store.sync().await.unwrap();
        assert_eq!((next(LogName::INPUT).await, next(LogName::DECISIONS).await), (2, 1));
        assert_eq!(store.positions("orders").await.unwrap(), [Offset { partition: 0, position: 1 }]);
        assert_eq!(store.positions("order").await.unwrap(), []);
    });
}

#[test]
fn decisions_are_kept_as_long_as_configured() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let config = RedisConfig { decisions_keep: Some(Duration::from_secs(86_400)), ..server.config() };
        let store = RedisStore::connect(config).await.unwrap();
        let note = |number| crate::port::Note { decision: Uuid::from_u64_pair(3, number), text: "{}".to_owned() };
        store.commit(Commit { notes: vec![note(1)], ..numbered(1) }).await.unwrap();
        let stored = store.decision(Uuid::from_u64_pair(3, 1)).await.unwrap().unwrap();
        assert_eq!((stored.record, stored.appended), (claim(1).record, vec!["{}".to_owned()]));
        assert_eq!(store.recent_decisions(&entity(1), 9).await.unwrap().len(), 1);
        // A day later.
        let pass = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do if redis.call('PTTL', key) > 86000000 then \
            redis.call('PEXPIRE', key, 0) end end";
        for kind in ["*:d:*", "*:n4:*", "*:log:*", "*:e4:*", "*:meta", "*:offsets"] {
            server.say(&["EVAL", pass, "0", kind]);
        }
        assert!(store.decision(Uuid::from_u64_pair(3, 1)).await.unwrap().is_none());
        store.commit(numbered(2)).await.unwrap();
        assert_eq!(store.recent_decisions(&entity(1), 9).await.unwrap(), [] as [Bytes; 0]);
        assert_eq!(store.read_log(LogName::DECISIONS, 0, 9).await.unwrap(), [(1, claim(2).record)]);
        assert_eq!(input(&store).await, ["1", "2"], "what is no decision stays");
    });
}

#[test]
fn a_read_of_thousands_answers_each_in_its_place() {
    block_on(async {
        let store = Server::shared().store().await;
        let states = (0..5000).map(|key| state(key, 1, &key.to_be_bytes())).collect();
        store.commit(Commit { states, ..Commit::default() }).await.unwrap();
        for keys in [2047, 2048, 2049, 5000] {
            let wanted =
                |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
            let query = Query {
                states: (0..keys).map(wanted).collect(),
                decisions: vec![Uuid::from_u64_pair(3, 1)],
                lists: vec![entity(1)],
                ..Query::default()
            };
            let fetched = store.fetch(&query).await.unwrap();
            let expected = (0..keys).map(|key| vec![Some(Bytes::copy_from_slice(&key.to_be_bytes()))]);
            assert_eq!(fetched.states, expected.collect::<Vec<_>>());
            assert_eq!((fetched.decisions, fetched.lists), (vec![None], vec![vec![]]));
        }
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
