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
    /// The queue of work holds as many pieces as it may.
    #[error(
        "{capacity} events wait for a scorer, the bound; start scorers, or see why they stand still: intake goes on by itself"
    )]
    WorkFull {
        /// Its bound.
        capacity: usize,
    },
    /// Another process has written a state or row record since this one read it; nothing was written. Read it anew, and apply again.
    #[error("another process has written what this commit rests on")]
    Conflict,
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
    /// This user may not read or write the folder.
    #[error("no permission for the store at {path}: {source}; let this user read and write the folder and all in it")]
    Denied {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key or value is larger than the store takes.
    #[error("{what} of {bytes} bytes is too large for the store (at most {limit})")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A request that contradicts itself.
    #[error("the store refuses {what}: {why}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Another bundle is registered under the same name and version.
    #[error(
        "{name} {version} is already registered with hash {stored}, this bundle has {given}; give it a new version"
    )]
    BundleTaken {
        /// Model.
        name: String,
        /// Version.
        version: String,
        /// Hash registered.
        stored: String,
        /// Hash of the refused bundle.
        given: String,
    },
    /// An alias names a version that is not registered.
    #[error("{name} {version} is not registered; register the bundle first, then point {alias} at it")]
    BundleUnknown {
        /// Model.
        name: String,
        /// Version.
        version: String,
        /// The alias.
        alias: String,
    },
    /// The engine below failed.
    #[error("the embedded store failed: {0}; see the log, then start again: what was committed is read back")]
    Engine(#[from] fjall::Error),
    /// The database failed.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Database(#[from] crate::redis::failure::DatabaseError),
    /// A file operation failed.
    #[error("{what} failed: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What is called too large where a commit is refused for its size: the same in parts may be taken.
pub const ONE_COMMIT: &str = "one commit";

impl StoreError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::OutboxFull { .. } | Self::WorkFull { .. } | Self::DiskFull { .. } | Self::Io { .. } => {
                Class::Transient
            }
            Self::Conflict
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::BundleTaken { .. }
            | Self::BundleUnknown { .. } => Class::Rejected,
            Self::Fenced { .. }
            | Self::Incarnation { .. }
            | Self::Corrupt { .. }
            | Self::Locked { .. }
            | Self::Denied { .. }
            | Self::Engine(_) => Class::Fatal,
            #[cfg(feature = "redis")]
            Self::Database(error) => error.class(),
        }
    }
}
