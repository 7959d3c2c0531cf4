//! Masters of a cluster that die or hand over while commits are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cluster_process::Cluster;
use super::crash::{check_whole, numbered};
use super::server_process::{Server, until};
use super::*;
use crate::error::Class;
use crate::port::Durability;
use crate::redis::failure::DatabaseError;

/// Three masters, the first of them with a replica.
const REPLICA: usize = 3;

/// Commits until it is made: what a caller does who is told to try again.
async fn commit_at_last(store: &RedisStore, commit: Commit) -> crate::port::Committed {
    loop {
        match store.commit(commit.clone()).await {
            Ok(committed) => return committed,
            Err(error) => assert_eq!(error.class(), Class::Transient, "{error}"),
        }
    }
}

#[test]
fn a_master_that_dies_is_replaced_and_no_commit_is_lost_or_made_twice() {
    let mut cluster = Cluster::start(3, 1);
    block_on(async {
        // Who dies is the only one that is named: the others are known from him.
        let config = RedisConfig { replicas: 1, replica_timeout: Duration::from_secs(2), ..cluster.config_on(0, 0) };
        let namespace = config.namespace.clone();
        let store = Arc::new(RedisStore::connect(config).await.unwrap());
        let done = Arc::new(AtomicU64::new(0));
        let (writing, progress) = (Arc::clone(&store), Arc::clone(&done));
        let writer = tokio::spawn(async move {
            for number in 1..=400 {
                let commit = Commit { durability: Durability::Power, ..numbered(number) };
                assert_eq!(commit_at_last(&writing, commit).await.appended, [number - 1], "each is made once");
                progress.store(number, Ordering::SeqCst);
            }
        });
        for (kill_at, dies, heir) in [(100, 0, REPLICA), (250, REPLICA, 0)] {
            until(async || done.load(Ordering::SeqCst) >= kill_at).await;
            cluster.nodes[dies].kill();
            until(async || cluster.owner(&namespace) == Some(heir)).await;
            cluster.nodes[dies].begin();
            cluster.follows(&cluster.nodes[dies]).await;
        }
        writer.await.unwrap();
        assert_eq!(check_whole(&store).await, 400);
        assert_eq!(cluster.owner(&namespace), Some(0));
    });
}

#[test]
fn what_a_dead_master_took_along_is_noticed() {
    let mut cluster = Cluster::start(3, 1);
    block_on(async {
        let config = cluster.config_on(0, 1);
        let store = RedisStore::connect(config.clone()).await.unwrap();
        for number in 1..=20 {
            store.commit(numbered(number)).await.unwrap();
        }
        cluster.follows(&cluster.nodes[REPLICA]).await;
        let master = &cluster.nodes[0];
        // A WAIT would answer for what its own connection wrote: nothing.
        until(async || {
            let place = |node: &Server, name: &str| {
                let said = node.say(&["INFO", "replication"]);
                said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            let (written, has) =
                (place(master, "master_repl_offset:"), place(&cluster.nodes[REPLICA], "slave_repl_offset:"));
            has.is_some() && has >= written
        })
        .await;
        // The replica is cut off and does not get in any more; who is connected stays so.
        master.say(&["CONFIG", "SET", "requirepass", "nobody knows"]);
        cluster.nodes[REPLICA].say(&["CLIENT", "KILL", "TYPE", "master"]);
        until(async || cluster.nodes[REPLICA].say(&["INFO", "replication"]).contains("master_link_status:down")).await;
        store.commit(numbered(21)).await.unwrap();
        cluster.nodes[0].kill();
        // An election may take longer than one call waits.
        let mut error = store.commit(numbered(22)).await.unwrap_err();
        for _ in 0..10 {
            if error.class() == Class::Transient {
                error = store.commit(numbered(22)).await.unwrap_err();
            }
        }
        let expected = DatabaseError::Rewound { stored: 20, expected: 21 };
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(check_whole(&store).await, 20, "nothing was written on top of what is missing");
        // Whoever starts again replays from there.
        let store = RedisStore::connect(config).await.unwrap();
        store.commit(numbered(21)).await.unwrap();
        assert_eq!(check_whole(&store).await, 21);
    });
}

#[test]
fn who_waits_for_work_at_a_master_that_hands_over_gets_it_from_the_next_one() {
    let cluster = Cluster::start(3, 1);
    block_on(async {
        let config = cluster.config_on(0, 2);
        let store = Arc::new(RedisStore::connect(config.clone()).await.unwrap());
        let piece = |number: u8| Bytes::from(vec![number]);
        let work = |number: u8| Commit { work: vec![piece(number)], ..Commit::default() };
        store.commit(work(0)).await.unwrap();
        let taking = Arc::clone(&store);
        let taker = tokio::spawn(async move {
            let mut pieces = Vec::new();
            while pieces.len() < 3 {
                let hour = Duration::from_secs(3600);
                for (id, piece) in taking.take_work("one", 1, hour, hour).await.unwrap() {
                    taking.commit(Commit { done: vec![id], ..Commit::default() }).await.unwrap();
                    pieces.push(piece);
                }
            }
            pieces
        });
        for (number, from, heir) in [(1, 0, REPLICA), (2, REPLICA, 0)] {
            until(async || store.work_waiting().await.unwrap() == 0).await;
            cluster.hand_over(&config.namespace, from, heir).await;
            store.commit(work(number)).await.unwrap();
        }
        assert_eq!(taker.await.unwrap(), [0, 1, 2].map(piece));
    });
}

/// A namespace whose master hands over between any two steps that open the store.
struct HandedOver {
    cluster: Arc<Cluster>,
    config: RedisConfig,
}

impl Subject for HandedOver {
    type Store = RedisStore;

    async fn open(&self) -> RedisStore {
        let namespace = &self.config.namespace;
        let from = self.cluster.owner(namespace).unwrap();
        self.cluster.hand_over(namespace, from, REPLICA - from).await;
        let config = RedisConfig { outbox_capacity: contract::OUTBOX_CAPACITY, ..self.config.clone() };
        RedisStore::connect(config).await.unwrap()
    }
}

#[test]
fn agrees_with_its_twin_over_masters_that_hand_over() {
    let cluster = Arc::new(Cluster::start(3, 1));
    let cases = ProptestConfig { cases: 6, ..ProptestConfig::default() };
    let first = |from| cluster.config_on(from, 1);
    proptest::test_runner::TestRunner::new(cases)
        .run(&contract::model::actions(), |actions| {
            let held_by = if cluster.nodes[0].say(&["ROLE"]).contains("master") { 0 } else { REPLICA };
            let subject = HandedOver { cluster: Arc::clone(&cluster), config: first(held_by) };
            block_on(contract::model::check(&subject, actions));
            Ok(())
        })
        .unwrap();
}
