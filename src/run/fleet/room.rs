//! The bound on list entries among scorers: none of them holds the lists in memory, so the store is asked how many there are.
//!
//! Invariants:
//! - A scorer that finds them full judges nothing that is not decided yet, since it could block somebody: work waits, requests and new entries
//!   of people are turned away, and entries can be removed.
//! - It looks after every commit of its own that brought entries, and once a second for those of others: above the bound come no more than
//!   what others bring within a second, and a batch of its own.

use std::sync::Arc;

use interdict_scorer::lists::ListsFull;
use interdict_store::error::StoreError;
use interdict_store::redis::RedisStore;

use super::super::stats::Stats;

/// How much room the lists have.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) store: Arc<RedisStore>,
    pub(super) stats: Arc<Stats>,
    /// `[scorer] list_entries_max`.
    pub(super) full: ListsFull,
}

impl Room {
    /// Asks the store and shows it; whether the lists are full.
    ///
    /// # Errors
    /// As [`RedisStore::list_entries`].
    pub(super) async fn look(&self) -> Result<bool, StoreError> {
        let entries = usize::try_from(self.store.list_entries().await?).unwrap_or(usize::MAX);
        let was_full = self.is_full();
        self.stats.list_entries(entries, self.full);
        let is_full = self.is_full();
        if is_full && !was_full {
            tracing::error!(error = %self.full, "the lists are full; intake waits");
        } else if was_full && !is_full {
            tracing::info!(entries, "the lists have room again; intake goes on");
        }
        Ok(is_full)
    }

    /// As [`Self::look`], of which the next look knows more where the store does not answer.
    pub(super) async fn glance(&self) -> bool {
        match self.look().await {
            Ok(is_full) => is_full,
            Err(error) => {
                tracing::debug!(%error, "how many list entries there are is not to be had; it is asked again");
                self.is_full()
            }
        }
    }

    /// Whether they were full at the last look.
    pub(super) fn is_full(&self) -> bool {
        self.stats.has_full_lists()
    }
}
