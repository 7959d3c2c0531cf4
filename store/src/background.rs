//! Work that may wait: its threads leave the processors to those that decide.
//!
//! A priority decides nothing but who runs first where there are more threads than processors: whatever is refused here is told and
//! left alone. It is a mild one, since such work holds locks now and then that decisions need.

#[cfg(target_os = "linux")]
use rustix::process::{getpid, getpriority_process, setpriority_process};
#[cfg(target_os = "linux")]
use rustix::thread::gettid;

/// How much nicer than the process's first thread: beside an ordinary thread it gets a quarter of a processor.
#[cfg(target_os = "linux")]
const NICER: i32 = 5;

/// Has the calling thread, and every thread that it starts from now on, give way to the others of its group (container, session). Asking
/// twice changes nothing. Only Linux knows priorities of threads; elsewhere nothing happens.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        let set = |nice| setpriority_process(Some(gettid()), nice + NICER);
        if let Err(error) = getpriority_process(Some(getpid())).and_then(set) {
            tracing::debug!(%error, "a background thread keeps its priority");
        }
    }
}

/// Runs `work` where every thread that it starts gives way; the caller's own priority stays.
pub(crate) fn starting<T: Send>(work: impl Fn() -> T + Sync) -> T {
    let on_its_own = || {
        give_way();
        work()
    };
    let ended = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("starting".to_owned());
        Ok(thread.spawn_scoped(scope, on_its_own)?.join())
    });
    match ended {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err::<_, std::io::Error>(error) => {
            tracing::debug!(%error, "no thread to start others from; they keep their priority");
            work()
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
pub(crate) mod tests {
    use super::*;

    /// Waits for what another thread does.
    pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if is_so() {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "nothing tells when a thread has come so far")]
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{what}: not within 10 s");
    }

    fn nice() -> i32 {
        getpriority_process(Some(gettid())).expect("every thread may ask that")
    }

    #[test]
    fn threads_started_by_work_that_gives_way_give_way_too_and_the_caller_does_not() {
        let (own, first) = (nice(), getpriority_process(Some(getpid())).unwrap());
        let wanted = (first + NICER).min(19);
        let twice = || {
            give_way();
            nice()
        };
        assert_eq!(starting(|| (nice(), std::thread::spawn(twice).join().unwrap())), (wanted, wanted));
        assert_eq!(nice(), own);
    }

    #[test]
    fn the_threads_of_the_embedded_store_give_way_but_not_the_one_of_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let _store =
            crate::embedded::EmbeddedStore::open(folder.path(), crate::embedded::EmbeddedOptions::default()).unwrap();
        let first = getpriority_process(Some(getpid())).unwrap();
        // A thread takes its name only once it runs.
        eventually("both have their names", || !nices("fjall").is_empty() && !nices("journal").is_empty());
        let (workers, journals) = (nices("fjall"), nices("journal"));
        assert!(workers.iter().all(|nice| *nice == (first + NICER).min(19)), "{workers:?}");
        assert!(journals.iter().all(|nice| *nice == first), "{journals:?}");
    }

    /// Of the threads whose name begins so. Those of stores in other tests come and go.
    fn nices(name: &str) -> Vec<i32> {
        let threads = std::fs::read_dir("/proc/self/task").expect("a process has threads");
        let of_thread = |task: std::io::Result<std::fs::DirEntry>| {
            let task = task.ok()?;
            let its = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse().ok().and_then(rustix::process::Pid::from_raw)?;
            if its.starts_with(name) { getpriority_process(Some(id)).ok() } else { None }
        };
        threads.filter_map(of_thread).collect()
    }

    #[test]
    #[should_panic(expected = "what the work said")]
    fn a_panic_of_the_work_is_the_callers() {
        starting(|| panic!("what the work said"));
    }
}
