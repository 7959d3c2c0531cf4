//! The configuration of topics and sinks.

use std::path::Path;
use std::time::Duration;

use interdict_features::config::ConfigFile;
use interdict_features::definition::OnTruncate;

use super::broker::{Broker, Mechanism, TlsMode};
use super::sink::{self, What};
use crate::fixture::{chargebacks, transactions};
use crate::source::config::password::PasswordSource;
use crate::source::config::topic::{Bursts, TopicConfig};
use crate::source::config::{self, Format, SourceKind};

const SOURCE: &str = "[source]\ntopic = \"shop.public.transactions\"\nformat = \"debezium\"\n";
const SINK: &str = "[[sink]]\nname = \"decisions\"\nwhat = \"decisions\"\n";

/// The topic that a configuration reads, or its mistakes.
fn source(text: &str) -> Result<TopicConfig, Vec<String>> {
    let file = ConfigFile::parse("interdict.toml", text).unwrap();
    let mut sources = config::read(&file, &[transactions(), chargebacks()]);
    file.finish().map_err(|problems| {
        problems.0.into_iter().map(|problem| problem.message + &problem.help).collect::<Vec<_>>()
    })?;
    let SourceKind::Topic(topic) = sources.remove(0).kind else { panic!("no topic") };
    Ok(topic)
}

fn sinks(text: &str) -> Result<sink::Sinks, Vec<String>> {
    let file = ConfigFile::parse("interdict.toml", text).unwrap();
    let sinks = sink::read(&file, Path::new("/etc/interdict"));
    file.finish().map_err(|problems| {
        problems.0.into_iter().map(|problem| problem.message + &problem.help).collect::<Vec<_>>()
    })?;
    Ok(sinks)
}

#[test]
fn a_kafka_source_is_read() {
    let read = source(&format!(
        "{SOURCE}type = \"kafka\"\nbrokers = \"k1.example.com:9093,k2.example.com:9093\"\ngroup = \"g\"\nuser = \"u\"\npassword_file = \"secret\"\ntls_ca = \"ca.pem\"\nbursts = false\nsession = \"6s\"\n"
    ));
    let read = read.unwrap().located(Path::new("/etc/interdict"));
    assert_eq!(
        (read.topic.as_str(), read.format, read.bursts, read.session),
        ("shop.public.transactions", Format::Debezium, Bursts::Missed, Duration::from_secs(6))
    );
    assert_eq!(read.group("bank", "payments"), "g");
    let Broker::Kafka(kafka) = read.broker else { panic!("kafka") };
    assert_eq!((kafka.tls.mode, kafka.tls.ca), (TlsMode::VerifyFull, Some("/etc/interdict/ca.pem".into())));
    let login = kafka.login.unwrap();
    assert_eq!(login.password, PasswordSource::File("/etc/interdict/secret".into()));
    assert_eq!((login.user.as_str(), login.mechanism), ("u", Mechanism::ScramSha256));
}

#[test]
fn a_fluvio_source_is_read_and_two_systems_share_no_group() {
    let read = source(&format!("{SOURCE}type = \"fluvio\"\nendpoint = \"localhost:9003\"\n")).unwrap();
    assert_eq!((read.broker.address(), read.bursts), ("localhost:9003", Bursts::Seen));
    assert_eq!(read.group("bank", "payments"), "interdict.bank.payments");
    let Broker::Fluvio(fluvio) = read.broker else { panic!("fluvio") };
    assert_eq!(fluvio.tls.mode, TlsMode::Disable, "on this machine");
}

#[test]
fn mistakes_of_a_topic_are_told() {
    let kafka = format!("{SOURCE}type = \"kafka\"\n");
    let here = format!("{kafka}brokers = \"localhost:9092\"\n");
    for (text, expected) in [
        (kafka.clone(), "has no 'brokers'"),
        (format!("{kafka}brokers = \"localhost\"\n"), "is no address"),
        (format!("{kafka}brokers = \"kafka://h:1\"\n"), "is no address"),
        (format!("{SOURCE}type = \"fluvio\"\n"), "has no 'endpoint'"),
        (format!("{here}password = \"geheim\"\n"), "does not belong into the configuration"),
        (format!("{here}password_env = \"P\"\n"), "has no 'user'"),
        (format!("{here}user = \"u\"\n"), "has no 'password_env'"),
        (format!("{here}user = \"u\"\npassword_env = \"P\"\nsasl = \"plain\"\n"), "anybody can read"),
        (format!("{here}tls_key = \"k\"\n"), "a key without its certificate"),
        (format!("{here}tls = \"require\"\ntls_ca = \"ca.pem\"\n"), "not verified against"),
        (here.replace("debezium", "csv"), "csv"),
        (here.replace("shop.public", "shop public"), "is no name for a topic"),
        (format!("{here}path = \"x\"\n"), "unknown key 'path'"),
        (format!("{here}session = \"100ms\"\n"), "a session lasts 1s to 5m"),
        (here.replace("debezium", "json"), "has no 'stream'"),
        (format!("{SOURCE}type = \"fluvio\"\nendpoint = \"sc.example.com:9003\"\n"), "tls_domain"),
    ] {
        let problems = source(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
        assert!(!problems.concat().contains("geheim"));
    }
}

const CAPTURE: &str = "[[source]]\nname = \"bank\"\ntype = \"postgres\"\nurl = \"postgres://u@localhost/shop\"\ntables = { transactions = \"shop.tx\" }\n";
const REPUBLISH: &str = "[source.republish]\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"changes\"\n";

/// The topic that a configuration republishes to, or its mistakes.
fn republished(text: &str, on_truncate: OnTruncate) -> Result<Option<TopicConfig>, Vec<String>> {
    let file = ConfigFile::parse("interdict.toml", text).unwrap();
    let mut stream = (*transactions()).clone();
    stream.on_truncate = on_truncate;
    let mut sources = config::read(&file, &[stream.into(), chargebacks()]);
    file.finish().map_err(|problems| {
        problems.0.into_iter().map(|problem| problem.message + &problem.help).collect::<Vec<_>>()
    })?;
    let SourceKind::Postgres(database) = sources.remove(0).kind else { panic!("no database") };
    Ok(database.located(Path::new("/etc/interdict")).republish.map(|topic| *topic))
}

#[test]
fn a_database_is_republished_to_a_topic_that_its_readers_know() {
    assert_eq!(republished(CAPTURE, OnTruncate::Clear), Ok(None));
    let more = "group = \"g\"\nsession = \"6s\"\nbursts = false\ntls = \"verify-full\"\ntls_ca = \"ca.pem\"\n";
    let read = republished(&format!("{CAPTURE}{REPUBLISH}{more}"), OnTruncate::Stop).unwrap().unwrap();
    assert_eq!((read.topic.as_str(), read.format, read.bursts), ("changes", Format::Debezium, Bursts::Missed));
    assert_eq!((read.group("bank", "bank").as_str(), read.session), ("g", Duration::from_secs(6)));
    let tables: Vec<_> = read.tables.iter().map(|it| (&*it.stream, &*it.schema, &*it.table)).collect();
    assert_eq!(tables, [("transactions", "shop", "tx")]);
    let Broker::Kafka(kafka) = read.broker else { panic!("kafka") };
    assert_eq!(kafka.tls.ca, Some("/etc/interdict/ca.pem".into()));
}

#[test]
fn mistakes_of_republishing_are_told_at_once() {
    let all = format!("{CAPTURE}[source.republish]\ntype = \"kafka\"\nformat = \"json\"\n");
    let problems = republished(&all, OnTruncate::Clear).unwrap_err();
    for expected in ["has no 'brokers'", "has no 'topic'", "unknown key 'format'", "on_truncate = \"clear\""] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
    let fluvio = REPUBLISH.replace("kafka", "fluvio").replace("brokers", "endpoint");
    let problems = republished(&format!("{CAPTURE}{fluvio}"), OnTruncate::Stop).unwrap_err();
    assert!(problems.concat().contains("databases are republished to Kafka only"), "{problems:?}");
    let file = "[source]\ntype = \"file\"\npath = \"x\"\nformat = \"debezium\"\n[source.republish]\ntopic = \"t\"\n";
    let problems = republished(file, OnTruncate::Stop).unwrap_err();
    assert!(problems.concat().contains("unknown key 'republish'"), "{problems:?}");
}

#[test]
fn sinks_are_read_and_their_mistakes_told() {
    let kafka = "type = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"decisions\"\n";
    let letters = "[[sink]]\nname = \"letters\"\nwhat = \"dead_letters\"\ntype = \"fluvio\"\nendpoint = \"localhost:9003\"\ntopic = \"dead\"\n";
    let cases = format!("[[sink]]\nname = \"cases\"\nwhat = \"actions\"\n{kafka}");
    let read = sinks(&format!("{SINK}{kafka}{letters}{cases}")).unwrap();
    assert_eq!(read.actions.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>(), ["cases"]);
    let told: Vec<_> = read.logs.iter().map(|sink| (sink.name.as_str(), sink.what, sink.topic.as_str())).collect();
    assert_eq!(told, [("decisions", What::Decisions, "decisions"), ("letters", What::DeadLetters, "dead")]);
    for (text, expected) in [
        (format!("{SINK}type = \"kafka\"\ntopic = \"t\"\n"), "has no 'brokers'"),
        (format!("{SINK}type = \"kafka\"\nbrokers = \"h:1\"\n"), "has no 'topic'"),
        (format!("{SINK}{kafka}").replace("what = \"decisions\"", "what = \"everything\""), "everything"),
        (format!("{SINK}{kafka}{SINK}{kafka}"), "two sinks are called 'decisions'"),
        (format!("{cases}{cases}"), "two sinks are called 'cases'"),
    ] {
        let problems = sinks(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}
