//! Forgetting what nothing reads any more, beside the engine's thread.
//!
//! Whoever sweeps asks the store how far event time has come in every partition: what he applied himself says nothing of those that others
//! read, and he may have applied nothing.
//!
//! Invariants:
//! - States and row records expire by the clocks of the streams, never by the wall clock alone: history of years ago that is being loaded
//!   now is not old.
//! - They expire by the clock of the partition that is furthest behind, so that its windows find what they cover. One that gives no rows
//!   for a while holds nobody back: what comes of it then is late as anything may be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interdict_features::time::Timestamp;
use interdict_ingest::pipeline::clocks::PartitionClock;
use interdict_ingest::topic::sink::What;
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
use interdict_store::port::{LogName, Query, Store};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::setup::{Setup, StoreSettings};

use super::clock;
use super::input_log;
use super::pruning::Truncated;
use super::trimming::{self, Keep};
use super::{sinks, watching};

/// How often the store is swept. What expired costs disk, nothing else.
pub(crate) const SWEEP: Duration = Duration::from_secs(60);

/// For how long a partition that gives no rows holds the sweep. A source that is away for less loses nothing of its windows; longer ones
/// would keep what expired in memory for a partition that nobody writes any more.
const IDLE: Duration = Duration::from_secs(6 * 3_600);

/// Who trims the log of decisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decisions {
    /// The monitor, or the sinks of decisions: of this process or of others.
    Others,
    /// Nobody else, since nobody reads it.
    Here,
}

/// What is swept by.
#[derive(Clone, Debug)]
pub(crate) struct Sweeping {
    /// The sources whose partitions have clocks.
    pub(crate) sources: Vec<String>,
    /// What is kept of the logs.
    pub(crate) keep: Keep,
    /// What is kept of the log of decisions.
    pub(crate) decisions: Decisions,
    /// How often.
    pub(crate) every: Duration,
    /// For how long a partition without rows counts.
    pub(crate) idle: Duration,
    /// The groups whose states a truncation leaves behind.
    pub(crate) truncated: Truncated,
}

impl Sweeping {
    /// As `setup` says, which reads `own` sources beside those that are configured.
    pub(crate) fn of(setup: &Setup, own: impl IntoIterator<Item = String>) -> Self {
        let configured = setup.sources.iter().map(|source| source.name.clone());
        let sources = configured.chain(own).collect();
        let truncated = Truncated::of(&setup.definitions);
        Self { sources, keep: setup.keep, decisions: Decisions::Others, every: SWEEP, idle: IDLE, truncated }
    }

    /// The same for a process that plays every role: what its configuration does not read nobody else does either. On a disk the log may
    /// wait for a monitor that is configured later.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn alone(self, setup: &Setup, store: &OnlineStore) -> Result<Self, StoreError> {
        let is_read = setup.monitor.is_some() || sinks::produces(setup, What::Decisions);
        let is_on_disk = matches!(setup.store, StoreSettings::Embedded(_));
        let is_read = is_read || is_on_disk || sinks::has_another(setup, store).await?;
        Ok(Self { decisions: if is_read { Decisions::Others } else { Decisions::Here }, ..self })
    }
}

/// A partition, and since when its clock says what it says.
#[derive(Debug)]
struct Watched {
    clock: PartitionClock,
    since: Instant,
}

/// The clocks of all partitions, as they were seen to move.
#[derive(Debug, Default)]
struct Clocks(HashMap<(String, u32), Watched>);

impl Clocks {
    /// By which instant what expired may go, once the clocks say what was `read` at `now`; `None` while they say nothing.
    ///
    /// Requests come when they come and wait for nobody: they hold nothing, and where there is nothing else they count.
    fn instant(
        &mut self,
        read: Vec<((String, u32), PartitionClock)>,
        now: Instant,
        idle: Duration,
    ) -> Option<Timestamp> {
        for (partition, clock) in read {
            let known = self.0.get(&partition);
            if known.is_none_or(|known| known.clock != clock) {
                self.0.insert(partition, Watched { clock, since: now });
            }
        }
        let moving = self
            .0
            .iter()
            .filter(|((source, _), watched)| source != input_log::SOURCE && now.duration_since(watched.since) < idle);
        let last = moving.map(|(_, watched)| watched.clock.now).min();
        last.or_else(|| self.0.values().map(|watched| watched.clock.now).max())
    }
}

/// The clocks that are stored of `sources` and of requests.
async fn stored<S: Store>(store: &S, sources: &[String]) -> Result<Vec<((String, u32), PartitionClock)>, StoreError> {
    let mut partitions = Vec::new();
    for source in sources.iter().map(String::as_str).chain([input_log::SOURCE]) {
        let stored = store.positions(source).await?;
        // What has no place to return to stores no position.
        let mut numbers: Vec<u32> = stored.iter().map(|offset| offset.partition).chain([0]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        partitions.extend(numbers.into_iter().map(|number| (source.to_owned(), number)));
    }
    let rows = partitions.iter().map(|(source, partition)| PartitionClock::key(source, *partition)).collect();
    let fetched = store.fetch(&Query { rows, ..Query::default() }).await?;
    let clocks = partitions.into_iter().zip(fetched.rows);
    Ok(clocks.filter_map(|(partition, bytes)| Some((partition, PartitionClock::read(&bytes?)?))).collect())
}

/// Sweeps the store until `stop`: its logs and what truncations left at once, then everything again and again.
pub(crate) async fn sweep<S: Store>(store: Arc<S>, by: Sweeping, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut clocks, mut truncated, mut decided) = (Clocks::default(), by.truncated.clone(), 0);
    loop {
        let (logs, keep, runtime) = (Arc::clone(&store), by.keep, Handle::current());
        let trimmed = move || runtime.block_on(trimming::trim(&*logs, keep, clock::now()));
        told(tokio::task::spawn_blocking(trimmed).await?, "trimmed the logs of requests and of administrative acts");
        if by.decisions == Decisions::Here {
            let (log, runtime) = (Arc::clone(&store), Handle::current());
            let forget = move || runtime.block_on(forget_decisions(&*log, decided));
            match tokio::task::spawn_blocking(forget).await? {
                Ok(end) => decided = end,
                Err(error) => told(Err(error), ""),
            }
        }
        let (states, runtime, until) = (Arc::clone(&store), Handle::current(), stop.clone());
        let prune = move || {
            let pruned = runtime.block_on(truncated.prune(&*states, &until));
            (truncated, pruned)
        };
        let pruned;
        (truncated, pruned) = tokio::task::spawn_blocking(prune).await?;
        told(pruned, "removed states that a truncation left behind");
        tokio::select! {
            () = tokio::time::sleep(by.every) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let (asked, sources, runtime) = (Arc::clone(&store), by.sources.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || runtime.block_on(stored(&*asked, &sources))).await?;
        let Ok(read) = read.inspect_err(|error| tracing::error!(%error, "{UNSWEPT}")) else { continue };
        let Some(now) = clocks.instant(read, clock::instant(), by.idle) else { continue };
        let (store, now, runtime) = (Arc::clone(&store), now.min(clock::now()), Handle::current());
        let until = stop.clone();
        let swept = tokio::task::spawn_blocking(move || runtime.block_on(expire(&*store, now, &until))).await?;
        told(swept, "forgot what nothing reads any more");
    }
}

/// Takes decisions before `seen`, the end of their log at the last look, out of it, unless a monitor has worked on it: it may be gone for a
/// while only. They stay under their ids. The end of the log now: what came since that look may be others' by now.
async fn forget_decisions<S: Store>(store: &S, seen: u64) -> Result<u64, StoreError> {
    let end = store.log_next(LogName::DECISIONS).await?;
    if seen > 0 && !watching::has_written(store).await? {
        store.trim_log(LogName::DECISIONS, seen).await?;
    }
    Ok(end)
}

/// Removes what expired before `now`, until `stop`: who goes on begins anew, since nothing says that all was looked at.
async fn expire<S: Store>(store: &S, now: Timestamp, stop: &CancellationToken) -> Result<u64, StoreError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(0),
        swept = store.expire(now) => swept,
    }
}

const UNSWEPT: &str = "the store could not be swept; it is tried again";

fn told(swept: Result<u64, StoreError>, what: &str) {
    match swept {
        Ok(0) => {}
        Ok(records) => tracing::info!(records, "{what}"),
        Err(error) => tracing::error!(%error, "{UNSWEPT}"),
    }
}

#[cfg(test)]
mod tests;
