//! The store of a deployment: whichever adapter its configuration names.

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use uuid::Uuid;

use crate::embedded::EmbeddedStore;
use crate::error::StoreError;
use crate::metrics::{Call, StoreMetrics};
use crate::port::{
    Commit, Committed, Fetched, Intent, ListEntry, LogName, Offset, OutboxPlace, Query, Registered, RegistryEntry,
    Replicated, Store, StoredDecision,
};
#[cfg(feature = "redis")]
use crate::redis::RedisStore;

/// One of the adapters, and what is measured of its calls.
#[derive(Debug)]
pub struct OnlineStore {
    adapter: Adapter,
    metrics: StoreMetrics,
}

#[derive(Debug)]
enum Adapter {
    Embedded(Box<EmbeddedStore>),
    #[cfg(feature = "redis")]
    Redis(std::sync::Arc<RedisStore>),
}

impl OnlineStore {
    /// A store in a folder of this machine.
    #[must_use]
    pub fn embedded(store: EmbeddedStore) -> Self {
        Self { adapter: Adapter::Embedded(Box::new(store)), metrics: StoreMetrics::default() }
    }

    /// A store in a Redis.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis(store: RedisStore) -> Self {
        Self { adapter: Adapter::Redis(std::sync::Arc::new(store)), metrics: StoreMetrics::default() }
    }

    /// The Redis that other processes may share.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn shared(&self) -> Option<&std::sync::Arc<RedisStore>> {
        match &self.adapter {
            Adapter::Embedded(_) => None,
            Adapter::Redis(store) => Some(store),
        }
    }

    /// As [`RedisStore::snapshot`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`]: one process works on an embedded store, and has no use for it.
    #[cfg(feature = "redis")]
    pub async fn snapshot(&self, query: &Query) -> Result<crate::port::Snapshot, StoreError> {
        match &self.adapter {
            Adapter::Embedded(_) => Err(alone()),
            Adapter::Redis(store) => self.metrics.measure(Call::Fetch, store.snapshot(query)).await,
        }
    }

    /// As [`RedisStore::entries`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`]: one process works on an embedded store, and has no use for it.
    #[cfg(feature = "redis")]
    pub async fn entries(&self, entity: &EntityRef) -> Result<(Vec<ListEntry>, crate::port::Listed), StoreError> {
        match &self.adapter {
            Adapter::Embedded(_) => Err(alone()),
            Adapter::Redis(store) => self.metrics.measure(Call::Fetch, store.entries(entity)).await,
        }
    }

    /// The same store, with its calls measured by `metrics`.
    #[must_use]
    pub fn measured_by(self, metrics: StoreMetrics) -> Self {
        Self { metrics, ..self }
    }
}

/// What only one of several writers has a use for.
#[cfg(feature = "redis")]
fn alone() -> StoreError {
    let why = "one process works on an embedded store".to_owned();
    StoreError::Invalid { what: "a read for one of several writers", why }
}

/// The same call on whichever adapter it is.
macro_rules! on {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.adapter {
            Adapter::Embedded($store) => $call.await,
            #[cfg(feature = "redis")]
            Adapter::Redis($store) => $call.await,
        }
    };
}

impl Store for OnlineStore {
    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        self.metrics.measure(Call::Fetch, async { on!(self, store => store.fetch(query)) }).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.metrics.measure(Call::Commit, async { on!(self, store => store.commit(commit)) }).await
    }

    async fn offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        on!(self, store => store.offsets(source, incarnation))
    }

    async fn positions(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        on!(self, store => store.positions(source))
    }

    async fn decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        on!(self, store => store.decision(id))
    }

    async fn recent_decisions(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        on!(self, store => store.recent_decisions(entity, limit))
    }

    async fn lists(&self) -> Result<Vec<ListEntry>, StoreError> {
        on!(self, store => store.lists())
    }

    async fn outbox(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        on!(self, store => store.outbox(behind, limit))
    }

    async fn work_waiting(&self) -> Result<u64, StoreError> {
        on!(self, store => store.work_waiting())
    }

    async fn replicated(&self) -> Result<Replicated, StoreError> {
        on!(self, store => store.replicated())
    }

    async fn read_log(&self, log: LogName, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        on!(self, store => store.read_log(log, position, limit))
    }

    async fn log_next(&self, log: LogName) -> Result<u64, StoreError> {
        on!(self, store => store.log_next(log))
    }

    async fn trim_log(&self, log: LogName, position: u64) -> Result<(), StoreError> {
        on!(self, store => store.trim_log(log, position))
    }

    async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        on!(self, store => store.expire(now))
    }

    async fn prune(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, StoreError> {
        on!(self, store => store.prune(entity, group, is_stale))
    }

    async fn register(&self, entry: RegistryEntry) -> Result<(), StoreError> {
        on!(self, store => store.register(entry))
    }

    async fn registry(&self) -> Result<Registered, StoreError> {
        on!(self, store => store.registry())
    }

    async fn set_alias(&self, alias: &str, version: &str) -> Result<(), StoreError> {
        on!(self, store => store.set_alias(alias, version))
    }
}
