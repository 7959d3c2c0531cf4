//! What the database's errors mean to the person who runs it, and how a caller reacts.
//!
//! Invariant: no message holds a password; addresses are host and port, or a socket's path.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::Class;

/// What a node of a cluster says where a database other than 0 is asked for.
const NO_SELECT: &str = "SELECT is not allowed in cluster mode";

/// What can go wrong with a database of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Nobody answers, or not in time.
    #[error("no answer from Redis at {address}: {source}; see that it runs and can be reached, work goes on by itself")]
    Unreachable {
        /// The server.
        address: String,
        /// Why.
        source: RedisError,
    },
    /// The server is reading its data.
    #[error("Redis at {address} is still loading its data; work goes on by itself")]
    Loading {
        /// The server.
        address: String,
    },
    /// The server is a replica, or was made one.
    #[error(
        "Redis at {address} is a read-only replica; name the master in [store] url (several addresses are tried in order), or promote this one"
    )]
    ReadOnly {
        /// The server.
        address: String,
    },
    /// The server was made a replica while a commit that it has made waited for replicas.
    #[error(
        "Redis at {address} became a replica while a commit waited for replicas; name the new master in [store] url, work goes on by itself"
    )]
    Demoted {
        /// The server.
        address: String,
    },
    /// The server has as much data as it may.
    #[error(
        "Redis at {address} has reached its maxmemory and takes no more; raise maxmemory or give it a machine with more memory, work goes on by itself"
    )]
    OutOfMemory {
        /// The server.
        address: String,
    },
    /// The server cannot write to its disk.
    #[error(
        "Redis at {address} cannot write to its disk ({said}); free space there or mend it, work goes on by itself"
    )]
    Unwritable {
        /// The server.
        address: String,
        /// What it said.
        said: String,
    },
    /// The server has fewer replicas than its own configuration asks for.
    #[error(
        "Redis at {address} has fewer replicas than its min-replicas-to-write; bring them back, work goes on by itself"
    )]
    TooFewReplicas {
        /// The server.
        address: String,
    },
    /// Fewer replicas than configured have confirmed a commit that must survive.
    #[error(
        "{confirmed} of {wanted} replicas of Redis at {address} confirmed a commit in time; see that they run, work goes on by itself"
    )]
    Unconfirmed {
        /// The server.
        address: String,
        /// Replicas that confirmed.
        confirmed: i64,
        /// Replicas wanted.
        wanted: u32,
    },
    /// The server is occupied by a script.
    #[error("Redis at {address} is busy with a script; see which by SCRIPT KILL or its log, work goes on by itself")]
    Busy {
        /// The server.
        address: String,
    },
    /// User or password are wrong or missing.
    #[error(
        "Redis at {address} refuses user or password; see [store] user and password_env or password_file, and the server's ACL LIST"
    )]
    Credentials {
        /// The server.
        address: String,
    },
    /// User or password were right and are so no more.
    #[error(
        "Redis at {address} refuses the user or password that it took before; put them back there, or write the new password into password_file (with password_env start again), work goes on by itself"
    )]
    Revoked {
        /// The server.
        address: String,
    },
    /// The user lacks a right.
    #[error(
        "Redis at {address} forbids this user what the store needs ({said}); give it ACL SETUSER USER ~{{NAMESPACE}}:* +@all -@dangerous +info +config|get"
    )]
    Forbidden {
        /// The server.
        address: String,
        /// What it said.
        said: String,
    },
    /// The server is too old.
    #[error("Redis at {address} has version {version}; the store needs 7.0 or newer")]
    Version {
        /// The server.
        address: String,
        /// Its version.
        version: String,
    },
    /// The server is a node of a cluster, and another one holds the namespace.
    #[error("Redis at {address} says that {to} holds this namespace; work goes on there by itself")]
    Moved {
        /// The server.
        address: String,
        /// The other one, as it is announced.
        to: String,
    },
    /// The server announces the node that holds the namespace without saying where it is.
    #[error(
        "Redis at {address} knows no host name of the node that holds this namespace; set cluster-announce-hostname on every node, or cluster-preferred-endpoint-type ip, work goes on by itself"
    )]
    Unnamed {
        /// The server.
        address: String,
    },
    /// The namespace is on its way from one node of a cluster to another one.
    #[error(
        "Redis at {address} is moving this namespace to another node; nothing of it is read or written until that has ended, work goes on by itself (redis-cli --cluster fix ends a move that was broken off)"
    )]
    Migrating {
        /// The server.
        address: String,
    },
    /// The cluster serves nobody, or not this namespace.
    #[error(
        "the Redis Cluster of {address} does not serve this namespace ({said}); see redis-cli --cluster check {address}: every slot needs a master that runs, and most masters must reach each other; work goes on by itself"
    )]
    ClusterDown {
        /// The server.
        address: String,
        /// What it said.
        said: String,
    },
    /// A database was named that a cluster does not have.
    #[error(
        "Redis at {address} is a node of a cluster, which has database 0 alone; leave the number out of [store] url"
    )]
    ClusterDatabase {
        /// The server.
        address: String,
    },
    /// The server throws data away when memory is short.
    #[error(
        "Redis at {address} removes keys when its memory is full (maxmemory-policy {policy}), which would falsify features and forget decisions; set maxmemory-policy noeviction"
    )]
    Evicts {
        /// The server.
        address: String,
        /// Its policy.
        policy: String,
    },
    /// The server keeps less on disk than was asked for.
    #[error(
        "Redis at {address} keeps {found}, [store] persistence asks for {wanted}; change appendonly and appendfsync there, or the configuration here"
    )]
    Persistence {
        /// The server.
        address: String,
        /// What it keeps.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The database lost commits that it had answered.
    #[error(
        "the database went back from commit {expected} to {stored}: a restart or a fail-over lost its newest writes; start again, and what was lost is read again from the source"
    )]
    Rewound {
        /// Number of its last commit now.
        stored: u64,
        /// Number of the last commit that it had answered.
        expected: u64,
    },
    /// Client, certificate or address cannot be used.
    #[error("the connection to Redis at {address} cannot be made: {source}; see [store] url and ca_file")]
    Settings {
        /// The server.
        address: String,
        /// Why.
        source: RedisError,
    },
    /// Anything else that the server says.
    #[error("Redis at {address} said: {said}; see its log")]
    Other {
        /// The server.
        address: String,
        /// What it said.
        said: String,
    },
}

impl DatabaseError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::Loading { .. }
            | Self::ReadOnly { .. }
            | Self::Demoted { .. }
            | Self::OutOfMemory { .. }
            | Self::Unwritable { .. }
            | Self::TooFewReplicas { .. }
            | Self::Unconfirmed { .. }
            | Self::Moved { .. }
            | Self::Unnamed { .. }
            | Self::Migrating { .. }
            | Self::ClusterDown { .. }
            | Self::Revoked { .. }
            | Self::Busy { .. } => Class::Transient,
            Self::Credentials { .. }
            | Self::Forbidden { .. }
            | Self::Version { .. }
            | Self::ClusterDatabase { .. }
            | Self::Evicts { .. }
            | Self::Persistence { .. }
            | Self::Rewound { .. }
            | Self::Settings { .. }
            | Self::Other { .. } => Class::Fatal,
        }
    }

    /// Whether another connection, now or a moment later, may do better.
    pub(super) fn is_worth_another(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Loading { .. }
                | Self::ReadOnly { .. }
                | Self::Demoted { .. }
                | Self::Moved { .. }
                | Self::Unnamed { .. }
                | Self::Migrating { .. }
                | Self::ClusterDown { .. }
        )
    }

    /// Whether the queue of work has nobody yet who takes it.
    pub(super) fn lacks_group(&self) -> bool {
        matches!(self, Self::Other { said, .. } if said.starts_with("NOGROUP"))
    }

    /// Whether the queue of work has had somebody already.
    pub(super) fn has_group(&self) -> bool {
        matches!(self, Self::Other { said, .. } if said.starts_with("BUSYGROUP"))
    }

    /// Gives an error of the client its variant.
    pub(super) fn of(address: &str, error: RedisError) -> Self {
        let address = address.to_owned();
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Credentials { address },
            ErrorKind::InvalidClientConfig => Self::Settings { address, source: error },
            ErrorKind::Server(_) | ErrorKind::Extension => {
                let said = match (error.code(), error.detail()) {
                    (Some(code), Some(detail)) => format!("{code} {detail}"),
                    (Some(code), None) => code.to_owned(),
                    (None, _) => error.to_string(),
                };
                if let (ErrorKind::Server(ServerErrorKind::Moved), Some((to, _slot))) =
                    (error.kind(), error.redirect_node())
                {
                    return Self::Moved { address, to: to.to_owned() };
                }
                Self::of_server(address, error.kind(), error.code().unwrap_or_default(), said)
            }
            // Bytes that are no answer end a connection as a broken one does.
            _ => Self::Unreachable { address, source: error },
        }
    }

    fn of_server(address: String, kind: ErrorKind, code: &str, said: String) -> Self {
        match (kind, code) {
            (ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown), _) => {
                Self::Loading { address }
            }
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Self::ReadOnly { address },
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Self::Forbidden { address, said },
            // A script is refused by either before it begins (see `scripts`).
            (ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain), _) => Self::Migrating { address },
            (ErrorKind::Server(ServerErrorKind::ClusterDown), _) => Self::ClusterDown { address, said },
            (ErrorKind::Server(ServerErrorKind::ResponseError), _) if said.contains(NO_SELECT) => {
                Self::ClusterDatabase { address }
            }
            // Whoever waited in the server is sent away when it becomes a replica.
            (_, "UNBLOCKED") => Self::Demoted { address },
            (_, "OOM") => Self::OutOfMemory { address },
            (_, "MISCONF") => Self::Unwritable { address, said },
            (_, "NOREPLICAS") => Self::TooFewReplicas { address },
            (_, "BUSY") => Self::Busy { address },
            (_, "NOAUTH" | "WRONGPASS") => Self::Credentials { address },
            _ => Self::Other { address, said },
        }
    }
}
