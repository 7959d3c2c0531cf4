//! What stops the capture from PostgreSQL, and what to do about it.

use interdict_features::value::ColumnType;
use interdict_store::error::Class;

use crate::source::config::password::PasswordError;

use super::changes::Lsn;
use super::message::Malformed;

/// An error that ends the capture, or that it tries again after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The password cannot be had.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A stream keeps no row records.
    #[error(
        "stream '{stream}' is append_only, and a database delivers some changes twice after a crash; remove append_only from [stream.{stream}]"
    )]
    AppendOnly {
        /// The stream.
        stream: String,
    },
    /// The configured stream does not exist (the configuration check says so earlier).
    #[error("'tables' names stream '{stream}', which is not declared; add [stream.{stream}]")]
    UnknownStream {
        /// The stream.
        stream: String,
    },
    /// No thread or socket could be made for the connection.
    #[error("the capture cannot start its runtime: {0}; see this user's limits of threads and open files")]
    Runtime(#[source] std::io::Error),
    /// The server cannot be reached, or the connection was lost.
    #[error(
        "PostgreSQL at {address} cannot be reached: {why}; see that it runs, that the address is right and that the network lets this machine through"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// What was found.
        why: String,
    },
    /// TLS could not be agreed on.
    #[error(
        "no TLS with PostgreSQL at {address}: {why}; compare tls and tls_ca with the server's certificate (ssl, ssl_cert_file in postgresql.conf)"
    )]
    Tls {
        /// Host and port.
        address: String,
        /// What was found.
        why: String,
    },
    /// The server does not let this role in.
    #[error(
        "PostgreSQL at {address} refuses role '{user}': {why}; see the password (password_env, password_file) and pg_hba.conf, which must let the role into the database"
    )]
    Refused {
        /// Host and port.
        address: String,
        /// The role.
        user: String,
        /// What the server said.
        why: String,
    },
    /// The role may not replicate.
    #[error("role '{user}' may not replicate ({why}); run: ALTER ROLE {user} REPLICATION")]
    NoReplicationRight {
        /// The role.
        user: String,
        /// What the server said.
        why: String,
    },
    /// The role may not read a table.
    #[error("role '{user}' may not read {table}; run: GRANT SELECT ON {table} TO {user} (and USAGE on its schema)")]
    NoSelectRight {
        /// The role.
        user: String,
        /// The table.
        table: String,
    },
    /// The role may not make the publication.
    #[error(
        "role '{user}' may not make the publication ({why}); have the owner of the tables run: CREATE PUBLICATION {publication} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
    )]
    NoCreateRight {
        /// The role.
        user: String,
        /// The publication.
        publication: String,
        /// Its tables.
        tables: String,
        /// What the server said.
        why: String,
    },
    /// The server logs too little.
    #[error("the server's wal_level is '{found}'; set wal_level = logical in postgresql.conf and restart the server")]
    WalLevel {
        /// What it is.
        found: String,
    },
    /// The server is too old.
    #[error("the server is PostgreSQL {found}; capture needs 14 or newer")]
    Version {
        /// Its version.
        found: String,
    },
    /// A table is not there.
    #[error("there is no table {table}; mend its name in 'tables' of [source], with its schema")]
    NoTable {
        /// The table.
        table: String,
    },
    /// What is named is no table whose changes are logged.
    #[error("{table} is {found}, whose changes PostgreSQL does not log; name an ordinary table")]
    NotLogged {
        /// The table.
        table: String,
        /// What it is.
        found: &'static str,
    },
    /// The publication is not there and is not to be made.
    #[error(
        "there is no publication '{publication}'; run: CREATE PUBLICATION {publication} FOR TABLE {tables} WITH (publish_via_partition_root = true), or write create = true"
    )]
    NoPublication {
        /// The publication.
        publication: String,
        /// Its tables.
        tables: String,
    },
    /// The publication does not hold a table.
    #[error(
        "publication '{publication}' does not hold {table}; run: ALTER PUBLICATION {publication} ADD TABLE {table} (of a partitioned table it must also say publish_via_partition_root). What commits in {table} until then is not sent later: where that matters write on_lost_slot = \"snapshot\" in [source] as well, and a new snapshot takes its place"
    )]
    NotPublished {
        /// The publication.
        publication: String,
        /// The table.
        table: String,
    },
    /// The publication leaves out a kind of change.
    #[error(
        "publication '{publication}' leaves out every {left_out}; run: ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
    )]
    LeavesOut {
        /// The publication.
        publication: String,
        /// Which kind.
        left_out: &'static str,
    },
    /// Updates and deletes of a table would not say which event they are of.
    #[error(
        "the replica identity of {table} does not hold '{column}', the id of its events; run: ALTER TABLE {table} REPLICA IDENTITY FULL, or make '{column}' its primary key (not DEFERRABLE)"
    )]
    ReplicaIdentity {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Updates and deletes of a partition would be refused, or would not say which event they are of.
    #[error(
        "the replica identity of partition {partition} of {table} does not hold '{column}', the id of its events, or is less than that of {table}, which it does not take over; run: ALTER TABLE {partition} REPLICA IDENTITY FULL"
    )]
    PartitionIdentity {
        /// The whole table.
        table: String,
        /// Its partition.
        partition: String,
        /// The column.
        column: String,
    },
    /// A declared column is not in the table.
    #[error("{table} has no column '{column}', which [stream.{stream}] declares; it has: {}. Mend its name in [stream.{stream}] columns, or take it out there", found.join(", "))]
    MissingColumn {
        /// The table.
        table: String,
        /// The stream.
        stream: String,
        /// The column.
        column: String,
        /// What the table has, at most 32.
        found: Vec<String>,
    },
    /// Rows of before lack a declared column and have one that is no more: whether that is the same one nobody but a person knows.
    #[error(
        "rows of {table} that are still to come are from before it had '{column}', and have {}, which it has no more. Where one of them was renamed say so in [source], renamed = {{ {stream} = {{ {} = \"{column}\" }} }}; where it was dropped, dropped = {{ {stream} = [\"{}\"] }}: '{column}' is null in these rows then",
        gone.join(", "), gone.first().map_or("OLD", String::as_str), gone.join("\", \"")
    )]
    ColumnBefore {
        /// The table.
        table: String,
        /// The stream.
        stream: String,
        /// The column that the rows lack.
        column: String,
        /// Those that only they have.
        gone: Vec<String>,
    },
    /// A column's type does not convert exactly to the declared one.
    #[error(
        "column '{column}' of {table} is {found}, which [stream.{stream}] declares as {declared}; declare the type that fits it"
    )]
    ColumnType {
        /// The table.
        table: String,
        /// The stream.
        stream: String,
        /// The column.
        column: String,
        /// Its type in the database.
        found: String,
        /// Its declared type.
        declared: ColumnType,
    },
    /// Declared columns that changes will not carry.
    #[error(
        "changes of {table} do not carry: {columns}. Add what is missing to the publication's column list; PostgreSQL sends no generated column, so declare what it is made of instead"
    )]
    NotSent {
        /// The table.
        table: String,
        /// The columns.
        columns: String,
    },
    /// A captured table got another name.
    #[error("{table} is called {now} now; name it so in 'tables' of [source], or give it its old name back")]
    Renamed {
        /// Its name so far.
        table: String,
        /// Its name now.
        now: String,
    },
    /// The slot is not there and is not to be made.
    #[error(
        "there is no replication slot '{slot}'; run: SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'), or write create = true"
    )]
    NoSlot {
        /// The slot.
        slot: String,
    },
    /// The slot belongs to something else.
    #[error("replication slot '{slot}' is {found}; give this source another name for its slot")]
    ForeignSlot {
        /// The slot.
        slot: String,
        /// What it is.
        found: String,
    },
    /// Another process reads from the slot.
    #[error(
        "replication slot '{slot}' is read by another process; stop that one, or leave slot_wait out so that this one stands by for it"
    )]
    SlotTaken {
        /// The slot.
        slot: String,
    },
    /// Another process read from the slot in the meantime.
    #[error(
        "another process read replication slot '{slot}' in the meantime; start again, it goes on where the other one ended"
    )]
    TakenMeanwhile {
        /// The slot.
        slot: String,
    },
    /// Changes after what was applied are gone with the slot.
    #[error("{}. {RECOVER}; and give slots enough room (max_slot_wal_keep_size)", lost(slot, why, *position))]
    SlotLost {
        /// The slot.
        slot: String,
        /// How.
        why: &'static str,
        /// Up to where changes were applied.
        position: u64,
    },
    /// The slot stands behind changes that were never applied.
    #[error("{}. {RECOVER}", moved(slot, *confirmed, *position))]
    SlotMoved {
        /// The slot.
        slot: String,
        /// Where it stands.
        confirmed: u64,
        /// Up to where changes were applied.
        position: u64,
    },
    /// The publication did not hold a table all the while.
    #[error("{}. {RECOVER}", later(publication, table, *position))]
    Later {
        /// The publication.
        publication: String,
        /// The table.
        table: String,
        /// Up to where changes were applied.
        position: u64,
    },
    /// The database is older than what was applied.
    #[error("the database's log ends at {}, but changes up to {} were applied: the database was restored from a copy. Start a new namespace for the restored database", Lsn(*server), Lsn(*position))]
    Restored {
        /// Where the log ends.
        server: u64,
        /// Up to where changes were applied.
        position: u64,
    },
    /// Another database answers than before.
    #[error(
        "another database answers than before (it was {was}, it is {now}); see the address, or start a new namespace for this database"
    )]
    OtherDatabase {
        /// Before.
        was: String,
        /// Now.
        now: String,
    },
    /// The server has no slot left.
    #[error(
        "the server has no replication slot left ({why}); drop unused ones (pg_replication_slots) or raise max_replication_slots. A snapshot needs two for a while"
    )]
    NoFreeSlot {
        /// What the server said.
        why: String,
    },
    /// The server still makes the slot of a snapshot that nobody waits for any more.
    #[error(
        "the server still makes '{slot}', the slot of a snapshot that an earlier start asked for, and waits for transactions that began before: {holders}. It goes on once they have ended; end them where they are forgotten (SELECT pg_terminate_backend(PID), ROLLBACK PREPARED)"
    )]
    SnapshotHeld {
        /// The snapshot's slot.
        slot: String,
        /// Whom it waits for.
        holders: String,
    },
    /// The publication was made after the slot.
    #[error(
        "publication '{publication}' is younger than the slot ({why}); drop slot '{slot}' and let this program make it anew, with on_lost_slot = \"snapshot\" or in a new namespace"
    )]
    YoungPublication {
        /// The publication.
        publication: String,
        /// The slot.
        slot: String,
        /// What the server said.
        why: String,
    },
    /// The server reported an error.
    #[error("PostgreSQL, asked to {doing}: {why} (SQLSTATE {code}); {}", advice(code))]
    Server {
        /// What was asked.
        doing: &'static str,
        /// The SQLSTATE.
        code: String,
        /// What it said.
        why: String,
    },
    /// One row is larger than a message may be.
    #[error(
        "a row of {bytes} bytes is more than this program takes ({limit}); leave its large columns out of the publication (a column list, PostgreSQL 15), or shorten the row or logical message"
    )]
    RowTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The server's answer is not what the protocol says.
    #[error("the server sent {what}; is a proxy in between? Connect to the server itself")]
    Protocol {
        /// What came.
        what: String,
    },
}

/// What to do about a slot that does not hold what comes next.
const RECOVER: &str = "Write on_lost_slot = \"snapshot\" in [source]: a new snapshot takes their place, and what committed meanwhile is judged late. Or start a new namespace, whose snapshot is history";

fn lost(slot: &str, why: &str, position: u64) -> String {
    format!("replication slot '{slot}' {why}: the changes after {} are gone", Lsn(position))
}

fn later(publication: &str, table: &str, position: u64) -> String {
    format!(
        "publication '{publication}' holds {table} only since after {}, up to where changes were applied: it was added to it, left it and came back, or was written into it anew with other columns or rows. What committed in it while it was not there was never sent",
        Lsn(position)
    )
}

fn moved(slot: &str, confirmed: u64, position: u64) -> String {
    format!(
        "replication slot '{slot}' stands at {}, but only the changes up to {} were applied: it was made anew, another reader took those between, or the store is an older copy",
        Lsn(confirmed),
        Lsn(position)
    )
}

impl From<Malformed> for PostgresError {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol { what: malformed.to_string() }
    }
}

impl PostgresError {
    /// What is wrong with a slot, without what to do about it.
    pub(super) fn told(&self) -> String {
        match self {
            Self::SlotLost { slot, why, position } => lost(slot, why, *position),
            Self::SlotMoved { slot, confirmed, position } => moved(slot, *confirmed, *position),
            Self::Later { publication, table, position } => later(publication, table, *position),
            other => other.to_string(),
        }
    }

    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::SlotTaken { .. }
            | Self::TakenMeanwhile { .. }
            | Self::SnapshotHeld { .. } => Class::Transient,
            Self::Server { code, .. } if is_passing(code) => Class::Transient,
            _ => Class::Fatal,
        }
    }
}

/// What to do about an error of the server.
fn advice(code: &str) -> &'static str {
    match code {
        "53100" => "free space on the server's disk",
        "53200" => {
            "give the server's machine more memory, or lower work_mem and max_connections there (of shared memory: raise max_locks_per_transaction)"
        }
        "53300" => "raise max_connections, or max_wal_senders for replication",
        "57P03" => "it is starting, stopping or recovering: see its log if it stays so",
        _ => "see the server's log",
    }
}

/// Connection trouble, resources short for a while, serialisation, and everything an operator's intervention causes.
fn is_passing(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "57") || (class == "53" && code != "53400")
}
