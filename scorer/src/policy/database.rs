//! What an action that blocks in a database is told: where, with which statements, and what they are given.
//!
//! ```toml
//! [[action]]
//! name = "block_account"
//! type = "postgres"
//! on = "block"
//! entity = "customer"
//! url = "postgres://interdict@db.example.com/bank"   # without password
//! password_env = "BANK_PASSWORD"                      # or password_file, or neither
//! tls = "verify-full"                                 # or "verify-ca", "require", "disable"; as for a source
//! tls_ca = "bank-ca.pem"                              # without it the authorities that Mozilla trusts
//! block = "UPDATE accounts SET status = 'blocked', blocked_by = $2 WHERE customer_id = $1"
//! unblock = "UPDATE accounts SET status = 'active', blocked_by = NULL WHERE customer_id = $1"
//! block_parameters = ["customer_id", "decision_id"]   # $1, $2, ...; the entity's key by default
//! unblock_parameters = ["customer_id"]
//! ledger = "interdict_ledger"
//! rows_max = 10                                       # a statement that changes more is undone
//! connections = 8
//! timeout = "5s"                                      # of one try
//! retry_first = "100ms"
//! retry_max = "10s"
//! give_up_after = "7d"
//! ```
//!
//! Invariant: values reach a statement as parameters only; the ledger's name is made of plain identifiers.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use interdict_features::value::ColumnType;

use super::SecretSource;
use crate::retry::Backoff;

/// Where and how an account is blocked and unblocked.
#[derive(Clone, PartialEq, Debug)]
pub struct DatabaseConfig {
    /// A PostgreSQL connection string without password.
    pub url: String,
    /// Where the password is; `None`: none is needed.
    pub password: Option<SecretSource>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Run to block.
    pub block: Statement,
    /// Run to unblock.
    pub unblock: Statement,
    /// The declared types of the columns of the entity's key.
    pub key: Vec<ColumnType>,
    /// The table of what was done.
    pub ledger: Ledger,
    /// Rows that one statement may change.
    pub rows_max: u64,
    /// Connections at most: acts under way at once.
    pub connections: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// How it is tried again.
    pub backoff: Backoff,
}

/// A statement and what its parameters `$1`, `$2`, ... are given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// SQL.
    pub sql: String,
    /// In order; the statement may use fewer.
    pub parameters: Vec<Parameter>,
}

/// What one parameter is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// As written in the configuration.
    pub name: String,
    /// Where the value comes from.
    pub source: Source,
    /// Its type, which the statement's parameter must be able to take.
    pub kind: ColumnType,
}

/// Where a parameter's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A column of the entity's key, by place.
    Key(usize),
    /// The decision's id, or that of the act by hand.
    DecisionId,
    /// When it was decided.
    DecidedAt,
    /// The action's name.
    Action,
    /// The entity's name.
    Entity,
    /// `block`, `manual_block` or `unblock`.
    Kind,
    /// Why, for a person.
    Reason,
    /// Who did it by hand; null for decisions.
    Author,
    /// The decision's outcome; null for acts by hand.
    Outcome,
    /// The model's score; null where there is none.
    Score,
    /// The judged event's id; null for acts by hand.
    EventId,
    /// The judged event's stream; null for acts by hand.
    Stream,
    /// A column of the judged event, by [`Parameter::name`]; null for acts by hand.
    Column,
}

/// Sources with a name of their own, and their types.
pub(super) const SOURCES: [(&str, Source, ColumnType); 11] = [
    ("decision_id", Source::DecisionId, ColumnType::Uuid),
    ("decided_at", Source::DecidedAt, ColumnType::Timestamp),
    ("action", Source::Action, ColumnType::Text),
    ("entity", Source::Entity, ColumnType::Text),
    ("kind", Source::Kind, ColumnType::Text),
    ("reason", Source::Reason, ColumnType::Text),
    ("author", Source::Author, ColumnType::Text),
    ("outcome", Source::Outcome, ColumnType::Text),
    ("score", Source::Score, ColumnType::Double),
    ("event_id", Source::EventId, ColumnType::Text),
    ("stream", Source::Stream, ColumnType::Text),
];

/// How a connection to a database is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
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

/// The name of a ledger's table, perhaps with its schema; plain identifiers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ledger {
    schema: Option<String>,
    table: String,
}

impl Ledger {
    /// Reads `TABLE` or `SCHEMA.TABLE`; `None` for anything but lower-case letters, digits and `_`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |part: &str| {
            (1..=48).contains(&part.len())
                && !part.starts_with(|c: char| c.is_ascii_digit())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, text),
        };
        if !is_plain(table) || schema.is_some_and(|schema| !is_plain(schema)) {
            return None;
        }
        Some(Self { schema: schema.map(str::to_owned), table: table.to_owned() })
    }

    /// The name of the index on it: one per table, in the table's schema.
    #[must_use]
    pub fn index(&self) -> String {
        format!("\"{}_account\"", self.table)
    }
}

impl fmt::Display for Ledger {
    /// As it stands in SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "\"{schema}\".\"{}\"", self.table),
            None => write!(f, "\"{}\"", self.table),
        }
    }
}
