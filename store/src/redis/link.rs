//! Three connections to the server, one to read, one to write and one to wait, all shared by all callers, and their renewal.
//!
//! All keys of a namespace sit in one slot, so of a cluster too one server is talked to: the master of that slot. Whoever is
//! asked for a key of it answers, or names the one who does, and is followed. When the slot has moved, the cluster is down
//! or a master is replaced, the session is given up and that one looked for again, as after a broken connection. The
//! seeds are the configured servers, and after them the nodes that the last master knew.
//!
//! Invariants:
//! - A large commit never stands before a reader's question on its way to the server.
//! - One connection attempt at a time; whoever asks meanwhile waits for it.
//! - A connection is used only after the server at its other end was checked, and has answered for the namespace's slot.
//! - No call takes much longer than [`RedisConfig::wait`] plus one answer.
//! - A user or password that a server took once and refuses later is waited for; one that it never took is a mistake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, ServerErrorKind, Value};
use tokio::time::Instant;

use super::config::{Password, RedisConfig};
use super::failure::DatabaseError;
use super::layout::Layout;
use super::node::Node;
use super::scripts;
use super::server::{self, Facts};

/// The first pause between two attempts; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Nodes that may name another one after each other: more is a cluster that does not agree yet.
const HOPS_MAX: usize = 5;

/// Calls that may stand in line for a connection before callers wait.
const LINE: usize = 1024;

/// Bytes gathered before they are written to the socket: a usual question leaves in one piece.
const WRITE_BYTES: usize = 256 * 1024;

/// Which of the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Read,
    Write,
    /// Where questions may wait in the server for what is to come.
    Wait,
}

/// Why no server could be used.
struct Failed {
    error: DatabaseError,
    /// Some server refused the user or password, whatever the others said.
    is_refused: bool,
}

/// Connections to one server.
pub(super) struct Session {
    pub(super) address: String,
    pub(super) facts: Facts,
    /// Which session of this process it is.
    pub(super) number: u64,
    reader: MultiplexedConnection,
    writer: MultiplexedConnection,
    waiter: MultiplexedConnection,
}

/// Keeps a session, and makes a new one when it breaks.
pub(super) struct Link {
    config: RedisConfig,
    layout: Layout,
    seeds: Mutex<Seeds>,
    /// Other nodes of the cluster, as the master of the last session knew them.
    neighbours: Mutex<Vec<Node>>,
    current: Mutex<Option<Arc<Session>>>,
    connecting: tokio::sync::Mutex<()>,
    sessions: AtomicU64,
}

/// The configured servers, and the password that they are reached with.
struct Seeds {
    nodes: Arc<[Node]>,
    password: Option<Password>,
}

impl Seeds {
    fn of(config: &RedisConfig) -> Result<Self, DatabaseError> {
        let nodes = config.servers.iter().map(|server| Node::configured(config, server)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, password: config.password.clone() })
    }
}

/// How long a call goes on trying.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits a moment before the next attempt, if there is time for one.
    pub(super) async fn has_time(&mut self) -> bool {
        if Instant::now() + self.pause >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

impl Link {
    pub(super) fn new(config: RedisConfig, layout: Layout) -> Result<Self, DatabaseError> {
        Ok(Self {
            seeds: Mutex::new(Seeds::of(&config)?),
            config,
            layout,
            neighbours: Mutex::default(),
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            sessions: AtomicU64::new(0),
        })
    }

    pub(super) fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// The session in use, or a new one, waited for as long as there is patience.
    pub(super) async fn session(&self, patience: &mut Patience) -> Result<Arc<Session>, DatabaseError> {
        if let Some(session) = self.current().clone() {
            return Ok(session);
        }
        let Ok(_one_at_a_time) = tokio::time::timeout_at(patience.until, self.connecting.lock()).await else {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting takes too long").into();
            return Err(DatabaseError::Unreachable { address: self.addresses(), source });
        };
        if let Some(session) = self.current().clone() {
            return Ok(session);
        }
        loop {
            match self.connect(patience.until).await {
                Ok(session) => {
                    let session = Arc::new(session);
                    *self.current() = Some(session.clone());
                    return Ok(session);
                }
                Err(Failed { is_refused: true, .. }) if self.renew_password()? => {}
                Err(Failed { error, .. }) if error.is_worth_another() => {
                    tracing::debug!(%error, "no connection to redis yet");
                    if !patience.has_time().await {
                        return Err(error);
                    }
                }
                Err(Failed { error: DatabaseError::Credentials { address }, .. })
                    if self.sessions.load(Ordering::Relaxed) > 0 =>
                {
                    return Err(DatabaseError::Revoked { address });
                }
                Err(Failed { error, .. }) => return Err(error),
            }
        }
    }

    /// Takes the password that its file holds now; false where it is the one that was refused.
    fn renew_password(&self) -> Result<bool, DatabaseError> {
        let mut seeds = self.seeds();
        let Some(password) = seeds.password.as_ref().and_then(Password::renewed) else { return Ok(false) };
        *seeds = Seeds::of(&RedisConfig { password: Some(password), ..self.config.clone() })?;
        drop(seeds);
        self.neighbours().clear();
        tracing::info!("the password for redis is read anew");
        Ok(true)
    }

    /// Gives a session up, unless another one is in use already.
    pub(super) fn abandon(&self, session: &Arc<Session>) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|other| Arc::ptr_eq(other, session)) {
            *current = None;
        }
    }

    /// How long a call that begins now may wait for a server.
    pub(super) fn patience(&self) -> Patience {
        Patience { until: Instant::now() + self.config.wait, pause: PAUSE_MIN }
    }

    /// Asks in one write and one read, as often as it takes for one answer within the time to wait. For what changes
    /// nothing, or changes the same when it is done twice.
    pub(super) async fn ask(&self, lane: Lane, question: &Pipeline) -> Result<Vec<Value>, DatabaseError> {
        self.ask_with_session(lane, question).await.map(|(answers, _session)| answers)
    }

    /// As [`Self::ask`], with the number of the session that answered.
    pub(super) async fn ask_with_session(
        &self,
        lane: Lane,
        question: &Pipeline,
    ) -> Result<(Vec<Value>, u64), DatabaseError> {
        let mut patience = self.patience();
        loop {
            let session = self.session(&mut patience).await?;
            match session.ask(lane, question).await {
                Ok(answers) => return Ok((answers, session.number)),
                Err(error) if error.is_worth_another() => {
                    self.abandon(&session);
                    if !patience.has_time().await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn addresses(&self) -> String {
        let nodes = self.seeds().nodes.clone();
        let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        addresses.join(", ")
    }

    fn seeds(&self) -> MutexGuard<'_, Seeds> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn neighbours(&self) -> MutexGuard<'_, Vec<Node>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries each seed once, then as long as there is time the nodes that the last master knew. The error is the one of the
    /// server that came nearest; what is wrong with a node that nobody configured ends nothing.
    async fn connect(&self, until: Instant) -> Result<Session, Failed> {
        let (seeds, neighbours) = (self.seeds().nodes.clone(), self.neighbours().clone());
        let (mut failed, mut is_refused) = (None, false);
        for (at, node) in seeds.iter().chain(&neighbours).enumerate() {
            let is_seed = at < seeds.len();
            if !is_seed && Instant::now() >= until {
                break;
            }
            match self.follow(node).await {
                Ok(session) => return Ok(session),
                Err(error) => {
                    is_refused |= matches!(error, DatabaseError::Credentials { .. });
                    let tells_more = !matches!(error, DatabaseError::Unreachable { .. });
                    if failed.is_none() || tells_more && (is_seed || error.is_worth_another()) {
                        failed = Some(error);
                    }
                }
            }
        }
        Err(Failed { error: failed.expect("a link has at least one server"), is_refused })
    }

    /// Connects to a server, or to the one that it names for the namespace's slot.
    async fn follow(&self, node: &Node) -> Result<Session, DatabaseError> {
        let mut node = node.clone();
        for _ in 1..HOPS_MAX {
            match self.connect_to(&node).await {
                Err(DatabaseError::Moved { to, .. }) => node = node.announced(&to)?,
                connected => return connected,
            }
        }
        self.connect_to(&node).await
    }

    async fn connect_to(&self, node: &Node) -> Result<Session, DatabaseError> {
        let address = node.address.as_str();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout))
            .set_pipeline_buffer_size(LINE)
            .set_write_backpressure_boundary(WRITE_BYTES);
        let open = || node.client.get_multiplexed_async_connection_with_config(&config);
        let mut reader = open().await.map_err(|error| of_handshake(address, error))?;
        let mut question = redis::pipe();
        question.cmd("INFO").cmd("EXISTS").arg(self.layout.probe());
        let info = of_text(send(&mut reader, address, &question).await?);
        let mut question = redis::pipe();
        question.cmd("CONFIG").arg("GET").arg("appendfsync").arg("save");
        let settings = permitted(send(&mut reader, address, &question).await)?;
        let is_forbidden = settings.is_none();
        let settings = match settings {
            Some(Value::Array(settings)) => settings,
            _ => Vec::new(),
        };
        let facts = server::check(&self.config, address, &info, &settings)?;
        if facts.is_node {
            let mut question = redis::pipe();
            question.cmd("CLUSTER").arg("SLOTS");
            let slots = permitted(send(&mut reader, address, &question).await)?;
            *self.neighbours() = slots.map_or_else(Vec::new, |slots| node.neighbours(&slots));
        }
        let writer = open().await.map_err(|error| of_handshake(address, error))?;
        let waiter = open().await.map_err(|error| of_handshake(address, error))?;
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Session { address: address.to_owned(), facts, number, reader, writer, waiter };
        session.ask(Lane::Write, &scripts::load()).await?;
        server::warn(address, &session.facts, is_forbidden);
        let Facts { version, is_node, .. } = &session.facts;
        tracing::info!(address, version, cluster = is_node, "connected to redis");
        Ok(session)
    }
}

impl Session {
    /// Asks once. Scripts that the server has forgotten are loaded; a script that is not there has done nothing.
    pub(super) async fn ask(&self, lane: Lane, question: &Pipeline) -> Result<Vec<Value>, DatabaseError> {
        let mut connection = match lane {
            Lane::Read => self.reader.clone(),
            Lane::Write => self.writer.clone(),
            Lane::Wait => self.waiter.clone(),
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
    let is_error = |answer: &Value| matches!(answer, Value::ServerError(_));
    if let Some(at) = answers.iter().position(is_error) {
        let Some(Value::ServerError(error)) = answers.into_iter().nth(at) else { unreachable!("it stands there") };
        return Err(failed(error.into()));
    }
    Ok(answers)
}

/// The answer to a question that this user may not be allowed to ask.
fn permitted(answers: Result<Vec<Value>, Unanswered>) -> Result<Option<Value>, DatabaseError> {
    match answers.map_err(DatabaseError::from) {
        Ok(answers) => Ok(answers.into_iter().next()),
        Err(error) if error.is_worth_another() => Err(error),
        Err(_forbidden) => Ok(None),
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
