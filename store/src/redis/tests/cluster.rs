//! The store on a cluster: the same contract, whichever node is asked first, and what a person is told when it cannot serve.

use std::time::Duration;

use super::cluster_process::Cluster;
use super::refusals::{check, commit, refusal};
use super::*;
use crate::error::Class;
use crate::redis::config::Password;

/// A namespace of its own on the cluster that tests share. Its first node is asked, which holds one namespace in three.
struct Somewhere(RedisConfig);

impl Somewhere {
    fn new() -> Self {
        Self(Cluster::shared().config())
    }
}

impl Subject for Somewhere {
    type Store = RedisStore;

    async fn open(&self) -> RedisStore {
        let config = RedisConfig { outbox_capacity: contract::OUTBOX_CAPACITY, ..self.0.clone() };
        RedisStore::connect(config).await.unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_twin_on_a_cluster(actions in contract::model::actions()) {
        block_on(contract::model::check(&Somewhere::new(), actions));
    }
}

#[test]
fn keeps_the_contract_on_a_cluster() {
    block_on(contract::cases::check_all(Somewhere::new));
}

#[test]
fn whichever_node_is_asked_names_the_one_that_holds_the_namespace() {
    let cluster = Cluster::shared();
    block_on(async {
        for owner in 0..3 {
            for seed in 0..3 {
                let config = cluster.config_on(owner, seed);
                let keys = format!("{{{}}}:*", config.namespace);
                let store = RedisStore::connect(config).await.unwrap();
                store.commit(commit(10)).await.unwrap();
                for at in 0..3 {
                    let found = cluster.nodes[at].say(&["--scan", "--pattern", &keys]).lines().count();
                    assert_eq!(found > 100, at == owner, "{found} keys at {at}, held by {owner}, asked {seed}");
                }
            }
        }
    });
}

#[test]
fn a_cluster_that_does_not_serve_is_told_and_waited_for() {
    // Nobody has the slots yet.
    for coverage in ["yes", "no"] {
        let coverage = ["--cluster-require-full-coverage", coverage];
        let node = Server::start(&[&["--save", "", "--cluster-enabled", "yes"], &coverage[..]].concat());
        block_on(async {
            let words = ["does not serve this namespace", "--cluster check", "work goes on by itself"];
            check(&refusal(node.config()).await, Class::Transient, &words);
            let late = RedisStore::connect(node.config());
            let (store, _said) = tokio::join!(late, async { node.say(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]) });
            let store = store.unwrap();
            store.commit(commit(1)).await.unwrap();

            // One slot is taken away.
            let slot = node.say(&["CLUSTER", "KEYSLOT", "{slot}"]);
            let namespace = "slot".to_owned();
            let config = RedisConfig { namespace, wait: Duration::from_secs(30), ..node.config() };
            let store = RedisStore::connect(config.clone()).await.unwrap();
            node.say(&["CLUSTER", "DELSLOTS", slot.trim()]);
            check(&refusal(config).await, Class::Transient, &words);
            let late = store.commit(commit(1));
            let (made, _said) = tokio::join!(late, async { node.say(&["CLUSTER", "ADDSLOTS", slot.trim()]) });
            made.unwrap();
        });
    }
}

#[test]
fn a_cluster_has_one_database() {
    let cluster = Cluster::shared();
    block_on(async {
        let url = format!("{}/3", cluster.url(0));
        let error = refusal(RedisConfig::new("cards", &[&url]).unwrap()).await;
        check(&error, Class::Fatal, &["node of a cluster", "database 0 alone", "leave the number out"]);
    });
}

#[test]
fn password_certificate_and_tls_go_along_to_the_node_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
    let cluster = Cluster::with_tls(&[&files[..], &["--tls-auth-clients", "no"]].concat());
    block_on(async {
        let plain = cluster.config_on(1, 0);
        for node in &cluster.nodes {
            node.say(&["CONFIG", "SET", "requirepass", "open sesame"]);
        }
        let url = format!("rediss://localhost:{}", cluster.port(0));
        let config = RedisConfig {
            servers: RedisConfig::new("seed", &[&url]).unwrap().servers,
            password: Some(Password::new("open sesame")),
            ca_pem: Some(std::fs::read(&cert).unwrap()),
            ..plain
        };
        RedisStore::connect(config.clone()).await.unwrap().commit(commit(1)).await.unwrap();
        let wrong = RedisConfig { password: Some(Password::new("hush")), ..config.clone() };
        check(&refusal(wrong).await, Class::Fatal, &["user or password", "password_env"]);
        let untrusted = RedisConfig { ca_pem: None, ..config };
        check(&refusal(untrusted).await, Class::Fatal, &["certificate", "ca_file"]);
    });
}

#[test]
fn the_rights_of_a_namespace_are_enough_on_a_cluster() {
    let cluster = Cluster::shared();
    block_on(async {
        let config = cluster.config_on(2, 0);
        let keys = format!("~{{{}}}:*", config.namespace);
        for node in &cluster.nodes {
            let rights = ["+@all", "-@dangerous", "+info", "+config|get"];
            node.say(&[&["ACL", "SETUSER", &config.namespace, "on", ">pw", &keys], &rights[..]].concat());
            let may = node.say(&["ACL", "DRYRUN", &config.namespace, "CLUSTER", "SLOTS"]);
            assert_eq!(may.trim(), "OK", "the other nodes are learned");
        }
        let user = Some(config.namespace.clone());
        let config = RedisConfig { user, password: Some(Password::new("pw")), ..config };
        let store = RedisStore::connect(config).await.unwrap();
        store.commit(commit(1)).await.unwrap();
        store.expire(Timestamp::default()).await.unwrap();
    });
}
