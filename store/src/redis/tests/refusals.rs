//! What a person is told when the server cannot serve: what is wrong, what to do, and whether work goes on by itself.

use std::time::Duration;

use super::*;
use crate::error::Class;
use crate::port::StateWrite;
use crate::redis::config::{Password, PersistenceWanted};

pub(super) fn commit(bytes: usize) -> Commit {
    let state = |key: u64| StateWrite {
        entity: "card".into(),
        key: key.to_be_bytes().into(),
        group: 1,
        bytes: Some(Bytes::from(vec![7; bytes])),
        expires: None,
        expected: None,
    };
    Commit { states: (0..100).map(state).collect(), ..Commit::default() }
}

pub(super) fn check(error: &StoreError, class: Class, words: &[&str]) {
    let said = error.to_string();
    assert_eq!(error.class(), class, "{said}");
    for word in words {
        assert!(said.contains(word), "no '{word}' in: {said}");
    }
}

pub(super) async fn refusal(config: RedisConfig) -> StoreError {
    let config = RedisConfig { wait: Duration::ZERO, ..config };
    RedisStore::connect(config).await.expect_err("refused")
}

#[test]
fn a_server_that_is_not_there_is_waited_for_and_named() {
    let mut server = Server::start(&["--save", ""]);
    let config = server.config();
    server.kill();
    block_on(async {
        check(&refusal(config.clone()).await, Class::Transient, &["no answer", "socket", "see that it runs"]);
        let late = RedisStore::connect(config);
        let (store, ()) = tokio::join!(late, async { server.begin() });
        store.unwrap().commit(commit(1)).await.unwrap();
    });
}

#[test]
fn nobody_answers_at_an_address_over_the_network() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{port}/3");
    block_on(async {
        let error = refusal(RedisConfig::new("cards", &[&url]).unwrap()).await;
        check(&error, Class::Transient, &["no answer", &format!("127.0.0.1:{port}")]);
    });
}

#[test]
fn a_wrong_or_missing_password_is_told_without_it() {
    let server = Server::start(&["--save", "", "--requirepass", "open sesame"]);
    block_on(async {
        check(&refusal(server.config()).await, Class::Fatal, &["user or password", "password_env"]);
        let wrong = RedisConfig { password: Some(Password::new("hush")), ..server.config() };
        assert!(!format!("{wrong:?}").contains("hush"));
        let error = refusal(wrong).await;
        check(&error, Class::Fatal, &["user or password", "password_env"]);
        assert!(!format!("{error:?} {error}").contains("hush"));
        let right = RedisConfig { password: Some(Password::new("open sesame")), ..server.config() };
        RedisStore::connect(right).await.unwrap().commit(commit(1)).await.unwrap();
    });
}

#[test]
fn a_password_that_is_changed_meanwhile_is_waited_for_and_read_anew() {
    let server = Server::start(&["--save", ""]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let set = |password: &str| {
        server.say(&["ACL", "SETUSER", "interdict", "on", "resetpass", &format!(">{password}"), "~*", "+@all"]);
        server.say(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    set("old");
    std::fs::write(&file, "old\n").unwrap();
    let password = Some(Password::of_file(file.clone()).unwrap());
    let wait = Duration::from_millis(100);
    let config = RedisConfig { user: Some("interdict".to_owned()), password, wait, ..server.config() };
    block_on(async {
        let store = RedisStore::connect(config.clone()).await.unwrap();
        store.commit(commit(1)).await.unwrap();
        set("new");
        check(&store.commit(commit(1)).await.unwrap_err(), Class::Transient, &["took before", "password_file"]);
        std::fs::write(&file, "new\n").unwrap();
        store.commit(commit(1)).await.unwrap();
        // Given back instead, the old one serves whoever has no file.
        let env = Some(Password::new("new"));
        let store = RedisStore::connect(RedisConfig { password: env, ..config }).await.unwrap();
        set("newer");
        check(&store.commit(commit(1)).await.unwrap_err(), Class::Transient, &["took before", "password_env"]);
        set("new");
        store.commit(commit(1)).await.unwrap();
    });
}

#[test]
fn a_user_with_the_rights_of_its_namespace_is_enough_and_fewer_are_told() {
    let server = Server::start(&["--save", ""]);
    let config = server.config();
    let keys = format!("~{{{}}}:*", config.namespace);
    let grant = |user: &str, rights: &[&str]| {
        server.say(&[&["ACL", "SETUSER", user, "on", ">pw", &keys], rights].concat());
    };
    grant("scorer", &["+@all", "-@dangerous", "+info", "+config|get"]);
    grant("reader", &["+@read", "+info", "+evalsha", "+script|load"]);
    grant("plain", &["+@all", "-@dangerous", "+info"]);
    let as_user = |user: &str| {
        let (user, password) = (Some(user.to_owned()), Some(Password::new("pw")));
        RedisConfig { user, password, ..config.clone() }
    };
    block_on(async {
        let store = RedisStore::connect(as_user("scorer")).await.unwrap();
        store.commit(commit(1)).await.unwrap();
        store.expire(Timestamp::default()).await.unwrap();
        check(&refusal(as_user("reader")).await, Class::Fatal, &["forbids", "ACL SETUSER"]);
        // Without the configuration it is not known what is on disk, which is not held against the server.
        let store = RedisStore::connect(as_user("plain")).await.unwrap();
        assert_eq!(store.persistence(), Persistence::Snapshots);
        let other = RedisConfig { namespace: "foreign".to_owned(), ..as_user("scorer") };
        check(&refusal(other).await, Class::Fatal, &["forbids"]);
    });
}

#[test]
fn a_full_memory_refuses_commits_whole_and_work_goes_on_when_there_is_room() {
    let server = Server::start(&["--save", "", "--maxmemory", "8mb"]);
    block_on(async {
        let store = server.store().await;
        let mut made = 0;
        let error = loop {
            let mut next = commit(20_000);
            for state in &mut next.states {
                state.group = made;
            }
            match store.commit(next).await {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
        };
        check(&error, Class::Transient, &["maxmemory", "work goes on by itself"]);
        let wanted = |group: u64| crate::port::StateQuery {
            entity: "card".into(),
            key: 0_u64.to_be_bytes().into(),
            groups: [group].into(),
        };
        let query = Query { states: (0..=made).map(wanted).collect(), ..Query::default() };
        let states = store.fetch(&query).await.unwrap().states;
        assert_eq!(states.iter().filter(|state| state[0].is_some()).count() as u64, made, "whole commits only");
        assert!(store.expire(Timestamp::default()).await.is_ok(), "what frees memory is still done");
        server.say(&["CONFIG", "SET", "maxmemory", "64mb"]);
        store.commit(commit(20_000)).await.unwrap();
    });
}

#[test]
fn a_server_that_throws_keys_away_is_refused() {
    let server = Server::start(&["--save", "", "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"]);
    block_on(async {
        check(&refusal(server.config()).await, Class::Fatal, &["allkeys-lru", "maxmemory-policy noeviction"]);
    });
}

#[test]
fn a_disk_that_takes_nothing_is_waited_for() {
    // The append-only file's folder cannot be written by snapshots any more: the server stops taking writes.
    let server = Server::start(&["--save", "3600 1"]);
    block_on(async {
        let store = server.store().await;
        store.commit(commit(1)).await.unwrap();
        server.say(&["CONFIG", "SET", "dbfilename", "dump.rdb"]);
        std::fs::create_dir(server.folder().join("dump.rdb")).unwrap();
        std::fs::write(server.folder().join("dump.rdb").join("in-the-way"), "").unwrap();
        server.say(&["BGSAVE"]);
        let error = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Err(error) = store.commit(commit(1)).await {
                    break error;
                }
            }
        });
        check(&error.await.unwrap(), Class::Transient, &["cannot write to its disk", "free space"]);
        std::fs::remove_dir_all(server.folder().join("dump.rdb")).unwrap();
        server.say(&["SAVE"]);
        store.commit(commit(1)).await.unwrap();
    });
}

#[test]
fn too_few_replicas_are_told() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let store = server.store().await;
        server.say(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        let error = store.commit(commit(1)).await.unwrap_err();
        check(&error, Class::Transient, &["min-replicas-to-write", "bring them back"]);
        server.say(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        store.commit(commit(1)).await.unwrap();
    });
}

#[test]
fn what_the_server_keeps_can_be_demanded() {
    let server = Server::start(&["--save", "", "--appendonly", "yes"]);
    block_on(async {
        let demand = |persistence| RedisConfig { persistence, ..server.config() };
        check(&refusal(demand(PersistenceWanted::Always)).await, Class::Fatal, &["every second", "appendfsync always"]);
        let store = RedisStore::connect(demand(PersistenceWanted::AppendOnly)).await.unwrap();
        assert_eq!(store.persistence(), Persistence::EverySecond);
        server.say(&["CONFIG", "SET", "appendfsync", "always"]);
        RedisStore::connect(demand(PersistenceWanted::Always)).await.unwrap();
    });
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let config = RedisConfig { persistence: PersistenceWanted::AppendOnly, ..server.config() };
        check(&refusal(config).await, Class::Fatal, &["nothing on disk", "appendonly yes"]);
    });
}

#[test]
fn another_format_and_foreign_keys_are_told() {
    let server = Server::start(&["--save", ""]);
    let config = server.config();
    block_on(async {
        let store = RedisStore::connect(config.clone()).await.unwrap();
        server.say(&["SET", &format!("{{{}}}:r8:payments:7", config.namespace), "short"]);
        let key = crate::port::RowKey { stream: "payments".into(), id: (*b"7").into() };
        let error = store.fetch(&Query { rows: vec![key], ..Query::default() }).await.unwrap_err();
        check(&error, Class::Fatal, &["shorter than its head", "restore the database"]);
        server.say(&["SET", &format!("{{{}}}:n4:card:7", config.namespace), "not a list"]);
        let busy = EntityRef { entity: "card".to_owned(), key: "7".to_owned() };
        let error = store.recent_decisions(&busy, 9).await.unwrap_err();
        check(&error, Class::Fatal, &["WRONGTYPE"]);
        for format in ["99", "2"] {
            server.say(&["HSET", &format!("{{{}}}:meta", config.namespace), "format", format]);
            let words = [&*format!("format {format} is not 3"), "use a new namespace"];
            check(&refusal(config.clone()).await, Class::Fatal, &words);
        }
        let config = RedisConfig { namespace: "a{b".to_owned(), ..config };
        check(&refusal(config).await, Class::Rejected, &["namespace"]);
    });
}

#[test]
fn an_old_version_is_refused() {
    let config = Server::shared().config();
    for (version, is_refused) in [("6.2.14", true), ("7.0.15", false), ("8.2.0", false), ("", true)] {
        let info = format!("redis_version:{version}\r\nrole:master\r\nmaxmemory:0\r\naof_enabled:1\r\n");
        let checked = server::check(&config, "there", &info, &[]);
        assert_eq!(checked.is_err(), is_refused, "{version}");
        if let Err(error) = checked {
            check(&error.into(), Class::Fatal, &["7.0 or newer"]);
        }
    }
    let info = "redis_version:7.0.15\r\nrole:master\r\nloading:1\r\n";
    let error = server::check(&config, "there", info, &[]).unwrap_err();
    check(&error.into(), Class::Transient, &["still loading"]);
}

#[test]
fn tls_is_spoken_with_a_certificate_that_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (cert, key, tls_port) = (path("cert.pem"), path("key.pem"), port.to_string());
    let tls = ["--tls-port", &tls_port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let _server = Server::start(&[&["--save", ""], &tls[..]].concat());
    let config = RedisConfig::new("cards", &[&format!("rediss://localhost:{port}")]).unwrap();
    let config = RedisConfig { wait: Duration::from_secs(30), ..config };
    block_on(async {
        let ca_pem = Some(std::fs::read(&cert).unwrap());
        let store = RedisStore::connect(RedisConfig { ca_pem, ..config.clone() }).await.unwrap();
        store.commit(commit(1)).await.unwrap();
        let error = RedisStore::connect(config.clone()).await.unwrap_err();
        check(&error, Class::Fatal, &["certificate", "ca_file"]);
        let error = RedisConfig { ca_pem: Some(b"no certificate".to_vec()), ..config };
        check(&refusal(error).await, Class::Fatal, &["ca_file"]);
    });
}
