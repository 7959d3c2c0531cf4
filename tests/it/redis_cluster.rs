//! A Redis Cluster that tests start themselves: three masters, each with a replica.

use std::process::Command;

use crate::fleet::free_port;
use crate::redis_server::RedisServer;

const NODES: usize = 6;

/// Nodes that know each other.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<RedisServer>,
    ports: Vec<u16>,
}

impl RedisCluster {
    pub(crate) fn start() -> Self {
        let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let node = |port: &u16| {
            let (port, bus) = (port.to_string(), free_port().to_string());
            let cluster = ["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &bus];
            let patience = ["--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"];
            let rest = ["--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"];
            RedisServer::start_with(&[&cluster[..], &patience, &rest].concat())
        };
        let cluster = Self { nodes: ports.iter().map(node).collect(), ports };
        let places = cluster.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let formed = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(places)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(formed.status.success(), "{}", String::from_utf8_lossy(&formed.stdout));
        cluster.until(|cluster| cluster.nodes.iter().all(is_in_order));
        cluster
    }

    pub(crate) fn url(&self, at: usize) -> String {
        format!("redis://127.0.0.1:{}", self.ports[at])
    }

    /// The node that answers for a namespace, if any does.
    pub(crate) fn owner(&self, namespace: &str) -> Option<usize> {
        let key = format!("{{{namespace}}}:probe");
        self.nodes.iter().position(|node| node.runs() && node.say(&["EXISTS", &key]) == "0")
    }

    /// Kills the node that holds a namespace, waits until its replica does, and starts it again as the replica of that one.
    pub(crate) fn fail_over(&mut self, namespace: &str) {
        let dies = self.owner(namespace).expect("somebody holds it");
        self.nodes[dies].kill();
        self.until(|cluster| cluster.owner(namespace).is_some());
        self.nodes[dies].begin();
        self.until(|cluster| is_in_order(&cluster.nodes[dies]));
    }

    fn until(&self, is_so: impl Fn(&Self) -> bool) {
        assert!((0..20_000).any(|_| is_so(self)), "it does not come to pass");
    }
}

/// A node that knows of a whole cluster, and if it is a replica has all that its master has.
fn is_in_order(node: &RedisServer) -> bool {
    let (cluster, replication) = (node.say(&["CLUSTER", "INFO"]), node.say(&["INFO", "replication"]));
    let is_following = replication.contains("role:master") || replication.contains("master_link_status:up");
    cluster.contains("cluster_state:ok") && cluster.contains(&format!("cluster_known_nodes:{NODES}")) && is_following
}
