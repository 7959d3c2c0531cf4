//! Charge of a store that no other process can reach, where the program knows no other one.

use interdict_ingest::source::stop::Stop;
use interdict_store::port::{Commit, Committed, Store};

use super::super::patience::patiently;

/// This process is in charge.
#[derive(Clone, Debug)]
pub(crate) enum Charge {
    /// No other process can reach the store.
    Sole,
}

impl Charge {
    /// Whether no other process can reach the store.
    pub(in super::super) const fn is_sole(&self) -> bool {
        matches!(self, Self::Sole)
    }

    /// Whether others may be at work, and this process has changed nothing yet.
    pub(in super::super) const fn is_open(&self) -> bool {
        false
    }

    /// There is nobody to take it from.
    #[expect(clippy::unused_async, reason = "from others it is asked for")]
    pub(in super::super) async fn take(&self, _store: &impl Store, _stop: &Stop) -> anyhow::Result<Self> {
        Ok(self.clone())
    }

    /// Makes a commit, again and again where the store fails for a while.
    ///
    /// # Errors
    /// As [`patiently`].
    pub(in super::super) async fn commit(
        &self,
        store: &impl Store,
        stop: &Stop,
        told: &str,
        commit: Commit,
    ) -> anyhow::Result<Committed> {
        patiently(stop, told, async || store.commit(commit.clone()).await).await
    }
}
