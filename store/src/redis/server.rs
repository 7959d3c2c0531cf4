//! What a server says about itself, and whether the store can stand on it.

use std::fmt;

use redis::Value;

use super::config::{PersistenceWanted, RedisConfig};
use super::failure::DatabaseError;

/// The oldest version that serves.
const VERSION_MIN: (u32, u32) = (7, 0);

/// What a server keeps on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Persistence {
    /// Nothing: a restart is empty.
    Nothing,
    /// Snapshots, or what this user may not see: a restart loses what came after the last one.
    Snapshots,
    /// An append-only file that the system writes out in its own time.
    AppendOnly,
    /// An append-only file on disk every second: a power failure loses up to two seconds, a crash of the server what it
    /// had not handed to the system.
    EverySecond,
    /// An append-only file that is on disk before an answer is given.
    Always,
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing on disk",
            Self::Snapshots => "at most snapshots",
            Self::AppendOnly => "an append-only file without fsync",
            Self::EverySecond => "an append-only file with fsync every second",
            Self::Always => "an append-only file with fsync before every answer",
        })
    }
}

/// What matters of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) persistence: Persistence,
    /// Whether it is a node of a cluster.
    pub(super) is_node: bool,
}

/// Checks what `INFO` and `CONFIG GET` said.
pub(super) fn check(
    config: &RedisConfig,
    address: &str,
    info: &str,
    settings: &[Value],
) -> Result<Facts, DatabaseError> {
    let of = |name: &str| field(info, name).unwrap_or_default();
    let address = address.to_owned();
    let version = of("redis_version").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < VERSION_MIN {
        return Err(DatabaseError::Version { address, version });
    }
    if of("loading") == "1" {
        return Err(DatabaseError::Loading { address });
    }
    if of("role") != "master" {
        return Err(DatabaseError::ReadOnly { address });
    }
    let policy = of("maxmemory_policy");
    if of("maxmemory") != "0" && policy != "noeviction" {
        return Err(DatabaseError::Evicts { address, policy: policy.to_owned() });
    }
    let persistence = persistence(of("aof_enabled") == "1", settings);
    let (is_enough, wanted) = match config.persistence {
        PersistenceWanted::Any => (true, "anything"),
        PersistenceWanted::AppendOnly => (persistence >= Persistence::AppendOnly, "appendonly yes"),
        PersistenceWanted::Always => (persistence >= Persistence::Always, "appendfsync always"),
    };
    if !is_enough {
        return Err(DatabaseError::Persistence { address, found: persistence.to_string(), wanted: wanted.to_owned() });
    }
    Ok(Facts { version, persistence, is_node: of("cluster_enabled") == "1" })
}

/// Says what a restart of the server would cost.
pub(super) fn warn(address: &str, facts: &Facts, is_forbidden: bool) {
    let persistence = facts.persistence;
    if is_forbidden {
        tracing::warn!(
            address,
            "this user may not read the server's configuration, so what it keeps on disk is not known"
        );
    }
    match persistence {
        Persistence::Nothing => tracing::warn!(
            address,
            "redis keeps nothing on disk: its restart loses every state, decision and block; set appendonly yes"
        ),
        Persistence::Snapshots => tracing::warn!(
            address,
            "redis keeps at most snapshots: its restart loses decisions and blocks since the last one; set appendonly yes"
        ),
        Persistence::AppendOnly | Persistence::EverySecond => tracing::warn!(
            address,
            %persistence,
            "a power failure at redis loses the newest commits, also those of actions; appendfsync always keeps them"
        ),
        Persistence::Always => {}
    }
}

fn persistence(has_log: bool, settings: &[Value]) -> Persistence {
    let setting = |name: &str| {
        let mut pairs = settings.chunks_exact(2);
        pairs.find(|pair| word(&pair[0]) == Some(name)).and_then(|pair| word(&pair[1]))
    };
    match (has_log, setting("appendfsync")) {
        (true, Some("always")) => Persistence::Always,
        (true, Some("everysec")) => Persistence::EverySecond,
        (true, _) => Persistence::AppendOnly,
        (false, _) if setting("save") == Some("") => Persistence::Nothing,
        (false, _) => Persistence::Snapshots,
    }
}

/// A short text in an answer.
pub(super) fn word(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}
