//! The `[store]` section.

use std::time::Duration;

use interdict_features::config::ConfigFile;

use crate::redis::config::{PersistenceWanted, RedisConfig};

fn read(lines: &str, folder: &std::path::Path) -> (Option<RedisConfig>, String) {
    let file = ConfigFile::parse("interdict.toml", &format!("[store]\ntype = \"redis\"\n{lines}")).unwrap();
    let section = file.section("store").unwrap();
    section.know("type");
    let config = RedisConfig::read(&section, "cards", folder);
    section.finish();
    (config, file.finish().map_or_else(|problems| problems.to_string(), |()| String::new()))
}

#[test]
fn everything_that_can_be_said_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "open sesame\n").unwrap();
    std::fs::write(folder.path().join("ca.pem"), "pem").unwrap();
    let lines = "url = [\"rediss://one:7000/2\", \"rediss://two\"]\nuser = \"scorer\"\npassword_file = \"password\"\n\
        ca_file = \"ca.pem\"\nconnect_timeout = \"1s\"\nresponse_timeout = \"3s\"\nwait = \"9s\"\nreplicas = 2\n\
        replica_timeout = \"250ms\"\npersistence = \"always\"\noutbox_capacity = 7\n\
        decisions_keep = \"90d\"\n";
    let (config, mistakes) = read(lines, folder.path());
    assert_eq!(mistakes, "");
    let config = config.unwrap();
    let addresses: Vec<_> = config.servers.iter().map(|server| server.addr().to_string()).collect();
    assert_eq!(addresses, ["one:7000", "two:6379"]);
    assert_eq!(config.servers[0].redis_settings().db(), 2);
    assert_eq!((config.namespace.as_str(), config.user.as_deref()), ("cards", Some("scorer")));
    assert_eq!(config.password.as_ref().unwrap().reveal(), "open sesame");
    assert_eq!(config.ca_pem.as_deref(), Some(&b"pem"[..]));
    let times = [config.connect_timeout, config.response_timeout, config.wait, config.replica_timeout];
    assert_eq!(times, [1000, 3000, 9000, 250].map(Duration::from_millis));
    assert_eq!((config.replicas, config.persistence, config.outbox_capacity), (2, PersistenceWanted::Always, 7));
    assert_eq!(config.decisions_keep, Some(Duration::from_secs(90 * 86_400)));
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn one_address_is_enough() {
    let (config, mistakes) = read("url = \"redis://localhost\"\n", std::path::Path::new(""));
    assert_eq!(mistakes, "");
    assert_eq!(config.unwrap().outbox_capacity, 10_000);
}

#[test]
fn mistakes_are_told_all_at_once_and_secrets_are_not() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let cases: [(&str, &[&str]); 13] = [
        ("", &["has no 'url'"]),
        ("url = []", &["names no server"]),
        ("url = \"http://localhost\"", &["redis://HOST"]),
        ("url = \"redis://me:hush@localhost\"", &["holds a user or password", "password_env"]),
        ("url = \"rediss://localhost/#insecure\"", &["without checking"]),
        ("url = \"redis://a\"\npassword = \"hush\"", &["does not belong", "password_file"]),
        ("url = \"redis://a\"\npassword_env = \"INTERDICT_TEST_UNSET\"", &["INTERDICT_TEST_UNSET is not set"]),
        ("url = \"redis://a\"\npassword_file = \"empty\"", &["the password is empty"]),
        ("url = \"redis://a\"\npassword_file = \"absent\"", &["absent cannot be read"]),
        ("url = \"redis://a\"\nca_file = \"empty\"", &["needs TLS", "rediss://"]),
        ("url = \"redis://a\"\nwait = \"2h\"\nreplica_timeout = \"20s\"", &["'wait' is no time", "not shorter"]),
        ("url = \"redis://a\"\ndecisions_keep = \"2h\"", &["write at least 1d"]),
        ("url = \"redis://a\"\npersistence = \"some\"\npasswort_file = \"x\"", &["appendonly, always", "unknown key"]),
    ];
    for (lines, words) in cases {
        let (config, mistakes) = read(lines, folder.path());
        for word in words {
            assert!(mistakes.contains(word), "no '{word}' for {lines}:\n{mistakes}");
        }
        assert!(!mistakes.contains("hush"), "{mistakes}");
        assert!(config.is_none() || mistakes.contains("unknown key"), "{lines}");
    }
}
