//! Taking over: what another process stored while this one stood by for a source.
//!
//! Invariants:
//! - Before a source's first record is applied, memory holds nothing that the store may hold newer: neither states nor the lists, nor the
//!   end of the input log.
//! - Where other processes reach the store nothing is applied or decided before charge of it is taken, and charge goes with the slot of a
//!   database where there is one: other sources wait for it, and callers are turned away.

use interdict_scorer::lists::Lists;
use interdict_store::port::{Commit, Store};

use super::core::Core;
use super::patience::patiently;

/// What the log says while charge was taken and the store does not answer.
const TOLD: &str = "the store does not answer; what it holds is taken up later";

impl<S: Store> Core<S> {
    /// Brings memory to what the store holds. A source may have been waited for as long as another process held it, and whoever that
    /// process blocked must not get through here.
    pub(super) async fn catch_up(&mut self) -> anyhow::Result<()> {
        self.store_all().await?;
        let before = self.charge.clone();
        self.charge = before.take(&*self.store, &self.stop).await?;
        if before.is_open() {
            let waiting = patiently(&self.stop, TOLD, async || self.store.work_waiting().await).await?;
            ensure_none_waits(waiting)?;
            // What was noted of the sources at the start is as old as the lists.
            for source in self.pipeline.sources() {
                let stored = patiently(&self.stop, TOLD, async || self.store.positions(&source).await).await?;
                self.pipeline.take_up(&source, &stored);
            }
        }
        self.pipeline.forget();
        self.replay_input().await?;
        let entries = patiently(&self.stop, TOLD, async || self.store.lists().await).await?;
        self.judging.lists = Lists::new(self.judging.lists.full().capacity, entries);
        self.reached.take_charge();
        if before.is_open() {
            // What the process before this one left is carried out from here on.
            self.outbox.notify_one();
        }
        Ok(())
    }

    /// Stores everything that was applied.
    pub(super) async fn store_all(&mut self) -> anyhow::Result<()> {
        self.checkpoint().await?;
        // A change that altered nothing may have touched a row record all the same.
        let mut rest = Commit::default();
        self.pipeline.fill(&mut rest);
        if rest != Commit::default() {
            self.commit(rest).await?;
        }
        self.pipeline.stored();
        Ok(())
    }
}

/// Sees that ingestors have left no work, which nobody but scorers would judge: its events lie behind the offsets. Under charge none is left
/// any more.
///
/// # Errors
/// That some waits, and what to do.
#[cfg(feature = "redis")]
pub(super) async fn ensure_judged(store: &impl Store) -> anyhow::Result<()> {
    ensure_none_waits(store.work_waiting().await?)
}

fn ensure_none_waits(waiting: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        waiting == 0,
        "{waiting} events that processes with --role took wait for a scorer: run `interdict run --role scorer` until \
         interdict_scorer_work_waiting is 0, then start without --role"
    );
    Ok(())
}
