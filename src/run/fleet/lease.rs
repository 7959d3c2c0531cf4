//! Leases: what one process of a fleet does at a time.
//!
//! Invariant: nothing rests on a lease but that work is not done twice in vain; what must not happen twice is fenced by the store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::Class;
use interdict_store::redis::RedisStore;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A lease and who wants it.
#[derive(Clone, Debug)]
pub(super) struct Claimant {
    pub(super) store: Arc<RedisStore>,
    pub(super) name: String,
    pub(super) holder: Uuid,
    /// How long the lease outlives its last renewal.
    pub(super) time_to_live: Duration,
}

/// Who holds a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Held,
    Another,
    /// The store does not say.
    Unknown,
}

impl Claimant {
    /// The same for another lease.
    pub(super) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// How often it is renewed, and asked for by those who wait.
    pub(super) fn step(&self) -> Duration {
        self.time_to_live / 4
    }

    /// Asks for the lease, or renews it.
    async fn ask(&self) -> anyhow::Result<Standing> {
        let asked = self.ask_all(std::slice::from_ref(&self.name)).await?;
        Ok(match asked.as_deref() {
            Some([true]) => Standing::Held,
            Some(_) => Standing::Another,
            None => Standing::Unknown,
        })
    }

    /// Asks for several leases in place of the one named, or renews them: which of them are held; `None` where the store does not say.
    pub(super) async fn ask_all(&self, names: &[String]) -> anyhow::Result<Option<Vec<bool>>> {
        match self.store.lease_all(names, self.holder, self.time_to_live).await {
            Ok(leases) => Ok(Some(leases.iter().map(Option::is_some).collect())),
            Err(error) if error.class() == Class::Transient => {
                let lease = names.first();
                tracing::warn!(%error, lease, "a lease cannot be asked for; it is tried again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives leases back; where the store does not answer they end by themselves.
    pub(super) async fn release(&self, names: &[String]) {
        if let Err(error) = self.store.release(names, self.holder).await {
            tracing::debug!(%error, lease = names.first(), "the lease ends by itself");
        }
    }

    /// Waits until the lease is held; false when `stop` came first.
    pub(super) async fn acquire(&self, stop: &CancellationToken) -> anyhow::Result<bool> {
        let mut told = false;
        loop {
            match self.ask().await? {
                Standing::Held => return Ok(true),
                Standing::Another if !std::mem::replace(&mut told, true) => {
                    tracing::info!(lease = self.name, "another process does this; standing by");
                }
                Standing::Another | Standing::Unknown => {}
            }
            tokio::select! {
                () = tokio::time::sleep(self.step()) => {}
                () = stop.cancelled() => return Ok(false),
            }
        }
    }

    /// Keeps a held lease until `stop`, and gives it back then; false when it was lost before.
    pub(super) async fn keep(&self, stop: &CancellationToken) -> anyhow::Result<bool> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.step()) => {}
                () = stop.cancelled() => {
                    self.release(std::slice::from_ref(&self.name)).await;
                    return Ok(true);
                }
            }
            // While nobody answers nobody else gets it either; what is done meanwhile is fenced by the store.
            if self.ask().await? == Standing::Another {
                tracing::warn!(lease = self.name, "the lease is lost");
                return Ok(false);
            }
        }
    }

    /// Does `work`, which blocks this thread, while the lease is held; `None` when `stop` came first.
    pub(super) fn in_turn<T>(
        &self,
        runtime: &Handle,
        stop: &CancellationToken,
        work: impl FnOnce() -> T,
    ) -> anyhow::Result<Option<T>> {
        if !runtime.block_on(self.acquire(stop))? {
            return Ok(None);
        }
        let done = CancellationToken::new();
        let (claimant, kept_until) = (self.clone(), done.clone());
        let keeping = runtime.spawn(async move { claimant.keep(&kept_until).await });
        let worked = work();
        done.cancel();
        runtime.block_on(keeping)??;
        Ok(Some(worked))
    }

    /// Does `work` while the lease is held, again whenever it is got back, until `stop`.
    pub(super) async fn while_held<F: Future<Output = anyhow::Result<()>>>(
        &self,
        stop: &CancellationToken,
        mut work: impl FnMut(CancellationToken) -> F,
    ) -> anyhow::Result<()> {
        while self.acquire(stop).await? {
            let held = stop.child_token();
            // Released only after the work has ended.
            let keeping = CancellationToken::new();
            let working = async {
                let ended = work(held.clone()).await;
                keeping.cancel();
                ended
            };
            let kept = async {
                let kept = self.keep(&keeping).await;
                held.cancel();
                kept
            };
            let (ended, kept) = tokio::join!(working, kept);
            ended?;
            kept?;
            if stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }
}
