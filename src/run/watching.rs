//! The monitor's thread: decisions from the store's log to Parquet and the drift detector.
//!
//! Invariants:
//! - The store's log forgets a decision only once it is durable in Parquet, the store has noted that, and every sink has produced it.
//! - Parquet holds a decision only once the store holds it over a power failure: else the store would give its position to another one,
//!   which Parquet would pass over.

mod taking;
mod written;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interdict_ingest::topic::sink::What;
use interdict_monitor::alert::courier::Courier;
use interdict_monitor::drift::reference::Reference;
use interdict_monitor::monitor::{Monitor, MonitorState};
use interdict_scorer::activation::Active;
use interdict_scorer::bundle::Bundle;
use interdict_store::background;
use interdict_store::online::OnlineStore;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sinks::{Produce, Until};
use taking::{LOG_STEP, Publish, Taking};
#[cfg(feature = "redis")]
pub(crate) use written::POSITIONS;
pub(crate) use written::has_written;

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

/// Moves decisions from the store's log to Parquet and the drift detector, `until` told to stop, which writes what is left, or another
/// process is the monitor, which writes that itself.
pub(super) async fn start(
    monitor: Monitor,
    store: &Arc<OnlineStore>,
    logged: Arc<Notify>,
    shown: &Arc<Mutex<Option<MonitorState>>>,
    produce: Produce,
    until: Until,
) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<()>>> {
    let mut taking = Taking::open(monitor, Arc::clone(store)).await?;
    let runtime = Handle::current();
    let shown = Arc::clone(shown);
    let mut work = move || -> anyhow::Result<()> {
        loop {
            if until.lost.is_cancelled() {
                return Ok(());
            }
            let is_last = until.stop.is_cancelled();
            let taken = taking.take()?;
            let extent = if is_last && taken == 0 { Publish::All } else { Publish::WhenDue };
            if let Some(durable) = taking.publish(extent)? {
                taking.trim(durable.min(produce.needed(What::Decisions)))?;
            }
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(taking.state());
            if is_last && taken == 0 {
                return Ok(());
            }
            if is_last || taken == LOG_STEP {
                continue;
            }
            runtime.block_on(async {
                tokio::select! {
                    () = async { logged.notified().await; tokio::time::sleep(GATHER).await } => {}
                    () = tokio::time::sleep(TICK) => {}
                    () = until.stop.cancelled() => {}
                    () = until.lost.cancelled() => {}
                }
            });
        }
    };
    let logs_errors = move || {
        background::give_way();
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

#[cfg(test)]
mod tests;
