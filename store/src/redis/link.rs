//! Two connections to the server, one to read and one to write, both shared by all callers, and their renewal.
//!
//! Invariants:
//! - A large commit never stands before a reader's question on its way to the server.
//! - One connection attempt at a time; whoever asks meanwhile waits for it.
//! - A connection is used only after the server at its other end was checked.
//! - No call takes much longer than [`RedisConfig::wait`] plus one answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, ServerErrorKind,
    TlsCertificates, Value,
};
use tokio::time::Instant;

use super::config::RedisConfig;
use super::failure::DatabaseError;
use super::scripts;
use super::server::{self, Facts};

/// The first pause between two attempts to connect; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Calls that may stand in line for a connection before callers wait.
const LINE: usize = 1024;

/// Connections kept for those who wait for work.
const IDLE_MAX: usize = 16;

/// Bytes gathered before they are written to the socket: a usual question leaves in one piece.
const WRITE_BYTES: usize = 256 * 1024;

/// Which of the two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Read,
    Write,
}

/// Connections to one server.
pub(super) struct Session {
    pub(super) address: String,
    pub(super) facts: Facts,
    client: Client,
    reader: MultiplexedConnection,
    writer: MultiplexedConnection,
}

/// A connection that one caller uses at a time.
struct Alone {
    session: Arc<Session>,
    connection: MultiplexedConnection,
}

/// Keeps a session, and makes a new one when it breaks.
pub(super) struct Link {
    config: RedisConfig,
    clients: Vec<(String, Client)>,
    current: Mutex<Option<Arc<Session>>>,
    /// Connections on which somebody waits for work, while nobody does.
    idle: Mutex<Vec<Alone>>,
    connecting: tokio::sync::Mutex<()>,
}

impl Link {
    pub(super) fn new(config: RedisConfig) -> Result<Self, DatabaseError> {
        let clients = config.servers.iter().map(|server| client(&config, server)).collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            clients,
            current: Mutex::new(None),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// The session in use, or a new one, waited for until `until`.
    pub(super) async fn session(&self, until: Instant) -> Result<Arc<Session>, DatabaseError> {
        if let Some(session) = self.current().clone() {
            return Ok(session);
        }
        let Ok(_one_at_a_time) = tokio::time::timeout_at(until, self.connecting.lock()).await else {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting takes too long").into();
            return Err(DatabaseError::Unreachable { address: self.addresses(), source });
        };
        if let Some(session) = self.current().clone() {
            return Ok(session);
        }
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect().await {
                Ok(session) => {
                    let session = Arc::new(session);
                    *self.current() = Some(session.clone());
                    return Ok(session);
                }
                Err(error) if error.is_worth_another() && Instant::now() + pause < until => {
                    tracing::debug!(%error, "no connection to redis yet");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Gives a session up, unless another one is in use already.
    pub(super) fn abandon(&self, session: &Arc<Session>) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|other| Arc::ptr_eq(other, session)) {
            *current = None;
        }
    }

    /// Until when a call that begins now may wait for a server.
    pub(super) fn patience(&self) -> Instant {
        Instant::now() + self.config.wait
    }

    /// Asks in one write and one read, as often as it takes for one answer within the time to wait. For what changes
    /// nothing, or changes the same when it is done twice.
    pub(super) async fn ask(&self, lane: Lane, question: &Pipeline) -> Result<Vec<Value>, DatabaseError> {
        let until = self.patience();
        loop {
            let session = self.session(until).await?;
            match session.ask(lane, question).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_worth_another() => {
                    self.abandon(&session);
                    if Instant::now() >= until {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks on a connection of its own what the server may answer only after `patience`. Asked once: the answer may be
    /// lost.
    pub(super) async fn ask_alone(&self, question: &Pipeline, patience: Duration) -> Result<Vec<Value>, DatabaseError> {
        let session = self.session(self.patience()).await?;
        let idle = self.idle().pop().filter(|alone| Arc::ptr_eq(&alone.session, &session));
        let connection = match idle {
            Some(alone) => Ok(alone.connection),
            None => self.open(&session).await,
        };
        let mut connection = connection.inspect_err(|_gone| self.abandon(&session))?;
        connection.set_response_timeout(patience + self.config.response_timeout);
        match send(&mut connection, &session.address, question).await.map_err(DatabaseError::from) {
            Ok(answers) => {
                let mut idle = self.idle();
                if idle.len() < IDLE_MAX {
                    idle.push(Alone { session, connection });
                }
                Ok(answers)
            }
            Err(error) => {
                if error.is_worth_another() {
                    self.abandon(&session);
                }
                Err(error)
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Alone>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, session: &Session) -> Result<MultiplexedConnection, DatabaseError> {
        let config = self.connection_config();
        let opened = session.client.get_multiplexed_async_connection_with_config(&config).await;
        opened.map_err(|error| of_handshake(&session.address, error))
    }

    fn connection_config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout))
            .set_pipeline_buffer_size(LINE)
            .set_write_backpressure_boundary(WRITE_BYTES)
    }

    fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.clients.iter().map(|(address, _)| address.as_str()).collect();
        addresses.join(", ")
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries each server once; the error is the one of the server that came nearest.
    async fn connect(&self) -> Result<Session, DatabaseError> {
        let mut failed = None;
        for (address, client) in &self.clients {
            match self.connect_to(address, client).await {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let is_nearer = !matches!(error, DatabaseError::Unreachable { .. });
                    if failed.is_none() || is_nearer {
                        failed = Some(error);
                    }
                }
            }
        }
        Err(failed.expect("a link has at least one server"))
    }

    async fn connect_to(&self, address: &str, client: &Client) -> Result<Session, DatabaseError> {
        let config = self.connection_config();
        let open = || client.get_multiplexed_async_connection_with_config(&config);
        let mut reader = open().await.map_err(|error| of_handshake(address, error))?;
        let writer = open().await.map_err(|error| of_handshake(address, error))?;
        let mut question = redis::pipe();
        question.cmd("INFO");
        let info = of_text(send(&mut reader, address, &question).await?);
        let mut question = redis::pipe();
        question.cmd("CONFIG").arg("GET").arg("appendfsync").arg("save");
        let (settings, is_forbidden) = match send(&mut reader, address, &question).await.map_err(DatabaseError::from) {
            Ok(settings) => (settings, false),
            Err(error) if error.is_worth_another() => return Err(error),
            Err(_forbidden) => (Vec::new(), true),
        };
        let settings = match settings.into_iter().next() {
            Some(Value::Array(settings)) => settings,
            _ => Vec::new(),
        };
        let facts = server::check(&self.config, address, &info, &settings)?;
        let session = Session { address: address.to_owned(), facts, client: client.clone(), reader, writer };
        session.ask(Lane::Write, &scripts::load()).await?;
        server::warn(address, &session.facts, is_forbidden);
        tracing::info!(address, version = session.facts.version, "connected to redis");
        Ok(session)
    }
}

impl Session {
    /// Asks once. Scripts that the server has forgotten are loaded; a script that is not there has done nothing.
    pub(super) async fn ask(&self, lane: Lane, question: &Pipeline) -> Result<Vec<Value>, DatabaseError> {
        let mut connection = match lane {
            Lane::Read => self.reader.clone(),
            Lane::Write => self.writer.clone(),
        };
        match send(&mut connection, &self.address, question).await {
            Err(Unanswered::Forgotten) => {
                send(&mut connection, &self.address, &scripts::load()).await?;
                Ok(send(&mut connection, &self.address, question).await?)
            }
            answer => Ok(answer?),
        }
    }
}

/// Why a question has no answer.
enum Unanswered {
    /// The server does not know a script (any more).
    Forgotten,
    Failed(DatabaseError),
}

impl From<Unanswered> for DatabaseError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Failed(error) => error,
            Unanswered::Forgotten => Self::Other {
                address: "its address".to_owned(),
                said: "it forgets scripts as soon as they are loaded".to_owned(),
            },
        }
    }
}

async fn send(
    connection: &mut MultiplexedConnection,
    address: &str,
    question: &Pipeline,
) -> Result<Vec<Value>, Unanswered> {
    let failed = |error: redis::RedisError| match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoScript) => Unanswered::Forgotten,
        _ => Unanswered::Failed(DatabaseError::of(address, error)),
    };
    let answers = connection.send_packed_commands(question, 0, question.len()).await.map_err(failed)?;
    // What a transaction answers stands in a list.
    let inner = answers.iter().filter_map(|answer| if let Value::Array(inner) = answer { Some(inner) } else { None });
    let error = answers.iter().chain(inner.flatten()).find_map(|answer| match answer {
        Value::ServerError(error) => Some(error.clone()),
        _ => None,
    });
    match error {
        Some(error) => Err(failed(error.into())),
        None => Ok(answers),
    }
}

fn client(config: &RedisConfig, server: &ConnectionInfo) -> Result<(String, Client), DatabaseError> {
    let address = server::address(server);
    let mut settings = server.redis_settings().clone();
    if let Some(user) = &config.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &config.password {
        settings = settings.set_password(password.reveal());
    }
    let server = server.clone().set_redis_settings(settings);
    let made = if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
        // Another part of the process may have chosen its provider already: that one serves as well.
        let _first_choice_holds = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificates = TlsCertificates { client_tls: None, root_cert: config.ca_pem.clone() };
        Client::build_with_tls(server, certificates)
    } else {
        Client::open(server)
    };
    match made {
        Ok(client) => Ok((address, client)),
        Err(source) => Err(DatabaseError::Settings { address, source }),
    }
}

/// A certificate that is not trusted does not become so by trying again.
fn of_handshake(address: &str, error: redis::RedisError) -> DatabaseError {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    let source = std::error::Error::source(&error);
    let shared = source.and_then(|source| source.downcast_ref::<Shared>());
    let io = shared.and_then(|shared| shared.downcast_ref::<std::io::Error>());
    if io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
        return DatabaseError::Settings { address: address.to_owned(), source: error };
    }
    DatabaseError::of(address, error)
}

fn of_text(answers: Vec<Value>) -> String {
    match answers.into_iter().next() {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(Value::VerbatimString { text, .. } | Value::SimpleString(text)) => text,
        _ => String::new(),
    }
}
