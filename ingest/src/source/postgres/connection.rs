//! Connections to the server: an ordinary one for questions, and what replication sessions are opened with.
//!
//! Invariants:
//! - Every session has the same `TimeZone`, `DateStyle` and digits of doubles, so that a value has one text.
//! - The password stands in no error and no `Debug`.

use std::time::Duration;

use pgwire_replication::config::ReplicationConfig;
use pgwire_replication::tls::rustls::maybe_upgrade_to_tls;
use pgwire_replication::{Lsn, SslMode, TlsConfig as WireTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::source::config::postgres::{Address, PostgresConfig, TlsMode};

use super::error::PostgresError;
use super::peer::Peer;

/// How long a server may take to answer a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long a question to the catalog may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How often the server hears up to where everything is durable, at most.
const STATUS: Duration = Duration::from_secs(1);
/// How often it hears it while nothing comes; well below half of `wal_sender_timeout` (60 s).
const STATUS_IDLE: Duration = Duration::from_secs(5);
/// Messages between the connection and the decoder: about what two deliveries hold.
const BUFFERED: usize = 8_192;
/// The largest row: far above any that holds events.
const ROW_BYTES_MAX: usize = 256 << 20;

/// What every session is told. Without row security a table that hides rows from this role is an error.
const SETTINGS: &str = "-c timezone=UTC -c datestyle=ISO,YMD -c extra_float_digits=1 -c statement_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c standard_conforming_strings=on -c row_security=off";

/// A database and how to get into it.
#[derive(Clone)]
pub(super) struct Server {
    config: PostgresConfig,
    password: Option<String>,
    application: String,
    pub(super) peer: Peer,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("peer", &self.peer).finish_non_exhaustive()
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Server {
    /// Reads the password; nothing is connected yet.
    pub(super) fn new(
        name: &str,
        config: &PostgresConfig,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, PostgresError> {
        let password = config.password.load(environment)?;
        let Address { host, port, user, .. } = &config.address;
        let peer = Peer { address: format!("{host}:{port}"), user: user.clone() };
        Ok(Self { config: config.clone(), password, application: format!("interdict {name}"), peer })
    }

    pub(super) fn config(&self) -> &PostgresConfig {
        &self.config
    }

    fn tls(&self) -> WireTls {
        let mode = match self.config.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Require => SslMode::Require,
            TlsMode::VerifyCa => SslMode::VerifyCa,
            TlsMode::VerifyFull => SslMode::VerifyFull,
        };
        WireTls { mode, ca_pem_path: self.config.tls.ca.clone(), ..WireTls::default() }
    }

    /// How a replication session is opened: it reads from `start`, and tells the server that everything up to
    /// `confirmed` is durable.
    pub(super) fn replication(&self, start: u64, confirmed: u64) -> ReplicationConfig {
        let Address { host, port, user, database } = &self.config.address;
        // In quotes, or the server would fold it to lower case.
        let publication = format!("\"{}\"", self.config.publication);
        let password = self.password.clone().unwrap_or_default();
        ReplicationConfig::new(host, user, password, database, &self.config.slot, publication)
            .with_port(*port)
            .with_tls(self.tls())
            .with_start_lsn(Lsn(start))
            .with_ack_lsn(Lsn(confirmed))
            .with_status_interval(STATUS)
            .with_wakeup_interval(STATUS_IDLE)
            .with_buffer_size(BUFFERED)
            .with_max_message_size(ROW_BYTES_MAX)
            .with_options(SETTINGS)
            .with_application_name(&self.application)
    }

    /// Opens an ordinary connection.
    pub(super) async fn connect(&self) -> Result<Control, PostgresError> {
        match tokio::time::timeout(CONNECT, self.connect_now()).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(self.peer.unreachable("no answer within 10 s")),
        }
    }

    async fn connect_now(&self) -> Result<Control, PostgresError> {
        let Address { host, port, user, database } = &self.config.address;
        let mut config = tokio_postgres::Config::new();
        config.user(user).dbname(database).application_name(&self.application).options(SETTINGS);
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        if let Some(password) = &self.password {
            config.password(password);
        }
        let stream = self.dial(host, *port).await?;
        let connected = config.connect_raw(stream, NoTls).await;
        let (client, connection) = connected.map_err(|error| self.peer.of_client("connect", &error))?;
        // It ends with the client; its errors are those of the client's questions.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Control { client, peer: self.peer.clone() })
    }

    async fn dial(&self, host: &str, port: u16) -> Result<Box<dyn Wire>, PostgresError> {
        if host.starts_with('/') {
            let path = format!("{host}/.s.PGSQL.{port}");
            let stream = UnixStream::connect(path).await.map_err(|error| self.peer.unreachable(error))?;
            return Ok(Box::new(stream));
        }
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.peer.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| self.peer.unreachable(error))?;
        let upgraded = maybe_upgrade_to_tls(stream, &self.tls(), host).await;
        Ok(Box::new(upgraded.map_err(|error| self.peer.of_replication("connect", &error))?))
    }
}

/// An ordinary connection, for questions.
pub(super) struct Control {
    client: tokio_postgres::Client,
    peer: Peer,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// One row of an answer, as text.
#[derive(Debug)]
pub(super) struct Row(tokio_postgres::SimpleQueryRow);

impl Row {
    /// A column's text; `None` when it is null.
    pub(super) fn get(&self, column: usize) -> Option<&str> {
        self.0.try_get(column).ok().flatten()
    }

    /// A column's text, empty when it is null.
    pub(super) fn text(&self, column: usize) -> &str {
        self.get(column).unwrap_or_default()
    }

    pub(super) fn is_true(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }

    pub(super) fn number(&self, column: usize) -> u64 {
        self.text(column).parse().unwrap_or_default()
    }
}

impl Control {
    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks the catalog.
    pub(super) async fn ask(&self, doing: &'static str, sql: &str) -> Result<Vec<Row>, PostgresError> {
        match tokio::time::timeout(ANSWER, self.run(doing, sql)).await {
            Ok(rows) => rows,
            Err(_elapsed) => Err(self.peer.unreachable("no answer within 30 s")),
        }
    }

    /// Runs statements that may take their time.
    pub(super) async fn run(&self, doing: &'static str, sql: &str) -> Result<Vec<Row>, PostgresError> {
        let answer = self.client.simple_query(sql).await.map_err(|error| self.peer.of_client(doing, &error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(Row(row)),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(row).collect())
    }
}

/// A text as SQL takes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
