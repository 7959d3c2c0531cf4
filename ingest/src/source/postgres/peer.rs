//! The server that a source talks to: what its answers and its silence mean.

use pgwire_replication::PgWireError;

use super::error::PostgresError;

/// Whom errors speak of.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: String,
    pub(super) user: String,
}

impl Peer {
    pub(super) fn unreachable(&self, why: impl std::fmt::Display) -> PostgresError {
        PostgresError::Unreachable { address: self.address.clone(), why: why.to_string() }
    }

    /// An error of an ordinary connection.
    pub(super) fn of_client(&self, doing: &'static str, error: &tokio_postgres::Error) -> PostgresError {
        if let Some(database) = error.as_db_error() {
            let mut why = database.message().to_owned();
            if let Some(detail) = database.detail() {
                why = format!("{why}; {detail}");
            }
            return self.of_code(doing, database.code().code(), why);
        }
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        if why.contains("password missing") || why.contains("authentication") {
            return PostgresError::Refused { address: self.address.clone(), user: self.user.clone(), why };
        }
        self.unreachable(why)
    }

    /// An error of a replication connection.
    pub(super) fn of_replication(&self, doing: &'static str, error: &PgWireError) -> PostgresError {
        match error {
            PgWireError::Server(text) => {
                let (why, code) = match text.rsplit_once(" (SQLSTATE ") {
                    Some((why, code)) => (why, code.trim_end_matches(')')),
                    None => (text.as_str(), ""),
                };
                self.of_code(doing, code, why.to_owned())
            }
            PgWireError::Auth(why) => {
                PostgresError::Refused { address: self.address.clone(), user: self.user.clone(), why: why.clone() }
            }
            PgWireError::Tls(why) => PostgresError::Tls { address: self.address.clone(), why: why.clone() },
            PgWireError::MessageTooLarge { payload_bytes, limit_bytes } => {
                PostgresError::RowTooLarge { bytes: *payload_bytes, limit: *limit_bytes }
            }
            PgWireError::Protocol(what) => PostgresError::Protocol { what: what.clone() },
            other => self.unreachable(other),
        }
    }

    fn of_code(&self, doing: &'static str, code: &str, why: String) -> PostgresError {
        let (address, user) = (self.address.clone(), self.user.clone());
        match code {
            "28000" | "28P01" | "3D000" => PostgresError::Refused { address, user, why },
            "42501" if doing == REPLICATE => PostgresError::NoReplicationRight { user, why },
            "53400" => PostgresError::NoFreeSlot { why },
            _ => PostgresError::Server { doing, code: code.to_owned(), why },
        }
    }
}

/// What a replication connection is opened for.
pub(super) const REPLICATE: &str = "replicate";
