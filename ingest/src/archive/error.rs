//! What can go wrong with an archive, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use interdict_store::error::Class;

/// An error of an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The disk is full.
    #[error("no space left for {}; free some, the archive goes on by itself", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{what} {} failed: {source}; see that [archive] dir is there and that this user may write to it", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What stands on disk is not what this version writes.
    #[error("{} cannot be used: {why}", path.display())]
    Corrupt {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The folder holds changes of something else.
    #[error(
        "{} holds changes of {held}, and this is {found}: choose another [archive] dir, or move the folder away to begin a new archive",
        path.display()
    )]
    Other {
        /// The folder.
        path: PathBuf,
        /// Whose changes are there.
        held: String,
        /// What this is.
        found: String,
    },
    /// The snapshot that the archive lacks cannot be taken again.
    #[error(
        "{} holds nothing yet, and the store is past the source's snapshot: the folder is an older copy. Move it away to begin a new archive with the next change",
        path.display()
    )]
    BehindSnapshot {
        /// The folder.
        path: PathBuf,
    },
    /// A process of several has no archive of a source that others work on already.
    #[error(
        "{} is not there, and the store stands at position {stored} of the source already. All processes with --role share one [archive] dir: see that it is mounted here. To begin an archive with the next change, make that folder",
        path.display()
    )]
    NotShared {
        /// The folder.
        path: PathBuf,
        /// How far the source is stored.
        stored: u64,
    },
    /// Another process is publishing there.
    #[error("another process is publishing to {}", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// Another process archives the source now.
    #[error("another process writes to {} now: this one stood still for longer than its lease, or two configurations share the folder; start it again, or give each a folder of its own", path.display())]
    TakenOver {
        /// The folder.
        path: PathBuf,
    },
    /// Rows could not be made a Parquet file.
    #[error("changes could not be encoded: {source}")]
    Encode {
        /// Why.
        source: parquet::errors::ParquetError,
    },
}

impl ArchiveError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::DiskFull { .. } | Self::Io { .. } | Self::Busy { .. } => Class::Transient,
            Self::Corrupt { .. }
            | Self::Other { .. }
            | Self::BehindSnapshot { .. }
            | Self::NotShared { .. }
            | Self::TakenOver { .. }
            | Self::Encode { .. } => Class::Fatal,
        }
    }

    /// The error of a file operation, told apart by whether the disk is full.
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { what, path, source },
        }
    }

    pub(super) fn corrupt(path: &Path, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), why: why.into() }
    }
}
