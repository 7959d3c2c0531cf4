//! `[source] type = "postgres"`: which database, which tables, under which slot.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use interdict_features::config::{Section, suggestion};
use interdict_features::definition::Stream;

use super::password::{self, PasswordSource};
use super::topic::{self, TopicConfig};

/// How often an idle position is delivered and the slot's lag is measured, unless configured.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The longest name PostgreSQL takes.
const NAME_BYTES_MAX: usize = 63;

/// A PostgreSQL database whose changes are captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostgresConfig {
    /// Where the server is and as whom to connect.
    pub address: Address,
    /// Where the password is.
    pub password: PasswordSource,
    /// How the connection is protected.
    pub tls: TlsConfig,
    /// Which table feeds which stream.
    pub tables: Vec<TableOfStream>,
    /// The publication that holds the tables.
    pub publication: String,
    /// The replication slot.
    pub slot: String,
    /// Whether publication and slot are made where they are missing.
    pub creation: Creation,
    /// What happens where the slot no longer holds what comes behind the stored position.
    pub on_lost_slot: OnLostSlot,
    /// How long to wait for a slot that another process reads; `None`: as its standby, for as long as it takes.
    pub slot_wait: Option<Duration>,
    /// How often an idle position is delivered and the lag is measured.
    pub heartbeat: Duration,
    /// Whether each heartbeat is also written to the database's log.
    pub heartbeat_message: HeartbeatMessage,
    /// The topic through which its changes go on: the role `republish` alone reads the database then, ingestors read the topic.
    pub republish: Option<Box<TopicConfig>>,
}

/// A server, a role and a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// A name, an IP address, or the folder of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
}

/// How the connection is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// What is asked of the server.
    pub mode: TlsMode,
    /// Certificates to trust, in PEM; without it those of Mozilla.
    pub ca: Option<PathBuf>,
}

/// What is asked of the server's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// Encrypted, to whoever answers.
    Require,
    /// Encrypted, and the certificate is signed by a trusted one.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// Which table feeds a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableOfStream {
    /// The stream.
    pub stream: String,
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// What its columns were called in rows that may still come.
    pub before: ColumnsBefore,
}

/// Columns that a table has no more, while the server's log holds rows that have them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ColumnsBefore {
    /// Their names, and what they are called now.
    pub renamed: Vec<(String, String)>,
    /// Those that are gone: what came in their place is null in the rows of before.
    pub dropped: Vec<String>,
}

/// Whether publication and slot are made where they are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// They are made.
    Allowed,
    /// They must be there.
    Forbidden,
}

/// What happens where a slot is gone, was invalidated or made anew, so that changes behind the stored position cannot be had any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnLostSlot {
    /// The source stops: a person decides.
    Stop,
    /// A snapshot takes the place of what was lost: what committed meanwhile is judged late.
    Snapshot,
}

/// Whether each heartbeat is also written to the database's log: an otherwise silent server moves its slots then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeartbeatMessage {
    /// Nothing is written.
    Silent,
    /// By `pg_logical_emit_message`.
    Written,
}

impl PostgresConfig {
    /// The configuration with its paths taken from `folder`, the one its file stands in.
    #[must_use]
    pub fn located(mut self, folder: &Path) -> Self {
        self.password.locate(folder);
        self.tls.ca = self.tls.ca.map(|ca| folder.join(ca));
        self.republish = self.republish.map(|topic| Box::new(topic.located(folder)));
        self
    }
}

const MODES: [(&str, TlsMode); 4] = [
    ("disable", TlsMode::Disable),
    ("require", TlsMode::Require),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-full", TlsMode::VerifyFull),
];

/// Reads the keys of a PostgreSQL source; `None` where a mistake leaves no usable one.
pub(super) fn read(section: &Section<'_>, streams: &[Arc<Stream>]) -> Option<PostgresConfig> {
    let address = read_address(section);
    let password = password::read(section);
    let tls = read_tls(section, address.as_ref());
    let mut tables = read_tables(section, streams);
    read_renamed(section, streams, &mut tables);
    read_dropped(section, &mut tables);
    let publication = read_name(section, "publication", "interdict");
    let slot = read_name(section, "slot", "interdict");
    if !slot.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        section.report(
            "slot",
            format!("'{slot}' is no name for a slot"),
            "write lower-case letters, digits and underscores",
        );
    }
    if publication.contains(['"', '\'', ',', ' ']) {
        section.report(
            "publication",
            format!("'{publication}' is no name that replication can ask for"),
            "write letters, digits and underscores",
        );
    }
    let creation = if section.bool("create") == Some(false) { Creation::Forbidden } else { Creation::Allowed };
    let on_lost_slot = match section.choice("on_lost_slot", &["stop", "snapshot"]) {
        Some(1) => OnLostSlot::Snapshot,
        _ => OnLostSlot::Stop,
    };
    let slot_wait = read_duration(section, "slot_wait");
    let heartbeat = read_duration(section, "heartbeat").unwrap_or(HEARTBEAT);
    if heartbeat < Duration::from_millis(100) {
        section.report("heartbeat", "a heartbeat is at least 100ms apart", "write heartbeat = \"10s\"");
    }
    let heartbeat_message = match section.bool("heartbeat_message") {
        Some(true) => HeartbeatMessage::Written,
        _ => HeartbeatMessage::Silent,
    };
    let republish = section.section("republish").and_then(|section| {
        let republish = topic::read_republish(&section, streams, &tables);
        section.finish();
        republish
    });
    if republish.is_some() && on_lost_slot == OnLostSlot::Snapshot {
        section.report(
            "on_lost_slot",
            "a topic does not carry what tells the rows behind a lost slot from new ones",
            "remove it: a lost slot stops the republisher",
        );
    }
    Some(PostgresConfig {
        address: address?,
        password,
        tls,
        tables,
        publication,
        slot,
        creation,
        on_lost_slot,
        slot_wait,
        heartbeat,
        heartbeat_message,
        republish: republish.map(Box::new),
    })
}

fn read_address(section: &Section<'_>) -> Option<Address> {
    let url = section.text("url");
    let host = section.text("host");
    let port = section.integer("port", 1..=65_535).and_then(|port| u16::try_from(port).ok());
    let (user, database) = (section.text("user"), section.text("database"));
    let Some(url) = url else {
        if host.is_none() {
            section.require("url", "\"postgres://interdict@localhost:5432/shop\"");
            return None;
        }
        section.require("user", "\"interdict\"");
        section.require("database", "\"shop\"");
        return Some(Address { host: host?, port: port.unwrap_or(5432), user: user?, database: database? });
    };
    if host.is_some() || port.is_some() || user.is_some() || database.is_some() {
        section.report("url", "the address is given twice", "keep url, or host, port, user and database");
        return None;
    }
    match parse_url(&url) {
        Ok(address) => Some(address),
        Err(why) => {
            // The text is not repeated: it may hold a password.
            section.report("url", why, "write url = \"postgres://USER@HOST:5432/DATABASE\"");
            None
        }
    }
}

/// Reads `postgres://user@host:port/database`.
fn parse_url(url: &str) -> Result<Address, &'static str> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("'url' does not begin with postgres://")?;
    if rest.contains('?') {
        return Err("'url' has parameters, which have keys of their own here (tls, tls_ca)");
    }
    let (user, rest) = rest.rsplit_once('@').ok_or("'url' names no user")?;
    if user.contains(':') {
        return Err("'url' holds a password; take it out and write password_env or password_file");
    }
    let (server, database) = rest.split_once('/').ok_or("'url' names no database")?;
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_wrong| "'url' has no valid port")?),
        _ => (server, 5432),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || user.is_empty() || database.is_empty() || database.contains('/') {
        return Err("'url' lacks a user, a host or a database");
    }
    if [user, host, database].iter().any(|part| part.contains('%')) {
        return Err("'url' holds an encoded character; write host, port, user and database instead");
    }
    Ok(Address { host: host.to_owned(), port, user: user.to_owned(), database: database.to_owned() })
}

fn read_tls(section: &Section<'_>, address: Option<&Address>) -> TlsConfig {
    let ca = section.text("tls_ca").map(PathBuf::from);
    let chosen = section.choice("tls", &MODES.map(|(name, _)| name)).map(|index| MODES[index].1);
    let host = address.map_or("localhost", |address| &address.host);
    let ip = host.parse::<std::net::IpAddr>().ok();
    let is_socket = host.starts_with('/');
    let is_here = is_socket || host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
    // What leaves the machine is protected unless it is said otherwise.
    let mode = chosen.unwrap_or(if is_here && ca.is_none() { TlsMode::Disable } else { TlsMode::VerifyFull });
    if mode == TlsMode::VerifyFull && ip.is_some() {
        section.report(
            "tls",
            "a certificate cannot be compared with an IP address",
            "name the host as its certificate does, or write tls = \"verify-ca\"",
        );
    }
    if is_socket && mode != TlsMode::Disable {
        section.report("tls", "a Unix socket needs no TLS", "remove tls and tls_ca, or name a host");
    }
    if ca.is_some() && matches!(mode, TlsMode::Disable | TlsMode::Require) {
        section.report("tls_ca", "certificates that are not verified against", "write tls = \"verify-full\"");
    }
    TlsConfig { mode, ca }
}

fn read_tables(section: &Section<'_>, streams: &[Arc<Stream>]) -> Vec<TableOfStream> {
    section.require("tables", "{ transactions = \"public.transactions\" }");
    let Some(section) = section.section("tables") else { return Vec::new() };
    let mut tables: Vec<TableOfStream> = Vec::new();
    for key in section.keys() {
        let stream = streams.iter().find(|stream| stream.name == key.value);
        if stream.is_none() && !streams.is_empty() {
            let help = suggestion(&key.value, streams.iter().map(|stream| stream.name.as_str()));
            section.report_key(&key.value, format!("no stream is called '{}'", key.value), help);
        }
        if stream.is_some_and(|stream| stream.append_only) {
            section.report_key(
                &key.value,
                format!(
                    "stream '{}' is append_only, and a database delivers some changes twice after a crash",
                    key.value
                ),
                format!("remove append_only from [stream.{}]", key.value),
            );
        }
        let Some(name) = section.text(&key.value) else { continue };
        let (schema, table) = name.split_once('.').unwrap_or(("public", &name));
        if schema.is_empty() || table.is_empty() {
            section.report(&key.value, format!("'{name}' names no table"), "write \"public.transactions\"");
        }
        if tables.iter().any(|other| other.schema == schema && other.table == table) {
            section.report(
                &key.value,
                format!("'{name}' feeds two streams"),
                "a change belongs to one stream: give each a table of its own",
            );
        }
        let before = ColumnsBefore::default();
        tables.push(TableOfStream { stream: key.value, schema: schema.to_owned(), table: table.to_owned(), before });
    }
    if tables.is_empty() {
        section.file().report(
            section.span(),
            "'tables' names none",
            "write tables = { transactions = \"public.transactions\" }",
        );
    }
    section.finish();
    tables
}

/// Reads `renamed = { STREAM = { OLD = "NEW" } }`.
fn read_renamed(section: &Section<'_>, streams: &[Arc<Stream>], tables: &mut [TableOfStream]) {
    let Some(section) = section.section("renamed") else { return };
    for key in section.keys() {
        let Some(table) = table_of(&section, &key.value, tables) else { continue };
        let Some(columns) = section.section(&key.value) else { continue };
        let stream = streams.iter().find(|stream| stream.name == key.value);
        for old in columns.keys() {
            let Some(new) = columns.text(&old.value) else { continue };
            if stream.is_some_and(|stream| stream.columns.iter().all(|column| column.name != new)) {
                let message = format!("[stream.{}] has no column '{new}'", key.value);
                columns.report(&old.value, message, "write the name of before, then the one that the stream declares");
            }
            table.before.renamed.push((old.value, new));
        }
        columns.finish();
    }
    section.finish();
}

/// Reads `dropped = { STREAM = ["OLD"] }`.
fn read_dropped(section: &Section<'_>, tables: &mut [TableOfStream]) {
    let Some(section) = section.section("dropped") else { return };
    for key in section.keys() {
        let Some(table) = table_of(&section, &key.value, tables) else { continue };
        let columns = section.texts(&key.value).unwrap_or_default();
        table.before.dropped.extend(columns.into_iter().map(|column| column.value));
    }
    section.finish();
}

fn table_of<'t>(section: &Section<'_>, stream: &str, tables: &'t mut [TableOfStream]) -> Option<&'t mut TableOfStream> {
    let found = tables.iter_mut().find(|table| table.stream == stream);
    if found.is_none() {
        let message = format!("'tables' names none for the stream '{stream}'");
        section.report_key(stream, message, "write the stream's name, as in 'tables'");
        section.know(stream);
    }
    found
}

fn read_name(section: &Section<'_>, key: &str, default: &str) -> String {
    let name = section.text(key).unwrap_or_else(|| default.to_owned());
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        section.report(
            key,
            format!("'{key}' is no name of 1 to {NAME_BYTES_MAX} bytes"),
            format!("write {key} = \"{default}\""),
        );
    }
    name
}

fn read_duration(section: &Section<'_>, key: &str) -> Option<Duration> {
    section.span_of_time(key).map(|span| Duration::from_micros(span.micros().unsigned_abs()))
}
