//! Brings the journal to the disk beside the work.
//!
//! Whenever fjall writes a full write buffer out, it first syncs its journal, and holds the journal's lock meanwhile: every commit waits
//! until all that has piled up since the last time is on the disk, a tenth of a second and more. This thread syncs the same file through
//! a handle of its own, which takes no lock, so that little is left to do then.
//!
//! It promises nothing: what is to survive a power failure is synced by its own commit. A disk that fails is told of by fjall's own
//! handle: the system reports a failed write once to each of them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much time's worth of writes is left to sync at most.
const PERIOD: Duration = Duration::from_millis(200);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Syncing {
    is_written: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncing {
    /// Syncs the newest journal of the database in `data` from now on.
    pub(super) fn start(data: &Path) -> io::Result<Self> {
        let is_written = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = channel();
        let (data, written) = (data.to_owned(), Arc::clone(&is_written));
        let thread =
            std::thread::Builder::new().name("journal".to_owned()).spawn(move || run(&data, &written, &stopped))?;
        Ok(Self { is_written, stop: Some(stop), thread: Some(thread) })
    }

    /// Something was written that is not on the disk yet.
    pub(super) fn written(&self) {
        self.is_written.store(true, Ordering::Relaxed);
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _it_does_not_panic = thread.join();
        }
    }
}

fn run(data: &Path, is_written: &AtomicBool, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        if is_written.swap(false, Ordering::Relaxed)
            && let Err(error) = sync(data)
        {
            tracing::debug!(%error, "the journal was not synced beside the work; commits wait for that as they come to it");
        }
    }
}

fn sync(data: &Path) -> io::Result<()> {
    match newest(data)? {
        Some(journal) => File::open(journal)?.sync_data(),
        None => Ok(()),
    }
}

/// The journal that is written to: `NUMBER.jnl`.
fn newest(data: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|is| is == "jnl")) {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{EmbeddedOptions, EmbeddedStore};
    use crate::port::{Append, Commit, LogName};

    #[test]
    fn the_newest_journal_is_the_one_that_holds_what_was_committed_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let words = b"these words stand in the journal";
        let append = Append { log: LogName::INPUT, bytes: words.as_slice().into() };
        store.commit_now(&Commit { appends: vec![append], ..Commit::default() }).unwrap();
        let journal = newest(&folder.path().join("data")).unwrap().expect("fjall keeps NUMBER.jnl in its folder");
        let bytes = fs::read(&journal).unwrap();
        assert!(bytes.windows(words.len()).any(|window| window == words), "{}", journal.display());
        sync(&folder.path().join("data")).unwrap();
    }

    #[test]
    fn numbers_are_compared_and_not_names() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(folder.path()).unwrap(), None);
        for name in ["9.jnl", "10.jnl", "11.sst", "twelve.jnl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(newest(folder.path()).unwrap(), Some(folder.path().join("10.jnl")));
    }

    #[test]
    fn it_ends_at_once_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let syncing = Syncing::start(folder.path()).unwrap();
        syncing.written();
        let is_written = Arc::clone(&syncing.is_written);
        drop(syncing);
        assert_eq!(Arc::strong_count(&is_written), 1, "its thread is gone");
    }
}
