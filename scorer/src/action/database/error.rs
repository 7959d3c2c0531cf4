//! What can go wrong with an act, what it means, and what may be told of it.
//!
//! Invariant: no text here shows a value: neither of a row nor of a parameter, nor the connection string.

use interdict_store::error::Class;
use tokio_postgres::error::SqlState;

use crate::action::receiver::Failure;

/// Why a try did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// No session could be had.
    #[error("no connection to the database: {0}{hint}", hint = connect_hint(.0))]
    Connect(Told),
    /// No session was asked for.
    #[error("the database was away a moment ago, and is not asked again yet")]
    Away,
    /// The session was lost, or the database cannot do it now.
    #[error("{0}{hint}", hint = session_hint(.0))]
    Session(Told),
    /// The database refuses.
    #[error("the database refuses {what}: {told}{hint}", hint = refusal_hint(.told))]
    Refused { what: &'static str, told: Told },
    /// A statement that cannot be right.
    #[error("{0}")]
    Mistake(String),
    /// The ledger is not there, and this user may not make it.
    #[error("there is no ledger, and this user may not make it ({told}); let its owner run:\n{ddl}")]
    NoLedger { told: Told, ddl: String },
    /// The try took too long.
    #[error("no answer in time")]
    Timeout,
    /// Nothing to block.
    #[error(
        "the {what} statement changed no row: there is no such account, or the statement's own condition leaves it out"
    )]
    NoRow { what: &'static str },
    /// A statement that changes what it should not.
    #[error(
        "the {what} statement would change {rows} rows, more than rows_max = {rows_max}, and was undone; correct its condition, or raise rows_max"
    )]
    TooManyRows { what: &'static str, rows: u64, rows_max: u64 },
    /// A key that has not the form its definition says.
    #[error("the key is not one of {columns} columns of the declared types; see the entity's definition")]
    Key { columns: usize },
    /// Stored by something else.
    #[error("the outbox entry is no act in a database; the action was of another kind when it was decided")]
    Payload,
}

/// What is told of an error of the driver.
#[derive(Clone, Debug)]
pub(super) struct Told {
    code: Option<SqlState>,
    text: String,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&tokio_postgres::Error> for Told {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(of_server) = error.as_db_error() else {
            let mut text = error.to_string();
            if let Some(cause) = std::error::Error::source(error) {
                text = format!("{text}: {cause}");
            }
            return Self { code: None, text };
        };
        let code = of_server.code();
        // Messages of data errors quote the data, those of RAISE whatever their author liked; the others name objects.
        let quotes = code.code().starts_with("22") || code.code().starts_with("P0");
        let text = if quotes {
            format!("error {}, whose text may quote values; see the database's log", code.code())
        } else {
            format!("{} ({})", of_server.message(), code.code())
        };
        Self { code: Some(code.clone()), text }
    }
}

impl Told {
    pub(super) fn is(&self, code: &SqlState) -> bool {
        self.code.as_ref() == Some(code)
    }

    /// Whether a later try may go through: nothing is wrong with the act itself.
    fn is_transient(&self) -> bool {
        let Some(code) = &self.code else { return true };
        let is_whole = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::OBJECT_IN_USE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::QUERY_CANCELED,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::IDLE_SESSION_TIMEOUT,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IN_FAILED_SQL_TRANSACTION,
            SqlState::INTERNAL_ERROR,
        ];
        // Connection exceptions, rollbacks (serialization, deadlock), insufficient resources (disk, memory,
        // connections), errors of the system.
        let is_class = ["08", "40", "53", "58"].iter().any(|class| code.code().starts_with(class));
        // 40002 is a constraint's, checked at commit: it will not hold the next time either.
        (is_class && *code != SqlState::T_R_INTEGRITY_CONSTRAINT_VIOLATION) || is_whole.contains(code)
    }
}

impl ActError {
    /// The error of `what`.
    pub(super) fn of(what: &'static str, error: &tokio_postgres::Error) -> Self {
        let told = Told::from(error);
        if told.is_transient() { Self::Session(told) } else { Self::Refused { what, told } }
    }

    /// The error of a statement on the ledger. A ledger that vanished is made anew, or missed, by the next session.
    pub(super) fn of_ledger(error: &tokio_postgres::Error) -> Self {
        let told = Told::from(error);
        if told.is_transient() || told.is(&SqlState::UNDEFINED_TABLE) {
            Self::Session(told)
        } else {
            Self::Refused { what: "a line in the ledger", told }
        }
    }

    pub(super) fn class(&self) -> Class {
        match self {
            Self::Connect(_) | Self::Away | Self::Session(_) | Self::Timeout => Class::Transient,
            Self::Refused { .. }
            | Self::Mistake(_)
            | Self::NoLedger { .. }
            | Self::NoRow { .. }
            | Self::TooManyRows { .. }
            | Self::Key { .. }
            | Self::Payload => Class::Rejected,
        }
    }

    /// Whether a person should look at the database, or at the way to it.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout => true,
            Self::Session(told) => told.code.as_ref().is_none_or(|code| {
                let is_down = ["53", "57", "58"].iter().any(|class| code.code().starts_with(class));
                is_down || *code == SqlState::READ_ONLY_SQL_TRANSACTION
            }),
            _ => false,
        }
    }

    /// Whether the session must not be used again, whatever it says of itself.
    pub(super) fn breaks_session(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Away | Self::Timeout => true,
            Self::Session(told) => told.code.is_none() || told.is(&SqlState::UNDEFINED_TABLE),
            _ => false,
        }
    }
}

impl From<ActError> for Failure {
    fn from(error: ActError) -> Self {
        Self { class: error.class(), wish: None, reason: error.to_string() }
    }
}

fn connect_hint(told: &Told) -> &'static str {
    match told.code.as_ref().map(SqlState::code) {
        Some("28P01" | "28000") => {
            "; see user, password and pg_hba.conf, and correct password_env, password_file or url"
        }
        Some("3D000") => "; create the database, or correct its name in url",
        Some(_) => session_hint(told),
        None if told.text.contains(NO_WRITES) => session_hint_of("25006"),
        None => "; see that the server runs, that host and port in url are right, and that tls fits the server",
    }
}

/// What the driver says of a server that it does not use because it takes no writes.
const NO_WRITES: &str = "does not allow writes";

/// What to do about what passes.
fn session_hint(told: &Told) -> &'static str {
    told.code.as_ref().map_or("", |code| session_hint_of(code.code()))
}

fn session_hint_of(code: &str) -> &'static str {
    match code {
        "53100" => "; free space on the database's disk, acts go on by themselves",
        "53200" => {
            "; give the database's machine more memory, or lower work_mem and max_connections there (of shared memory: raise max_locks_per_transaction), acts go on by themselves"
        }
        "53300" => {
            "; raise max_connections or the role's or database's CONNECTION LIMIT, or lower 'connections', acts go on by themselves"
        }
        "25006" => {
            "; name the primary in 'url', promote this one, or see default_transaction_read_only, acts go on by themselves"
        }
        "57P01" | "57P02" => "; see who stopped the server or ended the session, acts go on by themselves",
        "57P03" => "; it is starting, stopping or recovering: see its log if it stays so, acts go on by themselves",
        "58030" => "; see the database's disk and its log, acts go on by themselves",
        _ => "",
    }
}

/// What to do about a refusal.
pub(super) fn refusal_hint(told: &Told) -> &'static str {
    match told.code.as_ref().map(SqlState::code) {
        Some("42501") => "; grant the user of 'url' this right",
        Some("42P01" | "3F000") => "; create the table, or write its name as it is, with its schema",
        Some("42703") => "; write the column's name as it is, or add the column",
        Some("42601") => "; write one statement as psql would take it, with $1, $2, ... for values",
        Some("42P18") => "; use every parameter, or cast it, such as $2::text",
        Some("42883" | "42804" | "42846") => "; cast the parameter, such as $1::text",
        Some(code) if code.starts_with("23") => "; see the table's constraints",
        _ => "",
    }
}
