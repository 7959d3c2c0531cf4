//! What is found wrong when the process starts, and what is only waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use interdict_scorer::action::delivery::ActionStatus;
use interdict_scorer::action::metrics::Metrics;
use interdict_scorer::action::receiver::Receivers;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::rig::{BLOCK, Outbox, Rig, action, environment, until};
use super::server::Server;
use crate::support::read_policy;

/// What the database has against `lines`.
async fn mistakes(rig: &Rig, lines: &[(&str, &str)]) -> String {
    let outbox = Outbox::new(&action(&rig.url(), lines));
    outbox.receivers().check().await.map_or_else(|error| error.to_string(), |()| String::new())
}

#[tokio::test]
async fn statements_are_checked_against_the_database() {
    let rig = Rig::new(&[]).await;
    rig.bank
        .batch_execute(
            "CREATE TABLE secrets (id bigint, status text); CREATE TABLE other (id int); \
             GRANT ALL ON other TO interdict; CREATE TABLE by_uuid (id uuid); GRANT ALL ON by_uuid TO interdict",
        )
        .await
        .unwrap();
    assert_eq!(mistakes(&rig, &[]).await, "");
    for (block, parameters, expected) in [
        ("UPDATE acounts SET status = 'blocked' WHERE id = $1", "customer_id", "relation \"acounts\" does not exist"),
        ("UPDATE accounts SET state = 'blocked' WHERE id = $1", "customer_id", "write the column's name as it is"),
        ("UPDATE accounts SET status = 'blocked' WHERE", "customer_id", "write one statement as psql would take it"),
        ("UPDATE accounts SET status = 'blocked'; DELETE FROM accounts", "customer_id", "write one statement"),
        ("UPDATE accounts SET status = 'blocked'", "customer_id", "it would change every row; add WHERE ... = $1"),
        ("UPDATE accounts SET told = $2 WHERE id = $1", "customer_id", "block_parameters names 1"),
        ("UPDATE accounts SET told = $3 WHERE id = $1", "customer_id\", \"reason\", \"kind", "use every parameter"),
        ("UPDATE by_uuid SET id = id WHERE id = $1", "customer_id", "takes $1 as uuid, and customer_id is int64"),
        (
            "UPDATE accounts SET blocks = $2 WHERE id = $1",
            "customer_id\", \"reason",
            "takes $2 as int4, and reason is string",
        ),
        ("UPDATE secrets SET status = 'blocked' WHERE id = $1", "customer_id", "grant the user of 'url' this right"),
    ] {
        let (block, parameters) = (format!("{block:?}"), format!("[\"{parameters}\"]"));
        let told = mistakes(&rig, &[("block", &block), ("block_parameters", &parameters)]).await;
        assert!(told.contains(expected) && told.contains("action 'block'"), "{block}: {told}");
    }
    let told = mistakes(&rig, &[("unblock", "\"UPDATE accounts SET status = 'active' WHERE name = $1\"")]).await;
    assert!(told.contains("unblock"), "{told}");
    let told = mistakes(&rig, &[("ledger", "\"other\"")]).await;
    assert!(told.contains("is no ledger of this version") && told.contains("CREATE TABLE"), "{told}");
    let told = mistakes(&rig, &[("ledger", "\"nowhere.ledger\"")]).await;
    assert!(told.contains("let its owner run") && told.contains("\"nowhere\".\"ledger\""), "{told}");
}

#[tokio::test]
async fn a_ledger_that_may_not_be_made_is_asked_for_and_then_used() {
    let rig = Rig::new(&[]).await;
    rig.bank.batch_execute("REVOKE CREATE ON SCHEMA public FROM interdict").await.unwrap();
    let told = mistakes(&rig, &[]).await;
    let ddl = told.split_once("let its owner run:\n").unwrap_or_else(|| panic!("{told}")).1.to_owned();
    rig.bank.batch_execute(&ddl.replace("USER", "nobody_yet")).await.unwrap_err();
    let table = ddl.split("GRANT").next().unwrap();
    rig.bank.batch_execute(table).await.unwrap();
    let told = mistakes(&rig, &[]).await;
    let grant = told.split_once("let its owner run: ").unwrap_or_else(|| panic!("{told}")).1.to_owned();
    rig.bank.batch_execute(&grant.replace("USER", "interdict")).await.unwrap();
    assert_eq!(mistakes(&rig, &[]).await, "");
    let id = rig.outbox.decide(1, 7, 90);
    rig.outbox.drain().await;
    rig.outbox.check_result(id, ActionStatus::Done, "1 rows");
}

#[tokio::test]
async fn a_password_is_read_from_the_environment_and_a_wrong_one_is_waited_out() {
    let rig = Rig::new(&[]).await;
    let url = rig.url().replace("interdict@", "secret@");
    let lines = [("password_env", "\"BANK\""), ("block", &*format!("{BLOCK:?}"))];
    let outbox = Outbox::new(&action(&url, &lines));
    outbox.receivers().check().await.unwrap();
    let id = outbox.decide(1, 7, 90);
    outbox.drain().await;
    outbox.check_result(id, ActionStatus::Done, "1 rows");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let outbox = Outbox::new(&action(&url, &[("password_file", &format!("{:?}", file.to_str().unwrap()))]));
    outbox.receivers().check().await.unwrap();
    let id = outbox.decide(2, 8, 90);
    let running = outbox.start();
    until("it is tried in vain", async || running.has_retried()).await;
    running.end().await;
    assert_eq!(outbox.store.outbox_now(None, 10).unwrap().len(), 1, "nothing is lost");
    std::fs::write(&file, format!("{}\n", super::server::PASSWORD)).unwrap();
    outbox.drain().await;
    outbox.check_result(id, ActionStatus::Done, "1 rows");

    let policy = read_policy(&action(&url, &lines)).unwrap();
    let error = Receivers::open(&policy, &|_| None, &HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("no BANK") && !error.contains("secret@"), "{error}");
}

/// What the gauge of mistakes shows.
fn shown(registry: &Registry) -> i64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("interdict_scorer_receiver_mistakes "));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_revoked_and_granted_while_actions_are_carried_out_is_known() {
    let rig = Rig::on(Arc::new(Server::start("postgres")), &[]).await;
    let receivers = Arc::new(rig.outbox.receivers());
    receivers.check().await.unwrap();
    let mut registry = Registry::default();
    let (metrics, stop) = (Metrics::register(&mut registry), CancellationToken::new());
    let watching = {
        let (receivers, metrics, stop) = (Arc::clone(&receivers), metrics.clone(), stop.clone());
        tokio::spawn(async move { receivers.watch(&metrics, Duration::from_millis(2), &stop).await })
    };
    rig.bank.batch_execute("REVOKE UPDATE ON accounts FROM interdict").await.unwrap();
    until("the right is missed", async || shown(&registry) == 1).await;

    // Whoever does not answer is not mended.
    rig.server.crash();
    let away = TcpListener::bind(("127.0.0.1", rig.server.port)).await.unwrap();
    for _ in 0..5 {
        drop(away.accept().await.unwrap());
    }
    assert_eq!(shown(&registry), 1);
    drop(away);
    rig.server.resume();
    let bank = rig.server.connect(&rig.name).await;
    bank.batch_execute("GRANT UPDATE ON accounts TO interdict").await.unwrap();
    until("it is mended", async || shown(&registry) == 0).await;

    // Who carries on elsewhere shows it there.
    bank.batch_execute("REVOKE UPDATE ON accounts FROM interdict").await.unwrap();
    stop.cancel();
    watching.await.unwrap();
    let last = shown(&registry);
    receivers.watch(&metrics, Duration::ZERO, &stop).await;
    assert_eq!(shown(&registry), last);
}

#[tokio::test]
async fn the_server_must_be_the_one_its_certificate_says() {
    let server = Arc::new(Server::start("localhost"));
    let rig = Rig::on(Arc::clone(&server), &[]).await;
    let other = Server::shared();
    let (own, others) = (server.certificate(), other.certificate());
    let secured = |host: &str, mode: &str, ca: Option<&std::path::PathBuf>| {
        let url = rig.url().replace("127.0.0.1", host);
        let mode = format!("{mode:?}");
        let ca = ca.map_or(String::new(), |file| format!("{:?}", file.to_str().unwrap()));
        Outbox::new(&action(&url, &[("tls", &mode), ("tls_ca", &ca)]))
    };
    let good = [
        ("localhost", "verify-full", Some(&own)),
        ("127.0.0.1", "verify-ca", Some(&own)),
        ("127.0.0.1", "require", None),
    ];
    for (host, mode, ca) in good {
        let outbox = secured(host, mode, ca);
        let id = outbox.decide(1, 7, 90);
        let running = outbox.start();
        outbox.wait_empty().await;
        let sessions = "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'interdict'";
        let sessions = rig.bank.query_one(sessions, &[]).await.unwrap();
        assert_eq!((sessions.get::<_, bool>(0), sessions.get::<_, i64>(1) > 0), (true, true), "{mode}");
        running.end().await;
        outbox.check_result(id, ActionStatus::Done, "1 rows");
        rig.bank.batch_execute("TRUNCATE interdict_ledger").await.unwrap();
    }
    let bad = [
        ("localhost", "verify-full", Some(&others)),
        ("127.0.0.1", "verify-full", Some(&own)),
        ("localhost", "verify-ca", Some(&others)),
        ("localhost", "verify-full", None),
    ];
    for (host, mode, ca) in bad {
        let outbox = secured(host, mode, ca);
        outbox.decide(2, 8, 90);
        let running = outbox.start();
        until("it is refused", async || running.has_retried()).await;
        running.end().await;
        assert_eq!(outbox.store.outbox_now(None, 10).unwrap().len(), 1, "{host} {mode}");
    }
    assert_eq!(rig.account(8).await.1, 0);
    let nothing = std::env::temp_dir().join("no-such-file.pem");
    let policy = read_policy(&action(
        "postgres://interdict@db.example.com/bank",
        &[("tls_ca", &format!("{:?}", nothing.to_str().unwrap()))],
    ));
    let error = Receivers::open(&policy.unwrap(), &environment, &HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn mistakes_of_the_configuration_are_told_with_what_to_write() {
    let url = "postgres://interdict@127.0.0.1/bank";
    read_policy(&action(url, &[])).unwrap();
    for (lines, expected) in [
        (("url", "\"postgres://interdict:hunter2@127.0.0.1/bank\""), "add password_env"),
        (("url", "\"postgres://127.0.0.1/bank\""), "names no user"),
        (("url", "\"postgres://interdict@127.0.0.1\""), "names no database"),
        (("url", "\"bank\""), "no PostgreSQL connection string"),
        (("url", ""), "has no 'url'"),
        (("block", ""), "has no 'block'"),
        (("unblock", ""), "has no 'unblock'"),
        (("block", "\" \""), "is empty"),
        (("block_parameters", "[\"reason\"]"), "does not know whom it addresses"),
        (("block_parameters", "[\"customer_id\", \"raeson\"]"), "reason"),
        (("unblock_parameters", "[\"customer_id\", \"amount\"]"), "an unblocking knows no event"),
        (("ledger", "\"x; DROP TABLE accounts\""), "is no name for the ledger"),
        (("tls_ca", "\"ca.pem\"\ntls = \"require\""), "write tls = \"verify-full\""),
        (("tls_ca", "\"ca.pem\"\ntls = \"disable\""), "write tls = \"verify-full\""),
        (("url", "\"postgres://interdict@%2Fvar%2Frun/bank\"\ntls = \"require\""), "a Unix socket needs no TLS"),
        (("tls", "\"verify\""), "disable, require, verify-ca, verify-full"),
        (("connections", "0"), "a number from 1"),
        (("rows_max", "0"), "a number from 1"),
        (("timeout", "\"5 minutes\""), "no length of time"),
        (("pasword_env", "\"X\""), "password_env"),
    ] {
        let told = read_policy(&action(url, &[lines])).map_or_else(|problems| problems.to_string(), |_| String::new());
        assert!(told.contains(expected) && !told.contains("hunter2"), "{lines:?}: {told}");
    }
    let both = [("password_env", "\"A\""), ("password_file", "\"b\"")];
    assert!(read_policy(&action(url, &both)).unwrap_err().to_string().contains("keep password_env or"));
    let review = "[[rule]]\nid = \"odd\"\nwhen = \"amount > 1.0\"\noutcome = \"review\"\nreason = \"odd\"\n";
    let told = read_policy(&(review.to_owned() + &action(url, &[("on", ""), ("rules", "[\"odd\"]")])));
    assert!(told.unwrap_err().to_string().contains("asks for a review, and this action blocks"));
}
