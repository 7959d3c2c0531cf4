//! Brings the journal to the disk beside the work.
//!
//! Whenever fjall writes a full write buffer out, it first syncs its journal, and holds the journal's lock meanwhile: every commit waits
//! until all that has piled up since the last time is on the disk, a tenth of a second and more. This thread syncs the same file through
//! a handle of its own, which takes no lock, so that little is left to do then but to begin a new file now and then.
//!
//! It promises nothing: what is to survive a power failure is synced by its own commit. Where a sync fails here, the next commit syncs
//! through fjall's handle, to which the system reports a failed write once more: the database closes itself then, as after any failed
//! write. A process that is started after this one would not be told of it any more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long it rests between two syncs.
const PERIOD: Duration = Duration::from_millis(200);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Syncing {
    shared: Arc<Shared>,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_written: AtomicBool,
    is_failed: AtomicBool,
}

impl Syncing {
    /// Syncs the newest journal of the database in `data` from now on.
    pub(super) fn start(data: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = sync_channel(0);
        let (data, of_thread) = (data.to_owned(), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || run(&data, &of_thread, &stopped))?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Something was written that is not on the disk yet. On systems other than Linux that is left to fjall: a sync of macOS
    /// empties the disk's own cache.
    pub(super) fn written(&self) {
        if cfg!(target_os = "linux") {
            self.shared.is_written.store(true, Ordering::Relaxed);
        }
    }

    /// Has `sync` do what a sync has failed to do since this was called last.
    pub(super) fn catch_up<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.take_failed() { sync() } else { Ok(()) }
    }

    fn take_failed(&self) -> bool {
        self.shared.is_failed.swap(false, Ordering::Relaxed)
    }

    /// One without a thread, which finds things as they were left.
    #[cfg(test)]
    pub(super) fn still() -> Self {
        Self { shared: Arc::default(), stop: None, thread: None }
    }

    /// Whether something is to be synced.
    #[cfg(test)]
    pub(super) fn is_written(&self) -> bool {
        self.shared.is_written.load(Ordering::Relaxed)
    }

    /// Lets a sync fail.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.shared.is_failed.store(true, Ordering::Relaxed);
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

fn run(data: &Path, shared: &Shared, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        if !shared.is_written.swap(false, Ordering::Relaxed) {
            continue;
        }
        match newest(data) {
            Ok(None) => {}
            Ok(Some(journal)) => {
                if let Err(error) = journal.sync_data() {
                    tracing::warn!(%error, folder = %data.display(), "the journal of the store cannot be synced; the next commit tries");
                    shared.is_failed.store(true, Ordering::Relaxed);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the journal could not be opened; commits wait for it to be synced when that comes to them");
            }
        }
    }
}

/// The journal that is written to.
fn newest(data: &Path) -> io::Result<Option<File>> {
    // Some file systems sync only what may be written.
    path_of_newest(data)?.map(|path| File::options().append(true).open(path)).transpose()
}

/// It is called `NUMBER.jnl`.
fn path_of_newest(data: &Path) -> io::Result<Option<PathBuf>> {
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
    #[cfg(target_os = "linux")]
    use crate::background::tests::eventually;
    use crate::embedded::{EmbeddedOptions, EmbeddedStore};
    use crate::port::{Append, Commit, LogName};

    #[test]
    fn the_newest_journal_is_the_one_that_holds_what_was_committed_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let words = b"these words stand in the journal";
        let append = Append { log: LogName::INPUT, bytes: words.as_slice().into() };
        store.commit_now(&Commit { appends: vec![append], ..Commit::default() }).unwrap();
        let journal =
            path_of_newest(&folder.path().join("data")).unwrap().expect("fjall keeps NUMBER.jnl in its folder");
        let bytes = fs::read(&journal).unwrap();
        assert!(bytes.windows(words.len()).any(|window| window == words), "{}", journal.display());
    }

    #[test]
    fn numbers_are_compared_and_not_names() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(path_of_newest(folder.path()).unwrap(), None);
        for name in ["9.jnl", "10.jnl", "11.sst", "twelve.jnl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(path_of_newest(folder.path()).unwrap(), Some(folder.path().join("10.jnl")));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_written_is_synced_and_the_thread_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0.jnl"), "a commit").unwrap();
        let syncing = Syncing::start(folder.path()).unwrap();
        syncing.written();
        let shared = Arc::clone(&syncing.shared);
        eventually("the journal is synced", || !shared.is_written.load(Ordering::Relaxed));
        drop(syncing);
        assert!(!shared.is_failed.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&shared), 1, "its thread has ended");
    }

    /// A folder can be opened and synced, a device without storage only opened.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_sync_that_fails_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("0.jnl")).unwrap();
        let syncing = Syncing::start(folder.path()).unwrap();
        syncing.written();
        eventually("the sync fails", || syncing.catch_up(|| Err(())).is_err());
        assert_eq!(syncing.catch_up(|| Err(())), Ok(()), "once");
    }
}
