//! Work that may wait: its threads leave the processors to those that decide.
//!
//! A priority decides nothing but who runs first where there are more threads than processors: whatever is refused here is told and
//! left alone.

/// How much nicer than the thread that asks. Beside one ordinary thread it gets about a tenth of a processor.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Has the calling thread, and every thread that it starts from now on, give way to all others. Only Linux knows priorities of threads;
/// elsewhere nothing happens.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let own = Some(rustix::thread::gettid());
        if let Err(error) = getpriority_process(own).and_then(|nice| setpriority_process(own, nice + NICER)) {
            tracing::debug!(%error, "a background thread keeps its priority");
        }
    }
}

/// Runs `work` where every thread that it starts gives way; the caller's own priority stays.
pub(crate) fn starting<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let on_its_own = || {
        give_way();
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(on_its_own).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap()
    }

    #[test]
    fn threads_started_by_work_that_gives_way_give_way_too_and_the_caller_does_not() {
        let own = nice();
        let (there, below) = starting(|| (nice(), std::thread::spawn(nice).join().unwrap()));
        assert_eq!((there, below), ((own + NICER).min(19), (own + NICER).min(19)));
        assert_eq!(nice(), own);
    }

    #[test]
    #[should_panic(expected = "what the work said")]
    fn a_panic_of_the_work_is_the_callers() {
        starting(|| panic!("what the work said"));
    }
}
