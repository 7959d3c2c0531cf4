//! Where log lines go: to standard error, or to a file while the live view owns the terminal.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

static FILE: RwLock<Option<Arc<File>>> = RwLock::new(None);

/// The writer of one log line.
pub(crate) fn writer() -> Box<dyn Write> {
    match &*FILE.read().unwrap_or_else(PoisonError::into_inner) {
        Some(file) => Box::new(Arc::clone(file)),
        None => Box::new(io::stderr()),
    }
}

/// While it lives log lines go to a file.
#[derive(Debug)]
pub(super) struct Diverted;

impl Diverted {
    /// Appends log lines to the file at `path` from now on.
    pub(super) fn to(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        *FILE.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(file));
        Ok(Self)
    }
}

impl Drop for Diverted {
    fn drop(&mut self) {
        *FILE.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
