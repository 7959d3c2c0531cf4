//! What can go wrong in a store, and what to do about it.

/// How a caller reacts to an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// May go through when tried again.
    Transient,
    /// Will never go through; the request is wrong.
    Rejected,
    /// This process must stop.
    Fatal,
}

/// An error of a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An offset is not where this writer left it: another writer is at work, or this commit was already made.
    #[error(
        "{source_name}/{partition} stands at {stored:?}, this writer expected {expected:?}; another process writes to this store"
    )]
    Fenced {
        /// Source.
        source_name: String,
        /// Partition of the source.
        partition: u32,
        /// Position stored.
        stored: Option<u64>,
        /// Position the commit expected.
        expected: Option<u64>,
    },
    /// The source is another one than the stored offsets belong to.
    #[error(
        "{source_name} is not the source this store was filled from (it says '{now}', the store says '{stored}'); use a new namespace, or reset the source's offsets"
    )]
    Incarnation {
        /// Source.
        source_name: String,
        /// Identity stored.
        stored: String,
        /// Identity of the source now.
        now: String,
    },
    /// The outbox holds as many unfinished actions as it may.
    #[error(
        "the outbox is full ({capacity} unfinished actions); see why actions do not finish, intake goes on by itself"
    )]
    OutboxFull {
        /// Its bound.
        capacity: usize,
    },
    /// Stored bytes are not what this version writes or reads.
    #[error("stored {what} cannot be read: {why}")]
    Corrupt {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The folder is in use by another process.
    #[error("the store at {path} is in use by another process; stop it, or choose another folder with [store] path")]
    Locked {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The disk is full.
    #[error("no space left for the store at {path}; free some, writing goes on by itself")]
    DiskFull {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The engine below failed.
    #[error("the embedded store failed: {0}")]
    Engine(#[from] fjall::Error),
    /// A file operation failed.
    #[error("{what} failed: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl StoreError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::OutboxFull { .. } | Self::DiskFull { .. } | Self::Io { .. } => Class::Transient,
            Self::Fenced { .. }
            | Self::Incarnation { .. }
            | Self::Corrupt { .. }
            | Self::Locked { .. }
            | Self::Engine(_) => Class::Fatal,
        }
    }
}
