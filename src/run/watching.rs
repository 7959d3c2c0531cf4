//! The monitor's thread: decisions from the store's log to Parquet and the drift detector.
//!
//! Invariants:
//! - The store's log forgets a decision only once it is durable in Parquet and every sink has produced it.
//! - Parquet holds a decision only once the store holds it over a power failure: else the store would give its position to another one,
//!   which Parquet would pass over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use interdict_ingest::topic::sink::What;
use interdict_monitor::alert::courier::Courier;
use interdict_monitor::drift::reference::Reference;
use interdict_monitor::monitor::{Monitor, MonitorState};
use interdict_scorer::activation::Active;
use interdict_scorer::bundle::Bundle;
use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, Durability, LogName, Store as _};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::sinks::Produce;

/// Decisions the monitor takes from the log at once.
const LOG_STEP: usize = 1_000;
/// How often the monitor looks after files that are due when nothing new comes.
const TICK: Duration = Duration::from_millis(250);
/// How long it lets decisions gather: one by one they cost it more than all the rest.
const GATHER: Duration = Duration::from_millis(50);

/// The sample that drift is measured against.
pub(super) fn reference(active: &Active, bundle: &Bundle) -> anyhow::Result<Reference> {
    Ok(Reference::load(&bundle.reference, &active.manifest.name, &active.manifest.version)?)
}

/// Delivers alerts until `stop`.
pub(super) async fn alert(courier: Courier, stop: CancellationToken) -> anyhow::Result<()> {
    courier.run(stop).await;
    Ok(())
}

/// Sees that the decision log in Parquet is not ahead of the store that it is filled from.
async fn check(monitor: &Monitor, store: &OnlineStore) -> anyhow::Result<()> {
    let (logged, stored) = (monitor.next_position(), store.log_next(LogName::DECISIONS).await?);
    anyhow::ensure!(
        logged <= stored,
        "the decision log in Parquet holds decisions up to position {logged}, the store only {stored}: an older store stands beside a newer log, and new decisions would be taken for ones the log has; restore store and log of one moment together, or move the folder of [monitor] log_dir away so that a new log is begun"
    );
    Ok(())
}

/// The store as the monitor's thread uses it.
struct AtHand {
    store: Arc<OnlineStore>,
    runtime: Handle,
}

/// Moves decisions from the store's log to Parquet and the drift detector.
pub(super) async fn start(
    mut monitor: Monitor,
    store: &Arc<OnlineStore>,
    logged: Arc<Notify>,
    shown: &Arc<Mutex<Option<MonitorState>>>,
    produce: Produce,
    stop: CancellationToken,
) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<()>>> {
    check(&monitor, store).await?;
    let store = AtHand { store: Arc::clone(store), runtime: Handle::current() };
    let shown = Arc::clone(shown);
    let mut work =
        move || -> anyhow::Result<()> {
            loop {
                let is_last = stop.is_cancelled();
                let taken = take_decisions(&mut monitor, &store)?;
                let extent = if is_last && taken == 0 { Publish::All } else { Publish::WhenDue };
                let durable = publish(&mut monitor, &store, extent)?;
                if let Some(durable) = durable {
                    put_off(store.runtime.block_on(
                        store.store.trim_log(LogName::DECISIONS, durable.min(produce.needed(What::Decisions))),
                    ))?;
                }
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor.state());
                if is_last && taken == 0 {
                    return Ok(());
                }
                if is_last || taken == LOG_STEP {
                    continue;
                }
                store.runtime.block_on(async {
                    tokio::select! {
                        () = async { logged.notified().await; tokio::time::sleep(GATHER).await } => {}
                        () = tokio::time::sleep(TICK) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        };
    let logs_errors = move || {
        let ended = work();
        if let Err(error) = &ended {
            tracing::error!(
                error = crate::told::told(error),
                "the monitor has ended; decisions stay in the store's log"
            );
        }
        ended
    };
    Ok(std::thread::Builder::new().name("monitor".to_owned()).spawn(logs_errors)?)
}

/// What the store gave, or nothing while it fails: the decisions stay in its log, and it is asked again at the next tick.
fn put_off<T: Default>(result: Result<T, StoreError>) -> anyhow::Result<T> {
    match result {
        Err(error) if error.class() == Class::Transient => {
            tracing::error!(%error, "the store's decision log is not to be had; it is tried again");
            Ok(T::default())
        }
        result => Ok(result?),
    }
}

/// When decisions are published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    WhenDue,
    All,
}

/// Does what is due in the monitor; up to where decisions are durable, if that is known.
fn publish(monitor: &mut Monitor, store: &AtHand, publish: Publish) -> anyhow::Result<Option<u64>> {
    let now = clock::now();
    let publishes = publish == Publish::All || monitor.is_due(now);
    if publishes && !is_synced(store)? {
        return Ok(None);
    }
    settled(if publish == Publish::All { monitor.flush(now) } else { monitor.tick(now) })
}

/// Puts on the disk what Parquet is about to hold; whether it is there.
fn is_synced(store: &AtHand) -> anyhow::Result<bool> {
    let nothing = Commit { durability: Durability::Power, ..Commit::default() };
    put_off(store.runtime.block_on(store.store.commit(nothing)).map(|_| true))
}

/// Hands the next decisions to the monitor; how many it took.
fn take_decisions(monitor: &mut Monitor, store: &AtHand) -> anyhow::Result<usize> {
    let read = store.store.read_log(LogName::DECISIONS, monitor.next_position(), LOG_STEP);
    let entries = put_off(store.runtime.block_on(read))?;
    for (taken, (position, bytes)) in entries.iter().enumerate() {
        let record = serde_json::from_slice(bytes).context("a record in the decision log")?;
        let now = clock::now();
        if monitor.is_due(now) && !is_synced(store)? {
            return Ok(taken);
        }
        match monitor.observe(*position, &record, now) {
            Ok(()) => {}
            Err(error) if error.class() == interdict_monitor::error::Class::Transient => {
                tracing::error!(%error, "the decision log cannot be written; it is tried again");
                return Ok(taken);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(entries.len())
}

/// A failure that may pass is logged and tried again at the next tick.
fn settled(durable: Result<u64, interdict_monitor::error::MonitorError>) -> anyhow::Result<Option<u64>> {
    match durable {
        Ok(durable) => Ok(Some(durable)),
        Err(error) if error.class() == interdict_monitor::error::Class::Transient => {
            tracing::error!(%error, "the decision log cannot be written; it is tried again");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
