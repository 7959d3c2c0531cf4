//! Topics among roles: one process at a time works a sink. Who reads which partition is told in [`super::sharing`].
//!
//! Invariants:
//! - A lease only saves work that is done twice in vain: a sink's position is fenced by the store, and a record that is produced twice has
//!   the same `decision_id` and `log_position`.
//! - The monitor trims the log of decisions by where the sinks stand in the store, which never goes back.

use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use tokio_util::sync::CancellationToken;

use super::super::sinks::{End, Feeder, Produce, Until};
use super::lease::Claimant;

/// How often the monitor looks where sinks stand.
const LOOK: Duration = Duration::from_secs(1);

/// Works a sink while no other process does, until `stop`.
pub(super) async fn produce(feeder: Feeder, claimant: Claimant, stop: CancellationToken) -> anyhow::Result<()> {
    let work = |held: CancellationToken| {
        let (feeder, until) = (feeder.clone(), Until { stop: stop.clone(), lost: held });
        async move {
            let thread = match feeder.start(until).await {
                Err(error) if is_transient(&error) => {
                    tracing::warn!(
                        error = crate::told::told(&error),
                        "where a sink stands is not to be had; it is asked again"
                    );
                    return Ok(());
                }
                started => started?,
            };
            let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
            let end = ended.unwrap_or_else(|_panic| Err(anyhow::anyhow!("the thread of a sink panicked")))?;
            if end == End::Elsewhere {
                tracing::info!("another process goes on with a sink");
            }
            Ok(())
        }
    };
    claimant.while_held(&stop, work).await
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.class() == Class::Transient)
}

/// Keeps `produce` at where the sinks of all processes stand, until `stop`.
pub(super) async fn watch(produce: Produce, store: Arc<OnlineStore>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match produce.refresh(&*store).await {
            Err(error) if error.class() != Class::Transient => return Err(error.into()),
            Err(error) => tracing::debug!(%error, "where sinks stand is not to be had; it is asked again"),
            Ok(()) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}
