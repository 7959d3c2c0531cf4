//! The store of a deployment: whichever adapter its configuration names.

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use uuid::Uuid;

use crate::embedded::EmbeddedStore;
use crate::error::StoreError;
use crate::port::{
    Commit, Committed, Fetched, Intent, ListEntry, LogName, Offset, Query, Registered, RegistryEntry, Store,
    StoredDecision,
};
#[cfg(feature = "redis")]
use crate::redis::RedisStore;

/// One of the adapters.
#[derive(Debug)]
pub enum OnlineStore {
    /// In a folder of this machine.
    Embedded(Box<EmbeddedStore>),
    /// In a Redis.
    #[cfg(feature = "redis")]
    Redis(std::sync::Arc<RedisStore>),
}

/// The same call on whichever adapter it is.
macro_rules! on {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            OnlineStore::Embedded($store) => $call.await,
            #[cfg(feature = "redis")]
            OnlineStore::Redis($store) => $call.await,
        }
    };
}

impl Store for OnlineStore {
    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        on!(self, store => store.fetch(query))
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        on!(self, store => store.commit(commit))
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

    async fn outbox(&self, limit: usize) -> Result<Vec<Intent>, StoreError> {
        on!(self, store => store.outbox(limit))
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
