//! Forgetting what nothing reads any more, beside the engine's thread.
//!
//! Invariant: states and row records expire by the clock of the streams, never by the wall clock alone: history of years ago that is being
//! loaded now is not old.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_store::error::StoreError;
use interdict_store::port::Store;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::pruning::Truncated;
use super::trimming::{self, Keep};

/// How often the store is swept. What expired costs disk, nothing else.
const SWEEP: Duration = Duration::from_secs(60);

/// How far event time has come, told by the engine's thread.
#[derive(Debug)]
pub(crate) struct StreamClock(AtomicI64);

impl Default for StreamClock {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl StreamClock {
    /// Event time has come to `now`.
    pub(crate) fn tell(&self, now: Timestamp) {
        self.0.store(now.micros(), Ordering::Relaxed);
    }

    /// The latest that was told; `None` before the first event, and never later than the wall clock.
    fn now(&self) -> Option<Timestamp> {
        let micros = self.0.load(Ordering::Relaxed);
        (micros != i64::MIN).then(|| Timestamp::from_micros(micros).min(clock::now()))
    }
}

/// Sweeps the store until `stop`: its logs and what truncations left at once, then everything again and again.
pub(crate) async fn sweep<S: Store>(
    store: Arc<S>,
    stream_clock: Arc<StreamClock>,
    keep: Keep,
    mut truncated: Truncated,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let (logs, runtime) = (Arc::clone(&store), Handle::current());
        let trimmed = move || runtime.block_on(trimming::trim(&*logs, keep, clock::now()));
        told(tokio::task::spawn_blocking(trimmed).await?, "trimmed the logs of requests and of administrative acts");
        let (states, runtime) = (Arc::clone(&store), Handle::current());
        let prune = move || {
            let pruned = runtime.block_on(truncated.prune(&*states));
            (truncated, pruned)
        };
        let pruned;
        (truncated, pruned) = tokio::task::spawn_blocking(prune).await?;
        told(pruned, "removed states that a truncation left behind");
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let Some(now) = stream_clock.now() else { continue };
        let (store, runtime) = (Arc::clone(&store), Handle::current());
        let swept = tokio::task::spawn_blocking(move || runtime.block_on(store.expire(now))).await?;
        told(swept, "forgot what nothing reads any more");
    }
}

fn told(swept: Result<u64, StoreError>, what: &str) {
    match swept {
        Ok(0) => {}
        Ok(records) => tracing::info!(records, "{what}"),
        Err(error) => tracing::error!(%error, "the store could not be swept; it is tried again"),
    }
}
