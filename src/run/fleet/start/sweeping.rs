//! Starting what forgets what nothing reads any more.

use std::sync::Arc;
use std::time::Duration;

use interdict_store::redis::RedisStore;
use tokio_util::sync::CancellationToken;

use super::super::super::clock;
use super::super::super::maintenance::{Sweeping, sweep};
use super::Process;

impl Process<'_> {
    /// Forgets what nothing reads any more while no other process does.
    pub(super) fn sweep(&mut self) {
        let (online, store, sweeper) = (Arc::clone(&self.online), Arc::clone(&self.store), self.claimant("sweep"));
        let (by, stop) = (Sweeping::of(self.setup, []), self.stop_rest.clone());
        self.tasks.spawn(async move {
            let swept = |held: CancellationToken| {
                let ended = forget_ended(Arc::clone(&store), by.every, held.clone());
                let swept = sweep(Arc::clone(&online), by.clone(), held);
                async move { tokio::join!(swept, ended).0 }
            };
            sweeper.while_held(&stop, swept).await
        });
    }
}

/// Removes list entries that ended, now and again and again until `stop`: no scorer holds the lists in memory, so none sees them end.
async fn forget_ended(store: Arc<RedisStore>, every: Duration, stop: CancellationToken) {
    loop {
        match store.forget_ended(clock::now()).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "removed list entries that ended"),
            Err(error) => tracing::error!(%error, "list entries that ended could not be removed; it is tried again"),
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
    }
}
