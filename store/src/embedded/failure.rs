//! What the engine's errors mean to the person who runs the store.

use std::error::Error;
use std::io;
use std::path::Path;

use crate::error::StoreError;

/// Gives an engine's error its variant.
pub(super) fn of_engine(path: &Path, error: fjall::Error) -> StoreError {
    if let Some(kind) = io_kind(&error) {
        if is_full(kind) {
            return StoreError::DiskFull { path: path.to_owned() };
        }
        if kind == io::ErrorKind::PermissionDenied {
            return StoreError::Denied { path: path.to_owned(), source: io::Error::new(kind, error) };
        }
    }
    match error {
        fjall::Error::Locked => StoreError::Locked { path: path.to_owned() },
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            if is_damage(source.kind()) {
                return damaged(path, &source);
            }
            StoreError::Io { what: format!("reading or writing the store at {}", path.display()), source }
        }
        fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted => StoreError::Engine(error),
        other => damaged(path, &other),
    }
}

/// Gives a file operation's error its variant.
pub(super) fn of_file(path: &Path, what: &str, source: io::Error) -> StoreError {
    match source.kind() {
        kind if is_full(kind) => StoreError::DiskFull { path: path.to_owned() },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Denied { path: path.to_owned(), source }
        }
        _ => StoreError::Io { what: format!("{what} of the store at {}", path.display()), source },
    }
}

/// What stands on disk is not what was written.
pub(super) fn damaged(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        what: "database",
        why: format!(
            "{why}; restore {} from a copy, or move it away and let a new one be filled from the source",
            path.display()
        ),
    }
}

/// The disk, a quota or a file size limit is at its end.
fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// A file ends too early, is missing or holds nonsense.
fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

/// The first input or output error in the chain.
fn io_kind(error: &fjall::Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}
