//! Acts in a PostgreSQL database: each one statement in one transaction with its line in the ledger.
//!
//! The transaction: take the account's lock; insert (id, action, entity, key, kind, instant) into the ledger; where that
//! is new and no later act is there, run the statement; commit. A try whose commit was never answered is settled by the
//! next one: it finds the line, or does not.
//!
//! Invariants:
//! - A statement takes effect if and only if its line stands in the ledger with the outcome `done`.
//! - Acts on one account follow one another, whichever process they come from.
//! - Of a block and an unblocking by one action the later one counts: the earlier one, arriving second, is entered as `superseded`.
//! - A block that changes no row or too many leaves no line. An unblocking that changes no row leaves one (`unmatched`):
//!   blocks decided before it stay undone.
//! - At most `connections` sessions are open. One whose transaction did not end cleanly is closed.
//!
//! The ledger: `decision_id, action, entity, entity_key, kind, decided_at, outcome, at`, where `at` is the database's
//! clock. Lines may be deleted once they are older than every act that may still arrive, but the last of each account.

mod error;
mod gate;
mod ledger;
mod session;
mod tls;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use interdict_store::error::Class;
use tokio::time::Instant;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::error::ActError;
use self::gate::Gate;
use self::session::Session;
use super::act::Act;
use super::receiver::{Ended, Failure};
use crate::policy::SecretSource;
use crate::policy::database::DatabaseConfig;
use crate::retry::Backoff;

/// Why a database's action cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The variable with the password is not set.
    #[error("action '{action}': the environment has no {variable}; set it to the database's password")]
    NoVariable {
        /// The action.
        action: String,
        /// The variable.
        variable: String,
    },
    /// A file cannot be read.
    #[error("action '{action}': {path} cannot be read: {source}")]
    Unreadable {
        /// The action.
        action: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of certificates holds none.
    #[error("action '{action}': {path} holds no usable certificates; name a file of PEM certificates in tls_ca")]
    Authority {
        /// The action.
        action: String,
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("action '{action}': TLS cannot be set up: {source}")]
    Tls {
        /// The action.
        action: String,
        /// Why.
        source: tokio_rustls::rustls::Error,
    },
    /// The connection string cannot be read.
    #[error("action '{action}': 'url' is no PostgreSQL connection string; write postgres://USER@HOST/DATABASE")]
    Url {
        /// The action.
        action: String,
    },
}

/// What a database says to what is asked of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    Takes,
    /// Every act would be rejected, for this reason.
    Refuses(String),
    /// It does not answer: its acts wait.
    Unknown,
}

/// A database in which one action blocks and unblocks.
pub struct Database {
    action: String,
    config: DatabaseConfig,
    server: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    idle: Mutex<Vec<Session>>,
    gate: Gate,
    /// What the log was told last.
    is_reachable: AtomicBool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("action", &self.action).finish_non_exhaustive()
    }
}

impl Database {
    /// Reads password and certificates of `action`. Connects to nothing.
    ///
    /// # Errors
    /// As [`OpenError`] says; the process should not start then.
    pub fn open(
        action: &str,
        config: &DatabaseConfig,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, OpenError> {
        let name = || action.to_owned();
        let mut server: tokio_postgres::Config =
            config.url.parse().map_err(|_shows_the_url| OpenError::Url { action: name() })?;
        match &config.password {
            None => {}
            Some(SecretSource::Environment(variable)) => {
                let password = environment(variable);
                let missing = || OpenError::NoVariable { action: name(), variable: variable.clone() };
                server.password(password.ok_or_else(missing)?);
            }
            Some(SecretSource::File(path)) => {
                let password = std::fs::read_to_string(path).map_err(|source| OpenError::Unreadable {
                    action: name(),
                    path: path.clone(),
                    source,
                })?;
                server.password(password.trim_end_matches(['\r', '\n']));
            }
        }
        let tls = tls::connector(action, &config.tls)?;
        server.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        bound(&mut server, config.timeout);
        Ok(Self {
            action: name(),
            config: config.clone(),
            server,
            tls,
            idle: Mutex::default(),
            gate: Gate::new(config.backoff.first),
            is_reachable: AtomicBool::new(true),
        })
    }

    /// Asks the database whether it takes the action's statements and has its ledger.
    pub(super) async fn check(&self) -> Checked {
        let asked = async {
            let session = self.connect().await?;
            session.check_rights(&self.config).await?;
            Ok(session)
        };
        match tokio::time::timeout(self.config.timeout, asked).await.unwrap_or(Err(ActError::Timeout)) {
            Ok(session) => {
                self.put_back(session);
                Checked::Takes
            }
            Err(error) if error.class() == Class::Transient => {
                self.tell(&Err(&error));
                Checked::Unknown
            }
            Err(error) => Checked::Refuses(format!("action '{}': {error}", self.action)),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.config.connections
    }

    pub(super) fn backoff(&self) -> Backoff {
        self.config.backoff
    }

    /// Tries an act once. When the future is dropped, the act may or may not be done; trying again finds out.
    pub(super) async fn run(&self, payload: &str) -> Result<Ended, Failure> {
        let tried = async {
            let act = Act::read(payload).map_err(|_not_ours| ActError::Payload)?;
            Box::pin(self.attempt(&act)).await
        };
        let result = tokio::time::timeout(self.config.timeout, tried).await.unwrap_or(Err(ActError::Timeout));
        self.tell(&result.as_ref().map(|_| ()));
        Ok(result?)
    }

    async fn attempt(&self, act: &Act) -> Result<Ended, ActError> {
        let session = match self.take_idle() {
            Some(session) => session,
            None => self.connect().await?,
        };
        let result = session.perform(act, &self.action, &self.config).await;
        let is_clean = match &result {
            Ok(_) => true,
            Err(error) => !error.breaks_session() && session.roll_back().await,
        };
        if is_clean {
            self.put_back(session);
        }
        result
    }

    async fn connect(&self) -> Result<Session, ActError> {
        let probe = self.gate.enter(Instant::now()).ok_or(ActError::Away)?;
        let opened = Box::pin(Session::open(&self.server, self.tls.clone(), &self.config)).await;
        // A database that refuses was reached.
        if opened.as_ref().err().is_none_or(|error| error.class() == Class::Rejected) {
            probe.succeed();
        }
        opened
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(Session::is_open)
    }

    fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.config.connections {
            idle.push(session);
        }
    }

    /// Tells the log when the database goes away and comes back, once each.
    fn tell(&self, result: &Result<(), &ActError>) {
        match result {
            Err(error) if error.is_unreachable() => {
                if self.is_reachable.swap(false, Ordering::Relaxed) {
                    tracing::error!(action = self.action, %error,
                        "the action's database cannot be used; its acts wait in the outbox");
                }
            }
            Err(ActError::Payload | ActError::Away) => {}
            _ => {
                if !self.is_reachable.swap(true, Ordering::Relaxed) {
                    tracing::info!(action = self.action, "the action's database can be used again");
                }
            }
        }
    }
}

/// What keeps a session from hanging: a client that vanished or stands still frees its locks after the time of one try.
fn bound(server: &mut tokio_postgres::Config, timeout: Duration) {
    let timeout_ms = timeout.as_millis().max(1);
    let lock_ms = (timeout_ms / 2).max(1);
    let own = format!(
        "-c statement_timeout={timeout_ms} -c lock_timeout={lock_ms} -c idle_in_transaction_session_timeout={timeout_ms}"
    );
    let options = match server.get_options() {
        Some(given) => format!("{given} {own}"),
        None => own,
    };
    server
        .options(options)
        .connect_timeout(timeout)
        .tcp_user_timeout(timeout)
        .keepalives_idle(Duration::from_secs(30))
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    if server.get_application_name().is_none() {
        server.application_name("interdict");
    }
}
