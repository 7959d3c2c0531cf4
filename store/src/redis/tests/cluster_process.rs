//! Real clusters for the tests: masters that share the slots evenly, with replicas as needed, on ports of this machine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::server_process::{Server, block_on, new_namespace, until};
use crate::redis::config::RedisConfig;

const SLOTS: usize = 16_384;

/// After how long a hand-over is asked for again: a server gives one up after five seconds.
const GIVEN_UP: Duration = Duration::from_secs(6);

/// Nodes that know each other.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Server>,
    /// Where each of them answers, and where the others reach it.
    ports: Vec<[u16; 2]>,
}

impl Cluster {
    /// The one that tests share which leave it whole: three masters.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::formed([3, 0], Server::lasting, |port| vec!["--port".to_owned(), port]))
    }

    /// Masters, and replicas of the first ones of them.
    pub(super) fn start(masters: usize, replicas: usize) -> Self {
        Self::formed([masters, replicas], Server::start, |port| vec!["--port".to_owned(), port])
    }

    /// Two masters that speak TLS alone.
    pub(super) fn with_tls(arguments: &[&str]) -> Self {
        Self::formed([2, 0], Server::start, |port| {
            let tls = ["--port", "0", "--tls-cluster", "yes", "--tls-port", &port];
            tls.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect()
        })
    }

    fn formed(
        [masters, replicas]: [usize; 2],
        start: impl Fn(&[&str]) -> Server,
        arguments: impl Fn(String) -> Vec<String>,
    ) -> Self {
        let ports: Vec<[u16; 2]> = (0..masters + replicas).map(|_| [free_port(), free_port()]).collect();
        let node = |[port, bus]: &[u16; 2]| {
            let (own, bus) = (arguments(port.to_string()), bus.to_string());
            // As short as a busy machine bears without taking nodes for dead that are none.
            let common = ["--save", "", "--cluster-enabled", "yes", "--cluster-port", &bus];
            let patience = ["--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"];
            let rest = ["--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"];
            // A handshake that came to nothing is begun again well before a test gives up.
            let again = ["--repl-timeout", "15"];
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            start(&[&own[..], &common, &patience, &rest, &again].concat())
        };
        let cluster = Self { nodes: ports.iter().map(node).collect(), ports };
        // Whoever asks for a cluster may be in a runtime of its own.
        std::thread::scope(|scope| scope.spawn(|| block_on(cluster.form(masters))).join()).expect("it is formed");
        cluster
    }

    async fn form(&self, masters: usize) {
        for (at, node) in self.nodes.iter().enumerate() {
            node.say(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            if at < masters {
                let (first, end) = (at * SLOTS / masters, (at + 1) * SLOTS / masters);
                node.say(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
            }
            if at > 0 {
                let [port, bus] = self.ports[at].map(|port| port.to_string());
                self.nodes[0].say(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        self.all_say(&["CLUSTER", "INFO"], &[&known, "cluster_slots_assigned:16384", "cluster_state:ok"]).await;
        for (replica, master) in self.nodes[masters..].iter().zip(&self.nodes) {
            let id = id(master);
            until(async || replica.say(&["CLUSTER", "REPLICATE", &id]).starts_with("OK")).await;
            self.follows(replica).await;
            // A master that the others do not know as one with a replica has none that they elect.
            self.all_say(&["CLUSTER", "NODES"], &[&format!("slave {id}")]).await;
        }
    }

    /// Waits until every node says all of these words.
    async fn all_say(&self, question: &[&str], words: &[&str]) {
        for node in &self.nodes {
            until(async || {
                let said = node.say(question);
                words.iter().all(|word| said.contains(word))
            })
            .await;
        }
    }

    /// Waits until a replica has all that its master has.
    pub(super) async fn follows(&self, replica: &Server) {
        until(async || is_replica(replica)).await;
    }

    /// The address of a node.
    pub(super) fn url(&self, at: usize) -> String {
        format!("redis://127.0.0.1:{}", self.ports[at][0])
    }

    pub(super) fn port(&self, at: usize) -> u16 {
        self.ports[at][0]
    }

    /// A configuration that names the first node alone, with a namespace that nobody has used, wherever it belongs.
    pub(super) fn config(&self) -> RedisConfig {
        let config = RedisConfig::new(&new_namespace(), &[&self.url(0)]).unwrap();
        RedisConfig { wait: Duration::from_secs(60), ..config }
    }

    /// A configuration with a namespace that belongs to `owner`; it names `seed` alone.
    pub(super) fn config_on(&self, owner: usize, seed: usize) -> RedisConfig {
        let mut configs = std::iter::repeat_with(|| self.config());
        let config = configs.find(|config| self.owner(&config.namespace) == Some(owner)).expect("there are many");
        RedisConfig { servers: RedisConfig::new("seed", &[&self.url(seed)]).unwrap().servers, ..config }
    }

    /// The node that answers for a namespace, if any does.
    pub(super) fn owner(&self, namespace: &str) -> Option<usize> {
        let key = format!("{{{namespace}}}:probe");
        let answers = |node: &Server| node.runs() && node.say(&["EXISTS", &key]).trim() == "0";
        self.nodes.iter().position(answers)
    }

    /// The slot of a namespace.
    pub(super) fn slot(&self, namespace: &str) -> String {
        self.nodes[0].say(&["CLUSTER", "KEYSLOT", &format!("{{{namespace}}}:probe")]).trim().to_owned()
    }

    /// Lets `heir`, a replica, replace its master in good order, and waits until both have their new parts.
    pub(super) async fn hand_over(&self, namespace: &str, from: usize, heir: usize) {
        self.follows(&self.nodes[heir]).await;
        // A hand-over that did not come about in five seconds is given up by the server, and one that did is undone where a busy
        // machine makes the others take the new master for dead.
        let mut asked: Option<Instant> = None;
        until(async || {
            if is_replica(&self.nodes[heir]) && asked.is_none_or(|asked| asked.elapsed() > GIVEN_UP) {
                asked = Some(Instant::now());
                self.nodes[heir].say(&["CLUSTER", "FAILOVER"]);
            }
            // The nodes talk to each other meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.owner(namespace) == Some(heir) && is_replica(&self.nodes[from])
        })
        .await;
    }
}

/// Whether a node has all that its master has.
fn is_replica(node: &Server) -> bool {
    let said = node.say(&["INFO", "replication"]);
    said.contains("role:slave") && said.contains("master_link_status:up")
}

/// What a node is called by the others.
pub(super) fn id(node: &Server) -> String {
    node.say(&["CLUSTER", "MYID"]).trim().to_owned()
}

/// A port that nobody has now, and that the system gives to nobody.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 64 % 16_000;
    let mut ports = (0..16_000).map(|_| 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000);
    let free = ports.find_map(|port| {
        let port = u16::try_from(port).unwrap();
        std::net::TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    free.expect("some port is free")
}
