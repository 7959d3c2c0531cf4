//! The slot of a namespace moves to another node of the cluster, key by key, while commits are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};

use super::cluster_process::{Cluster, id};
use super::crash::{check_whole, numbered};
use super::refusals::{check, refusal};
use super::server_process::until;
use super::*;
use crate::error::Class;
use crate::port::StateQuery;

/// Keys that move at once.
const KEYS_AT_ONCE: usize = 10;

/// A slot on its way between two nodes.
struct Move<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: usize,
    to: usize,
    meta: String,
    /// To both nodes: keys are no texts.
    connections: [MultiplexedConnection; 2],
}

impl<'a> Move<'a> {
    /// From now on the first node gives away what the second one takes.
    async fn begin(cluster: &'a Cluster, namespace: &str, [from, to]: [usize; 2]) -> Self {
        let slot = cluster.slot(namespace);
        let (giver, taker) = (id(&cluster.nodes[from]), id(&cluster.nodes[to]));
        cluster.nodes[to].say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giver]);
        cluster.nodes[from].say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &taker]);
        let connect = async |at| {
            let client = redis::Client::open(cluster.url(at)).unwrap();
            client.get_multiplexed_async_connection().await.unwrap()
        };
        let connections = [connect(from).await, connect(to).await];
        Self { cluster, slot, from, to, meta: format!("{{{namespace}}}:meta"), connections }
    }

    fn left(&self) -> usize {
        let left = self.cluster.nodes[self.from].say(&["CLUSTER", "COUNTKEYSINSLOT", &self.slot]);
        left.trim().parse().unwrap()
    }

    /// Moves some keys.
    async fn carry(&mut self) {
        let mut keys = cmd("CLUSTER");
        keys.arg("GETKEYSINSLOT").arg(&self.slot).arg(KEYS_AT_ONCE);
        let keys: Vec<Vec<u8>> = keys.query_async(&mut self.connections[0]).await.unwrap();
        let mut carry = cmd("MIGRATE");
        carry.arg("127.0.0.1").arg(self.cluster.port(self.to)).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
        let answer: Value = carry.query_async(&mut self.connections[0]).await.unwrap();
        assert_eq!(answer, Value::Okay);
    }

    /// Number of the last commit, wherever it stands by now.
    async fn sequence(&mut self) -> u64 {
        for connection in &mut self.connections {
            let mut question = redis::pipe();
            question.cmd("ASKING").ignore().cmd("HGET").arg(&self.meta).arg("sequence");
            if let Ok((Some(sequence),)) = question.query_async::<(Option<u64>,)>(connection).await {
                return sequence;
            }
        }
        panic!("neither node has it");
    }

    /// Everything has moved: the second node holds the slot.
    fn end(self) {
        assert_eq!(self.left(), 0);
        let taker = id(&self.cluster.nodes[self.to]);
        for at in [self.to, self.from] {
            self.cluster.nodes[at].say(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &taker]);
        }
    }
}

#[test]
fn no_commit_is_made_in_part_while_the_slot_moves() {
    let cluster = Cluster::shared();
    block_on(async {
        let config = cluster.config_on(0, 0);
        let namespace = config.namespace.clone();
        let store = Arc::new(RedisStore::connect(config.clone()).await.unwrap());
        let (done, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (writing, progress, over) = (Arc::clone(&store), Arc::clone(&done), Arc::clone(&is_over));
        let writer = tokio::spawn(async move {
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                number += 1;
                assert_eq!(writing.commit(numbered(number)).await.unwrap().appended, [number - 1]);
                progress.store(number, Ordering::SeqCst);
            }
            number
        });
        let (reading, over) = (Arc::clone(&store), Arc::clone(&is_over));
        let reader = tokio::spawn(async move {
            let wanted =
                |key: u64| StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
            let query = Query { states: (0..50).map(wanted).collect(), ..Query::default() };
            while !over.load(Ordering::SeqCst) {
                let states = reading.fetch(&query).await.unwrap().states;
                assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "a commit was seen in part");
            }
        });
        for places in [[0, 1], [1, 2]] {
            let before = done.load(Ordering::SeqCst);
            until(async || done.load(Ordering::SeqCst) >= before + 20).await;
            let mut moving = Move::begin(cluster, &namespace, places).await;
            let stands = moving.sequence().await;
            check(&refusal(config.clone()).await, Class::Transient, &["is moving this namespace", "--cluster fix"]);
            assert!(moving.left() > 60);
            while moving.left() > 0 {
                moving.carry().await;
                assert_eq!(moving.sequence().await, stands, "nothing is written");
            }
            moving.end();
            until(async || done.load(Ordering::SeqCst) >= before + 40).await;
            assert_eq!(cluster.owner(&namespace), Some(places[1]));
        }
        is_over.store(true, Ordering::SeqCst);
        let last = writer.await.unwrap();
        reader.await.unwrap();
        assert_eq!(check_whole(&store).await, last);
        // The seed sends on who comes later.
        assert_eq!(check_whole(&RedisStore::connect(config).await.unwrap()).await, last);
    });
}
