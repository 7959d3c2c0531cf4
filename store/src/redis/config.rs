//! The `[store]` section with `type = "redis"`: where the database is and how long to wait for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interdict_features::config::{Section, Spanned};
use interdict_features::time::Span;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// How many servers may be named.
const SERVERS_MAX: usize = 16;

/// What is needed to use a Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Separates this system's keys from others in the same database: letters, digits, `-` and `_`.
    pub namespace: String,
    /// The servers, tried in order until one is a master that takes writes: a master and those that may follow it, or some
    /// nodes of a cluster, of which any names the one that holds the namespace.
    pub servers: Vec<ConnectionInfo>,
    /// User of the server's access control list; `None`: the default user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Password>,
    /// Certificates (PEM) to trust instead of the system's, for `rediss://`.
    pub ca_pem: Option<Vec<u8>>,
    /// The longest time for one connection attempt.
    pub connect_timeout: Duration,
    /// The longest time for one answer; must be longer than the largest commit takes.
    pub response_timeout: Duration,
    /// How long a call waits for a server that is away before it fails as Transient.
    pub wait: Duration,
    /// Replicas that must confirm a commit with [`crate::port::Durability::Power`].
    pub replicas: u32,
    /// How long to wait for them.
    pub replica_timeout: Duration,
    /// The least that the server must keep on disk.
    pub persistence: PersistenceWanted,
    /// How long a decision's record and what is appended under it are found, by the server's clock; `None`: for ever. It
    /// must be longer than the longest replay (a decision that is gone is judged anew) and than the monitor may be away.
    pub decisions_keep: Option<Duration>,
    /// Unfinished actions at most; a commit that would bring in more fails as full.
    pub outbox_capacity: usize,
    /// Pieces of work that wait for a scorer at most.
    pub work_capacity: usize,
}

/// A password, which never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    text: String,
    /// Where it is read anew once the server refuses it.
    file: Option<PathBuf>,
}

impl Password {
    /// Takes a password.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self { text: password.into(), file: None }
    }

    /// Reads one from a file, which may hold another one later.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: PathBuf) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(&path)?.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Self { text, file: Some(path) })
    }

    /// The one that its file holds now, if that is another one.
    pub(super) fn renewed(&self) -> Option<Self> {
        let now = Self::of_file(self.file.clone()?).ok()?;
        (!now.text.is_empty() && now != *self).then_some(now)
    }

    pub(super) fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// The least that a server must keep on disk for the store to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PersistenceWanted {
    /// Anything; a server that keeps nothing is warned about.
    #[default]
    Any,
    /// An append-only file.
    AppendOnly,
    /// An append-only file that is on disk before an answer is given (`appendfsync always`).
    Always,
}

const PERSISTENCE: [(&str, PersistenceWanted); 3] = [
    ("any", PersistenceWanted::Any),
    ("appendonly", PersistenceWanted::AppendOnly),
    ("always", PersistenceWanted::Always),
];

impl RedisConfig {
    /// A configuration with default times for servers at `urls`.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub fn new(namespace: &str, urls: &[&str]) -> Result<Self, String> {
        let servers = urls.iter().map(|url| address(url)).collect::<Result<_, _>>()?;
        Ok(Self {
            namespace: namespace.to_owned(),
            servers,
            user: None,
            password: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(10),
            wait: Duration::from_secs(5),
            replicas: 0,
            replica_timeout: Duration::from_secs(1),
            persistence: PersistenceWanted::Any,
            decisions_keep: None,
            outbox_capacity: 10_000,
            work_capacity: 100_000,
        })
    }

    /// Reads the keys of `[store]` that concern Redis, noting every mistake; files are relative to `folder`. The caller
    /// has read `type` and finishes the section.
    #[must_use]
    pub fn read(section: &Section<'_>, namespace: &str, folder: &Path) -> Option<Self> {
        let mistakes = section.file().problem_count();
        section.require("url", "\"redis://localhost:6379\"");
        let mut config = Self::new(namespace, &[]).ok()?;
        config.servers = read_servers(section);
        config.user = section.text("user");
        config.password = read_password(section, folder);
        config.ca_pem = read_ca(section, folder, &config.servers);
        read_time(section, "connect_timeout", &mut config.connect_timeout);
        read_time(section, "response_timeout", &mut config.response_timeout);
        read_time(section, "wait", &mut config.wait);
        read_time(section, "replica_timeout", &mut config.replica_timeout);
        if let Some(replicas) = section.integer("replicas", 0..=100) {
            config.replicas = u32::try_from(replicas).unwrap_or(0);
        }
        if let Some(index) = section.choice("persistence", &PERSISTENCE.map(|(name, _)| name)) {
            config.persistence = PERSISTENCE[index].1;
        }
        config.decisions_keep = read_keep(section);
        if let Some(capacity) = section.integer("work_capacity", 1..=10_000_000) {
            config.work_capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        }
        if let Some(capacity) = section.integer("outbox_capacity", 1..=10_000_000) {
            config.outbox_capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        }
        if config.replica_timeout >= config.response_timeout {
            section.report(
                "replica_timeout",
                "'replica_timeout' is not shorter than 'response_timeout'",
                "write a shorter one: the answer comes after it",
            );
        }
        (section.file().problem_count() == mistakes).then_some(config)
    }
}

fn address(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|_unusable| {
        "it is none of redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=DB".to_owned()
    })?;
    if info.redis_settings().password().is_some() || info.redis_settings().username().is_some() {
        return Err("it holds a user or password".to_owned());
    }
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err("it asks for TLS without checking the certificate".to_owned());
    }
    Ok(info)
}

fn read_servers(section: &Section<'_>) -> Vec<ConnectionInfo> {
    let mut servers = Vec::new();
    for Spanned { value, span } in section.texts("url").unwrap_or_default() {
        match address(&value) {
            Ok(server) => servers.push(server),
            // The address itself is not quoted: it may hold a password.
            Err(why) => section.file().report(
                span,
                format!("this address of a Redis cannot be used: {why}"),
                "write \"redis://HOST:6379\", and user, password_env or password_file beside it",
            ),
        }
    }
    if section.has("url") && (servers.is_empty() || servers.len() > SERVERS_MAX) {
        section.report(
            "url",
            "'url' names no server or too many",
            format!("write one to {SERVERS_MAX} addresses; of a cluster some nodes are enough"),
        );
    }
    servers
}

#[expect(clippy::disallowed_methods, reason = "this is where configuration is read")]
fn read_password(section: &Section<'_>, folder: &Path) -> Option<Password> {
    let (name, path) = (section.text("password_env"), section.text("password_file"));
    if section.has("password") {
        section.know("password");
        section.report("password", "a password does not belong in this file", "write password_env or password_file");
    }
    if name.is_some() && path.is_some() {
        section.report("password_env", "both 'password_env' and 'password_file'", "write one of them");
        return None;
    }
    let read = if let Some(name) = &name {
        std::env::var(name)
            .map_err(|_unset| ("password_env", format!("{name} is not set"), "set it"))
            .map(Password::new)
    } else {
        let path = path?;
        Password::of_file(folder.join(&path)).map_err(|error| {
            ("password_file", format!("{path} cannot be read: {error}"), "name a readable file that holds the password")
        })
    };
    match read {
        Ok(password) if password.reveal().trim_end().is_empty() => {
            let key = if name.is_some() { "password_env" } else { "password_file" };
            section.report(key, "the password is empty", "give the user a password, or remove the key");
            None
        }
        Ok(password) => Some(password),
        Err((key, message, help)) => {
            section.report(key, message, help);
            None
        }
    }
}

fn read_ca(section: &Section<'_>, folder: &Path, servers: &[ConnectionInfo]) -> Option<Vec<u8>> {
    let path = section.text("ca_file")?;
    let is_tls = |server: &ConnectionInfo| matches!(server.addr(), ConnectionAddr::TcpTls { .. });
    if !servers.is_empty() && !servers.iter().all(is_tls) {
        section.report("ca_file", "'ca_file' needs TLS", "write rediss:// in every url, or remove ca_file");
    }
    match std::fs::read(folder.join(&path)) {
        Ok(pem) => Some(pem),
        Err(error) => {
            section.report("ca_file", format!("{path} cannot be read: {error}"), "name a readable PEM file");
            None
        }
    }
}

fn read_keep(section: &Section<'_>) -> Option<Duration> {
    let keep = section.span_of_time("decisions_keep")?;
    if keep < Span::DAY {
        let help = "write at least 1d: a decision that is gone is judged anew when its event is read again";
        section.report("decisions_keep", "'decisions_keep' is short", help);
        return None;
    }
    Some(Duration::from_micros(keep.micros().unsigned_abs()))
}

fn read_time(section: &Section<'_>, key: &str, time: &mut Duration) {
    let Some(span) = section.span_of_time(key) else { return };
    if span <= Span::ZERO || span > Span::HOUR {
        section.report(key, format!("'{key}' is no time to wait"), "write a time between 1ms and 1h");
        return;
    }
    *time = Duration::from_micros(span.micros().unsigned_abs());
}
