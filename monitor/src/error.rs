//! What can go wrong in the monitor, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// How a caller reacts to an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// May go through when tried again; nothing was lost.
    Transient,
    /// Will never go through; what was given is wrong.
    Rejected,
    /// The monitor must stop.
    Fatal,
}

/// An error of the monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The disk is full.
    #[error("no space left for {path}; free some, writing goes on by itself")]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{what} {path} failed: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process writes to the same folder.
    #[error("{path} is in use by another process; stop it, or choose another folder with [monitor] log_dir")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// What stands on disk is not what this version writes.
    #[error("{path} cannot be read: {why}")]
    Corrupt {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// A record could not be made a row of Parquet.
    #[error("decision records could not be encoded: {source}")]
    Encode {
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// An earlier batch could not be encoded.
    #[error("an earlier batch of decisions could not be encoded; open the log anew, it goes on at position {position}")]
    Broken {
        /// The durable position.
        position: u64,
    },
    /// A Parquet file could not be decoded.
    #[error("{path} is not readable Parquet: {source}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// A record could not be written or read as JSON.
    #[error("a decision record could not be written or read as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The reference sample cannot be compared with.
    #[error("the reference sample {path} cannot be used: {why}")]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The client for webhooks could not be made.
    #[error("the webhook client could not be made: {0}")]
    Client(#[from] reqwest::Error),
}

impl MonitorError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::DiskFull { .. } | Self::Io { .. } => Class::Transient,
            Self::Json(_) | Self::Reference { .. } => Class::Rejected,
            Self::Encode { .. }
            | Self::Broken { .. }
            | Self::Locked { .. }
            | Self::Corrupt { .. }
            | Self::Decode { .. }
            | Self::Client(_) => Class::Fatal,
        }
    }

    /// The error of a file operation, told apart by whether the disk is full.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { what, path, source },
        }
    }
}
