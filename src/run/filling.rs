//! Writing states into a store on which nobody works meanwhile.
//!
//! Invariant: whoever works on the namespace holds other states in memory or reads them between two commits of this process, so neither may
//! be at work beside the other; a commit of one that stood still while others began is refused.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
use interdict_store::port::Commit;

use crate::setup::Setup;

use super::charge::Charge;
#[cfg(feature = "redis")]
use super::fleet::{Mode, Turn};

/// What is said where others work on the namespace by now.
pub(super) const OTHERS_BEGAN: &str = "another process works on this namespace by now, and what was filled so far is in its store: stop that, and fill it again";

/// The right to fill a store.
#[derive(Debug)]
pub(crate) struct Filling {
    charge: Charge,
    #[cfg(feature = "redis")]
    kept: Option<(Turn, tokio_util::task::AbortOnDropHandle<anyhow::Result<()>>)>,
}

impl Filling {
    /// Sees that nobody works on the store, and that nobody begins until [`Self::end`].
    ///
    /// # Errors
    /// That somebody does; that the store does not answer.
    #[cfg(feature = "redis")]
    pub(crate) async fn begin(setup: &Setup, store: &OnlineStore) -> anyhow::Result<Self> {
        let Some(shared) = store.shared() else { return Ok(Self { charge: Charge::Sole, kept: None }) };
        let turn = Turn::begin(shared, Mode::Filling, setup.store.lease()).await?;
        let keeping = tokio::spawn(turn.clone().keep(tokio_util::sync::CancellationToken::new()));
        let charge = Charge::Open(turn.clone()).take(store, &Stop::default()).await?;
        Ok(Self { charge, kept: Some((turn, tokio_util::task::AbortOnDropHandle::new(keeping))) })
    }

    /// As with a store that others reach.
    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_async, reason = "only a Redis is shared")]
    pub(crate) async fn begin(_setup: &Setup, _store: &OnlineStore) -> anyhow::Result<Self> {
        Ok(Self { charge: Charge::Sole })
    }

    /// Makes a commit; waits where the store fails for a while.
    ///
    /// # Errors
    /// That others have begun to work on the store; those of the store that do not pass.
    pub(crate) async fn commit(&self, store: &OnlineStore, commit: Commit) -> anyhow::Result<()> {
        let told = "the store does not take a commit; filling it waits";
        let committed = self.charge.commit(store, &Stop::default(), told, commit).await;
        committed.map(drop).map_err(|error| match error.downcast_ref() {
            Some(StoreError::Fenced { .. }) => error.context(OTHERS_BEGAN),
            _ => error,
        })
    }

    /// Lets others begin.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, reason = "only a Redis is shared"))]
    pub(crate) async fn end(self) {
        #[cfg(feature = "redis")]
        if let Some((turn, keeping)) = self.kept {
            drop(keeping);
            turn.end().await;
        }
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
    use tempfile::TempDir;

    use super::super::charge;
    use super::*;

    #[tokio::test]
    async fn whoever_fills_a_store_on_which_others_began_is_refused_and_told() {
        let folder = TempDir::new().unwrap();
        let store = OnlineStore::embedded(EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap());
        let stop = Stop::default();
        let taken = charge::alone(&store, &stop, async |_| Ok(1)).await.unwrap();
        let filling = Filling { charge: Charge::Taken(taken), kept: None };
        filling.commit(&store, Commit::default()).await.unwrap();
        charge::of_roles(&store, &stop, async |_| Ok(2)).await.unwrap();
        let refused = crate::told::told(&filling.commit(&store, Commit::default()).await.unwrap_err());
        assert!(refused.contains("what was filled so far is in its store: stop that, and fill it again"), "{refused}");
        filling.end().await;
    }
}
