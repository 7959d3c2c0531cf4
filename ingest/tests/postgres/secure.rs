//! SCRAM and TLS, on a server with a certificate of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use interdict_ingest::source::config::password::PasswordSource;
use interdict_ingest::source::config::postgres::{PostgresConfig, TlsConfig, TlsMode};

use crate::postgres_server::PostgresServer;
use crate::rig::{Puller, TABLES, config_at, refusal, streams};

/// An authority and a certificate for `localhost` that it signed.
fn certificates(folder: &Path) -> PathBuf {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ));
    }
    openssl("req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem");
    folder.join("ca.pem")
}

fn secured(server: &PostgresServer, mode: TlsMode, ca: Option<PathBuf>) -> PostgresConfig {
    let mut config = config_at("localhost", server.port, "secured");
    config.address.user = "capture".to_owned();
    config.password = PasswordSource::Environment("SECRET".to_owned());
    config.tls = TlsConfig { mode, ca };
    config
}

#[test]
fn scram_and_tls_protect_both_connections() {
    let folder = tempfile::tempdir().unwrap();
    let ca = certificates(folder.path());
    let server = PostgresServer::start(&["password_encryption = 'scram-sha-256'"]);
    server.database("secured");
    server.sql("secured", &format!("{TABLES} CREATE ROLE capture LOGIN REPLICATION PASSWORD 'pass word''\"'; CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks; GRANT SELECT ON transactions, chargebacks TO capture; INSERT INTO chargebacks VALUES (1, true)"));
    for file in ["server.pem", "server.key"] {
        let to = server.data().join(file);
        std::fs::copy(folder.path().join(file), &to).unwrap();
        Command::new("chown").arg("postgres").arg(&to).status().unwrap();
        Command::new("chmod").arg("600").arg(&to).status().unwrap();
    }
    server.sql("postgres", "ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_cert_file = 'server.pem'; ALTER SYSTEM SET ssl_key_file = 'server.key'");
    std::fs::write(
        server.data().join("pg_hba.conf"),
        "host all postgres localhost trust\nhostssl all capture localhost scram-sha-256\nlocal all capture scram-sha-256\n",
    )
    .unwrap();
    server.control(&["restart", "-w", "-m", "fast"]);

    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let verified = (mode != TlsMode::Require).then(|| ca.clone());
        let mut puller = Puller::open(&secured(&server, mode, verified), &streams());
        assert_eq!(puller.rows(1), ["= chargebacks 1|1"], "{mode:?}");
        let protected =
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'capture' AND ssl";
        assert_eq!(server.sql("postgres", protected), ["2"], "questions and replication");
    }
    let mut socket = secured(&server, TlsMode::Disable, None);
    socket.address.host = server.folder().to_str().unwrap().to_owned();
    assert_eq!(Puller::open(&socket, &streams()).rows(1), ["= chargebacks 1|1"], "over the Unix socket");

    let other = secured(&server, TlsMode::VerifyFull, Some(folder.path().join("other.pem")));
    let error = refusal(&other, &streams());
    assert!(error.contains("no TLS with PostgreSQL") && error.contains("tls_ca"), "{error}");
    let error = refusal(&secured(&server, TlsMode::Disable, None), &streams());
    assert!(error.contains("refuses role 'capture'"), "{error}");
    let mut wrong = secured(&server, TlsMode::Require, None);
    let file = folder.path().join("wrong");
    std::fs::write(&file, "topsecret\n").unwrap();
    wrong.password = PasswordSource::File(file);
    let error = refusal(&wrong, &streams());
    assert!(error.contains("refuses role 'capture'") && !error.contains("topsecret"), "{error}");
    wrong.password = PasswordSource::None;
    let error = refusal(&wrong, &streams());
    assert!(error.contains("refuses role 'capture'") && error.contains("password_env"), "{error}");
}
