//! Reading `[[action]] type = "postgres"`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use interdict_features::config::Section;
use interdict_features::definition::{Definitions, Entity};
use interdict_features::value::ColumnType;

use super::action::read_duration;
use crate::policy::SecretSource;
use crate::policy::database::{DatabaseConfig, Ledger, Parameter, SOURCES, Source, Statement, Tls, TlsMode};
use crate::retry::Backoff;

/// Connections of one action unless configured otherwise: a block takes about a millisecond, so some thousands a second.
const CONNECTIONS: usize = 8;
/// Rows changed at once unless configured otherwise: a person has a few accounts; a statement without its condition
/// has all of them.
const ROWS_MAX: u64 = 10;
/// The longest statement, bytes.
const STATEMENT_BYTES_MAX: usize = 64 * 1024;

pub(super) fn read(section: &Section<'_>, definitions: &Definitions, entity: Option<usize>) -> Option<DatabaseConfig> {
    section.require("url", "\"postgres://interdict@HOST/DATABASE\"");
    section.require("block", "\"UPDATE accounts SET status = 'blocked' WHERE id = $1\"");
    section.require("unblock", "\"UPDATE accounts SET status = 'active' WHERE id = $1\"");
    let url = section.text("url").filter(|url| check_url(section, url));
    let password = read_password(section);
    let tls = read_tls(section, url.as_deref());
    let entity = entity.map(|index| &definitions.entities[index]);
    let key = entity.and_then(|entity| read_key(section, definitions, entity));
    let block = read_statement(section, "block", definitions, entity, key.as_deref());
    let unblock = read_statement(section, "unblock", definitions, entity, key.as_deref());
    let ledger = read_ledger(section);
    let rows_max = section.integer("rows_max", 1..=1_000_000).map_or(ROWS_MAX, i64::unsigned_abs);
    let connections = section.integer("connections", 1..=64);
    let timeout = read_duration(section, "timeout", Duration::from_secs(5), Duration::from_secs(60));
    let backoff = Backoff {
        first: read_duration(section, "retry_first", Duration::from_millis(100), Duration::from_secs(3_600)),
        max: read_duration(section, "retry_max", Duration::from_secs(10), Duration::from_secs(86_400)),
        give_up_after: read_duration(
            section,
            "give_up_after",
            Duration::from_secs(7 * 86_400),
            Duration::from_secs(30 * 86_400),
        ),
    };
    Some(DatabaseConfig {
        url: url?,
        password: password?,
        tls,
        block: block?,
        unblock: unblock?,
        key: key?,
        ledger: ledger?,
        rows_max,
        connections: connections.map_or(CONNECTIONS, |it| usize::try_from(it).unwrap_or(CONNECTIONS)),
        timeout,
        backoff,
    })
}

/// The error's own text would show the URL.
#[cfg(feature = "postgres")]
fn check_url(section: &Section<'_>, url: &str) -> bool {
    const HELP: &str = "write postgres://USER@HOST:PORT/DATABASE";
    let Ok(parsed) = url.parse::<tokio_postgres::Config>() else {
        section.report("url", "this is no PostgreSQL connection string", HELP);
        return false;
    };
    if parsed.get_password().is_some() {
        section.report("url", "a password stands in the configuration", "take it out, and add password_env = \"NAME\"");
        return false;
    }
    let missing = [
        ("user", parsed.get_user().is_none()),
        ("host", parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty()),
        ("database", parsed.get_dbname().is_none()),
    ];
    for (what, _) in missing.iter().filter(|(_, is_missing)| *is_missing) {
        section.report("url", format!("the connection string names no {what}"), HELP);
    }
    missing.iter().all(|(_, is_missing)| !is_missing)
}

#[cfg(not(feature = "postgres"))]
fn check_url(section: &Section<'_>, _url: &str) -> bool {
    section.report("type", "this program was built without PostgreSQL", "build it with --features postgres");
    false
}

/// What the hosts of a connection string ask of its protection.
#[derive(Default)]
struct Hosts {
    /// Every one is this machine.
    are_local: bool,
    /// Every one is a Unix socket.
    are_sockets: bool,
}

#[cfg(feature = "postgres")]
fn hosts(url: &str) -> Hosts {
    use tokio_postgres::config::Host;
    let Ok(parsed) = url.parse::<tokio_postgres::Config>() else { return Hosts::default() };
    let is_socket = |host: &Host| match host {
        Host::Tcp(_) => false,
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    let is_local = |host: &Host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    let (hosts, addresses) = (parsed.get_hosts(), parsed.get_hostaddrs());
    Hosts {
        are_local: hosts.iter().all(is_local) && addresses.iter().all(std::net::IpAddr::is_loopback),
        are_sockets: addresses.is_empty() && hosts.iter().all(is_socket),
    }
}

#[cfg(not(feature = "postgres"))]
fn hosts(_url: &str) -> Hosts {
    Hosts::default()
}

/// The outer `None` after a mistake.
#[expect(clippy::option_option, reason = "none needed and none usable are two answers")]
fn read_password(section: &Section<'_>) -> Option<Option<SecretSource>> {
    match (section.text("password_env"), section.text("password_file")) {
        (Some(name), None) => Some(Some(SecretSource::Environment(name))),
        (None, Some(path)) => Some(Some(SecretSource::File(path.into()))),
        (None, None) => Some(None),
        (Some(_), Some(_)) => {
            section.report("password_file", "the password has two sources", "keep password_env or password_file");
            None
        }
    }
}

const MODES: [(&str, TlsMode); 4] = [
    ("disable", TlsMode::Disable),
    ("require", TlsMode::Require),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-full", TlsMode::VerifyFull),
];

/// The keys and defaults are those of a source in a database.
fn read_tls(section: &Section<'_>, url: Option<&str>) -> Tls {
    let ca = section.text("tls_ca").map(PathBuf::from);
    let chosen = section.choice("tls", &MODES.map(|(name, _)| name)).map(|index| MODES[index].1);
    let hosts = url.map(hosts).unwrap_or_default();
    // What leaves the machine is protected unless it is said otherwise.
    let mode = chosen.unwrap_or(if hosts.are_local && ca.is_none() { TlsMode::Disable } else { TlsMode::VerifyFull });
    if hosts.are_sockets && mode != TlsMode::Disable {
        section.report("tls", "a Unix socket needs no TLS", "remove tls and tls_ca, or name a host");
    }
    if ca.is_some() && matches!(mode, TlsMode::Disable | TlsMode::Require) {
        section.report("tls_ca", "certificates that are not verified against", "write tls = \"verify-full\"");
    }
    Tls { mode, ca }
}

/// The declared types of the entity's key. A column's type is taken from the first stream that has it.
fn read_key(section: &Section<'_>, definitions: &Definitions, entity: &Entity) -> Option<Vec<ColumnType>> {
    let mut kinds = Vec::new();
    for name in &entity.key {
        let column = definitions.streams.iter().find_map(|it| it.column(name).map(|at| &it.columns[at]))?;
        if column.sensitive {
            section.report(
                "entity",
                format!("'{name}' is sensitive: decisions know its keyed hash only, which finds no account"),
                format!("address an entity whose key is not sensitive, or take 'sensitive' off '{name}'"),
            );
            return None;
        }
        kinds.push(column.kind);
    }
    Some(kinds)
}

fn read_statement(
    section: &Section<'_>,
    name: &str,
    definitions: &Definitions,
    entity: Option<&Entity>,
    key: Option<&[ColumnType]>,
) -> Option<Statement> {
    let list = format!("{name}_parameters");
    let sql = section.text(name);
    if let Some(sql) = &sql
        && !(1..=STATEMENT_BYTES_MAX).contains(&sql.trim().len())
    {
        section.report(name, format!("'{name}' is empty or over 64 KB"), "write one UPDATE statement");
        return None;
    }
    let written = section.texts(&list);
    let (entity, key) = (entity?, key?);
    let of_key = || entity.key.iter().zip(key).enumerate();
    let Some(written) = written else {
        let parameters =
            of_key().map(|(at, (name, kind))| Parameter { name: name.clone(), source: Source::Key(at), kind: *kind });
        return Some(Statement { sql: sql?, parameters: parameters.collect() });
    };
    let mut parameters = Vec::new();
    for name in &written {
        let found = of_key()
            .find(|(_, (column, _))| **column == name.value)
            .map(|(at, (_, kind))| (Source::Key(at), *kind))
            .or_else(|| {
                SOURCES.iter().find(|(known, ..)| *known == name.value).map(|(_, source, kind)| (*source, *kind))
            })
            .or_else(|| (list == "block_parameters").then(|| column(definitions, &name.value)).flatten());
        match found {
            Some((source, kind)) => parameters.push(Parameter { name: name.value.clone(), source, kind }),
            None => {
                let known = SOURCES.iter().map(|(name, ..)| *name).chain(entity.key.iter().map(String::as_str));
                let mut help = interdict_features::config::suggestion(&name.value, known);
                if column(definitions, &name.value).is_some() {
                    "an unblocking knows no event; address the account by its key".clone_into(&mut help);
                }
                section.file().report(
                    name.span.clone(),
                    format!("'{}' is nothing to give a statement", name.value),
                    help,
                );
            }
        }
    }
    let given: BTreeSet<_> = parameters.iter().map(|it| it.name.as_str()).collect();
    if parameters.len() == written.len()
        && let Some(missing) = entity.key.iter().find(|column| !given.contains(column.as_str()))
    {
        let message = format!("without '{missing}' the statement does not know whom it addresses");
        section.report(&list, message, format!("add \"{missing}\" to {list}"));
        return None;
    }
    (parameters.len() == written.len()).then_some(Statement { sql: sql?, parameters })
}

/// A column of a judged stream.
fn column(definitions: &Definitions, name: &str) -> Option<(Source, ColumnType)> {
    let judged = definitions.streams.iter().filter(|stream| stream.judge.is_some());
    let column = judged.filter_map(|stream| stream.column(name).map(|at| stream.columns[at].kind)).next()?;
    Some((Source::Column, column))
}

fn read_ledger(section: &Section<'_>) -> Option<Ledger> {
    let name = section.text("ledger").unwrap_or_else(|| "interdict_ledger".to_owned());
    let ledger = Ledger::parse(&name);
    if ledger.is_none() {
        section.report(
            "ledger",
            format!("'{name}' is no name for the ledger"),
            "write TABLE or SCHEMA.TABLE in lower-case letters, digits and _",
        );
    }
    ledger
}
