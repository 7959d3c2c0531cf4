//! Death of the server under load, append-only files that end anywhere, fail-overs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::*;
use crate::error::Class;
use crate::port::{Append, Claim, Durability, OffsetMove, StateQuery, StateWrite};
use crate::redis::failure::DatabaseError;
use crate::redis::tests::server_process::until;

const KEYS: u64 = 50;

/// Everything that commit `number` writes says `number`.
pub(super) fn numbered(number: u64) -> Commit {
    let state = |key: u64| StateWrite {
        entity: "card".into(),
        key: key.to_be_bytes().into(),
        group: 1,
        bytes: Some(Bytes::from(number.to_be_bytes().repeat(50))),
        expires: None,
        expected: None,
    };
    let record = Bytes::from(number.to_string());
    let id = Uuid::from_u64_pair(7, number);
    let from = number.checked_sub(1).filter(|from| *from > 0);
    Commit {
        states: (0..KEYS).map(state).collect(),
        claims: vec![Claim { id, record, entities: Vec::new(), intents: Vec::new(), lists: Vec::new() }],
        appends: vec![Append { log: LogName::INPUT, bytes: Bytes::from(number.to_string()) }],
        offsets: vec![OffsetMove { source: "orders".to_owned(), partition: 0, from, to: number }],
        ..Commit::default()
    }
}

pub(super) async fn reached(store: &RedisStore) -> u64 {
    store.offsets("orders", "one").await.unwrap().first().map_or(0, |offset| offset.position)
}

/// The store holds commits 1 to some number, each whole, and nothing of later ones.
pub(super) async fn check_whole(store: &RedisStore) -> u64 {
    let reached = reached(store).await;
    let wanted = |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
    let query = Query { states: (0..KEYS).map(wanted).collect(), ..Query::default() };
    let expected = (reached > 0).then(|| Bytes::from(reached.to_be_bytes().repeat(50)));
    for states in store.fetch(&query).await.unwrap().states {
        assert_eq!(states, std::slice::from_ref(&expected));
    }
    let numbers = (0..reached).map(|at| (at, Bytes::from((at + 1).to_string()))).collect::<Vec<_>>();
    for log in [LogName::INPUT, LogName::DECISIONS] {
        assert_eq!(store.read_log(log, 0, usize::MAX).await.unwrap(), numbers, "{log:?}");
    }
    reached
}

#[test]
fn a_server_that_is_killed_under_load_loses_and_doubles_nothing() {
    let mut server = Server::start(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    block_on(async {
        let store = Arc::new(server.store().await);
        assert_eq!(store.persistence(), Persistence::Always);
        let done = Arc::new(AtomicU64::new(0));
        let (writing, progress) = (Arc::clone(&store), Arc::clone(&done));
        let writer = tokio::spawn(async move {
            for number in 1..=600 {
                let answer = writing.commit(numbered(number)).await.unwrap();
                assert_eq!(answer.appended, [number - 1], "each is made once");
                progress.store(number, Ordering::SeqCst);
            }
        });
        for kill_at in [20, 60, 150, 280, 400, 520] {
            while done.load(Ordering::SeqCst) < kill_at {
                assert!(!writer.is_finished(), "{:?}", writer.await);
                tokio::task::yield_now().await;
            }
            server.kill();
            server.begin();
        }
        writer.await.unwrap();
        assert_eq!(check_whole(&store).await, 600);
        let writers = server.say(&["KEYS", "*:writer:*"]);
        let remembered = server.say(&["HLEN", writers.trim()]).trim().parse::<u64>().unwrap();
        assert!((1..=130).contains(&remembered), "answers are remembered until they are settled: {remembered}");
    });
}

#[test]
fn an_append_only_file_that_ends_anywhere_holds_whole_commits() {
    let mut server = Server::start(&["--save", "", "--appendonly", "yes", "--appendfsync", "no"]);
    let config = server.config();
    block_on(async {
        let store = RedisStore::connect(config.clone()).await.unwrap();
        for number in 1..=8 {
            store.commit(numbered(number)).await.unwrap();
        }
    });
    server.kill();
    let folder = server.folder().join("appendonlydir");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.filter(|path| path.to_str().unwrap().ends_with(".incr.aof")).max().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    // A prime step walks through every part of a commit.
    while bytes.len() > 6000 {
        bytes.truncate(bytes.len() - 4099);
        std::fs::write(&file, &bytes).unwrap();
        server.begin();
        block_on(async {
            let store = RedisStore::connect(config.clone()).await.unwrap();
            seen.insert(check_whole(&store).await);
        });
        server.kill();
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

#[test]
fn a_database_that_went_back_is_noticed() {
    let mut server = Server::start(&["--save", "", "--appendonly", "no"]);
    let config = server.config();
    block_on(async {
        let store = RedisStore::connect(config.clone()).await.unwrap();
        assert_eq!(store.persistence(), Persistence::Nothing);
        store.commit(numbered(1)).await.unwrap();
        store.commit(numbered(2)).await.unwrap();
        server.kill();
        server.begin();
        let unguarded = Commit { offsets: Vec::new(), ..numbered(3) };
        let error = store.commit(unguarded.clone()).await.unwrap_err();
        let expected = DatabaseError::Rewound { stored: 0, expected: 2 };
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(error.class(), Class::Fatal);
        assert_eq!(check_whole(&store).await, 0, "nothing was written on top of what is missing");
        let store = RedisStore::connect(config).await.unwrap();
        store.commit(numbered(1)).await.unwrap();
    });
}

#[test]
fn a_replica_takes_over_with_whole_commits_and_a_lost_tail_is_noticed() {
    // Replication goes over TCP.
    let port = free_port();
    let mut master = Server::start(&["--save", "", "--repl-diskless-sync-delay", "0", "--port", &port]);
    let replica = Server::start(&["--save", "", "--repl-diskless-sync-delay", "0"]);
    block_on(async {
        let url = |server: &Server| format!("unix://{}", server.socket().display());
        let (first, second) = (url(&master), url(&replica));
        let config = RedisConfig::new("cards", &[&first, &second]).unwrap();
        let config = RedisConfig {
            replicas: 1,
            replica_timeout: Duration::from_millis(300),
            wait: Duration::from_secs(30),
            ..config
        };
        let store = RedisStore::connect(config.clone()).await.unwrap();
        let power = |number| Commit { durability: Durability::Power, ..numbered(number) };
        let error = store.commit(power(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Database(DatabaseError::Unconfirmed { confirmed: 0, .. })), "{error}");
        assert_eq!(error.class(), Class::Transient);
        replica.say(&["REPLICAOF", "127.0.0.1", &port]);
        let alone = RedisConfig { wait: Duration::ZERO, ..RedisConfig::new("cards", &[&second]).unwrap() };
        until(async || replica.say(&["INFO", "replication"]).contains("master_link_status:up")).await;
        until(async || store.commit(power(1)).await.is_ok()).await;
        for number in 2..=20 {
            store.commit(power(number)).await.unwrap();
        }
        let error = RedisStore::connect(alone).await.unwrap_err();
        assert!(matches!(error, StoreError::Database(DatabaseError::ReadOnly { .. })), "{error}");
        assert!(error.to_string().contains("name the master"), "{error}");

        // The replica hears no more of what follows, then has to take over.
        replica.say(&["REPLICAOF", "127.0.0.1", "1"]);
        store.commit(numbered(21)).await.unwrap();
        let error = store.commit(power(22)).await.unwrap_err();
        assert!(matches!(error, StoreError::Database(DatabaseError::Unconfirmed { .. })), "{error}");
        master.kill();
        replica.say(&["REPLICAOF", "NO", "ONE"]);
        let error = store.commit(numbered(23)).await.unwrap_err();
        let expected = DatabaseError::Rewound { stored: 20, expected: 21 };
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(check_whole(&store).await, 20);
        // Whoever starts again replays from there.
        let store = RedisStore::connect(RedisConfig { replicas: 0, ..config }).await.unwrap();
        store.commit(power(21)).await.unwrap();
        assert_eq!(check_whole(&store).await, 21);
    });
}

#[test]
fn what_is_read_of_a_master_is_waited_for_until_the_replica_has_it() {
    let port = free_port();
    let master = Server::start(&["--save", "", "--repl-diskless-sync-delay", "0", "--port", &port]);
    let replica = Server::start(&["--save", "", "--repl-diskless-sync-delay", "0"]);
    block_on(async {
        let config = RedisConfig { replicas: 1, replica_timeout: Duration::from_millis(200), ..master.config() };
        let reader = RedisStore::connect(config.clone()).await.unwrap();
        let writer = RedisStore::connect(RedisConfig { replicas: 0, ..config }).await.unwrap();
        writer.replicated().await.expect("nobody is waited for");
        replica.say(&["REPLICAOF", "127.0.0.1", &port]);
        until(async || reader.replicated().await.is_ok()).await;

        replica.signal(Signal::STOP);
        writer.commit(numbered(1)).await.unwrap();
        for _ in 0..3 {
            let error = reader.replicated().await.unwrap_err();
            assert!(matches!(error, StoreError::Database(DatabaseError::Unconfirmed { .. })), "{error}");
            assert_eq!(error.class(), Class::Transient);
        }
        replica.signal(Signal::CONT);
        until(async || reader.replicated().await.is_ok()).await;
    });
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}
