//! What a process does while its store cannot be had: it says so, waits, and asks again.

use std::time::Duration;

use interdict_ingest::pipeline::PipelineError;
use interdict_ingest::source::stop::Stop;
use interdict_store::error::{Class, StoreError};
#[cfg(feature = "redis")]
use interdict_store::port::{Commit, Committed, Store};

/// How long to wait before what failed for a while is done again.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// What may pass, or may not.
pub(crate) trait Passing: std::error::Error + Send + Sync + 'static {
    /// Whether the same is worth doing again a moment later.
    fn is_passing(&self) -> bool;
}

impl Passing for StoreError {
    fn is_passing(&self) -> bool {
        self.class() == Class::Transient
    }
}

impl Passing for PipelineError {
    fn is_passing(&self) -> bool {
        Self::is_passing(self)
    }
}

/// Asks the store, again and again where it fails for a while; `told` is what the log says meanwhile, and what waits.
///
/// # Errors
/// What time does not mend, and that the process is to stop.
pub(crate) async fn patiently<T, E: Passing>(
    stop: &Stop,
    told: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_passing() => {
                tracing::error!(%error, "{told}");
                wait_to_retry(stop)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a commit of one among several writers, again and again where the store fails for a while; `None` when another process has written what it rests on.
///
/// # Errors
/// As [`patiently`].
#[cfg(feature = "redis")]
pub(crate) async fn commit(
    store: &impl Store,
    stop: &Stop,
    told: &str,
    commit: &Commit,
) -> anyhow::Result<Option<Committed>> {
    patiently(stop, told, async || match store.commit(commit.clone()).await {
        Err(StoreError::Conflict) => Ok(None),
        committed => committed.map(Some),
    })
    .await
}

/// Waits before what failed for a while is done again.
///
/// # Errors
/// The process is to stop.
pub(crate) fn wait_to_retry(stop: &Stop) -> anyhow::Result<()> {
    let is_told = stop.wait(RETRY);
    anyhow::ensure!(
        !is_told,
        "told to stop while the store takes nothing; what is not stored is read again after the next start"
    );
    Ok(())
}
