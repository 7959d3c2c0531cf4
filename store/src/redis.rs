//! The adapter for Redis: one server (with replicas, as needed), or one slot of a cluster, that any number of processes
//! share.
//!
//! Invariants:
//! - A commit is one script: it checks and writes without anything in between, and reaches the append-only file and
//!   replicas as one transaction. A crash, a file cut off at any byte and a fail-over leave a prefix of whole commits,
//!   in which states and offsets belong together.
//! - [`Store::fetch`] is one write to the server and one answer, whatever it asks for.
//! - A commit whose answer was lost is made again under the same token and not made twice.
//! - A database that went back behind a commit which it had answered is noticed by the next commit.
//! - Nothing here reads a clock but to bound how long it waits: what expires is said by the caller of `expire`.
//!
//! What survives is the server's affair (see [`Persistence`]): with `appendfsync always` every answered commit, with
//! `everysec` all but the last moments; with `replicas` configured a commit with [`Durability::Power`] is
//! answered when that many replicas have it.

mod answer;
mod commit;
pub mod config;
mod encode;
mod ended;
mod expiry;
pub mod failure;
mod layout;
mod lease;
mod ledger;
mod link;
mod node;
mod prune;
mod read;
mod scripts;
mod server;
#[cfg(test)]
mod tests;
mod walk;
mod work;

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use uuid::Uuid;

use crate::error::StoreError;
use crate::port::{
    Commit, Committed, Durability, Fetched, Intent, ListEntry, LogName, Offset, OutboxPlace, Query, Registered,
    RegistryEntry, Replicated, Store, StoredDecision,
};
use config::RedisConfig;
use layout::Layout;
use ledger::Ledger;
use link::{Lane, Link};
pub use server::Persistence;

/// Log entries removed by one command.
const TRIM_STEP_ENTRIES: u64 = 100_000;

/// A store in a Redis.
///
/// Its connections live on the runtime in which [`RedisStore::connect`] or a later call made them: use it from one
/// runtime that runs as long as the store.
pub struct RedisStore {
    link: Link,
    layout: Layout,
    ledger: Ledger,
    persistence: Persistence,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("namespace", &self.link.config().namespace).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects to the first server that takes writes, waiting as long as configured for one, and checks that the store
    /// can stand on it. What it keeps on disk is logged as a warning where that is little.
    ///
    /// # Errors
    /// [`StoreError::Database`]; Transient when nobody answered in time, Fatal for what a person must change.
    /// [`StoreError::Invalid`] for a namespace that is none, [`StoreError::Corrupt`] for another format.
    pub async fn connect(config: RedisConfig) -> Result<Self, StoreError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let namespace = &config.namespace;
        if namespace.is_empty() || namespace.len() > 64 || !namespace.chars().all(is_plain) {
            let why = "write 1 to 64 letters, digits, '-' and '_'".to_owned();
            return Err(StoreError::Invalid { what: "a namespace", why });
        }
        if config.servers.is_empty() {
            return Err(StoreError::Invalid { what: "a configuration", why: "it names no server".to_owned() });
        }
        let layout = Layout::new(namespace);
        let link = Link::new(config, layout.clone())?;
        let session = link.session(&mut link.patience()).await?;
        let persistence = session.facts.persistence;
        let mut question = redis::pipe();
        question.cmd("HSETNX").arg(layout.meta()).arg("format").arg(layout::FORMAT);
        question.cmd("HGET").arg(layout.meta()).arg("format");
        let format = link.ask(Lane::Write, &question).await?.pop().unwrap_or_default();
        let format = answer::some_bytes("format", format)?;
        if format != layout::FORMAT.as_bytes() {
            let format = String::from_utf8_lossy(&format).into_owned();
            let why = format!("format {format} is not {}, the one that this version reads", layout::FORMAT);
            return Err(layout::corrupt("database", &why));
        }
        Ok(Self { link, layout, ledger: Ledger::new(), persistence })
    }

    /// Makes everything committed so far survive as a commit with [`Durability::Power`] does: confirmed by the
    /// configured replicas, and on disk where the server writes it out before it answers.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn sync(&self) -> Result<(), StoreError> {
        let nothing = Commit { durability: Durability::Power, ..Commit::default() };
        self.commit_all(&nothing).await.map(drop)
    }

    /// The position that the next entry of a log will have.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn log_next(&self, log: LogName) -> Result<u64, StoreError> {
        let mut question = redis::pipe();
        question.cmd("HGET").arg(self.layout.meta()).arg(layout::next_field(log));
        let answered = answer::only("log position", self.link.ask(Lane::Read, &question).await?)?;
        let stored = answer::bytes("log position", answered)?;
        stored.map_or(Ok(0), |stored| layout::number("log position", &stored))
    }

    /// What the server kept on disk when the store was opened.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }
}

impl Store for RedisStore {
    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        self.fetch_all(query).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.commit_all(&commit).await
    }

    async fn offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        self.bound_offsets(source, incarnation).await
    }

    async fn positions(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        Self::positions(self, source).await
    }

    async fn decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        self.stored_decision(id).await
    }

    async fn recent_decisions(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        self.newest_decisions(entity, limit).await
    }

    async fn lists(&self) -> Result<Vec<ListEntry>, StoreError> {
        self.all_lists().await
    }

    async fn outbox(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        self.unfinished(behind, limit).await
    }

    async fn work_waiting(&self) -> Result<u64, StoreError> {
        Self::work_waiting(self).await
    }

    async fn replicated(&self) -> Result<Replicated, StoreError> {
        if self.link.config().replicas == 0 {
            return Ok(Replicated::Nobody);
        }
        self.sync().await.map(|()| Replicated::Confirmed)
    }

    async fn read_log(&self, log: LogName, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.log_entries(log, position, limit).await
    }

    async fn log_next(&self, log: LogName) -> Result<u64, StoreError> {
        Self::log_next(self, log).await
    }

    async fn trim_log(&self, log: LogName, position: u64) -> Result<(), StoreError> {
        let key = self.layout.log(log);
        loop {
            let mut question = redis::pipe();
            question.cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(1);
            let answered = answer::only("log", self.link.ask(Lane::Read, &question).await?)?;
            let Some(first) = answer::list("log", answered)?.into_iter().next() else { return Ok(()) };
            let id = answer::list("log entry", first)?.into_iter().next().unwrap_or_default();
            let first = layout::log_position(&answer::some_bytes("log entry", id)?)?;
            if first >= position {
                return Ok(());
            }
            let end = position.min(first.saturating_add(TRIM_STEP_ENTRIES));
            let mut question = redis::pipe();
            question.cmd("XTRIM").arg(&key).arg("MINID").arg("=").arg(layout::log_id(end));
            self.link.ask(Lane::Write, &question).await?;
        }
    }

    async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.sweep(now).await
    }

    async fn prune(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, StoreError> {
        self.prune_group(entity, group, is_stale).await
    }

    async fn register(&self, entry: RegistryEntry) -> Result<(), StoreError> {
        let field = layout::bundle_field(&entry.name, &entry.version)?;
        let json = layout::to_json("registry entry", &entry)?;
        let arguments = [field.as_slice(), &json, entry.hash.as_bytes()];
        let question = scripts::REGISTER.question(&self.layout, &[self.layout.bundles()], &arguments);
        let answered = answer::only("registry entry", self.link.ask(Lane::Write, &question).await?)?;
        let Some(stored) = answer::bytes("registry entry", answered)? else { return Ok(()) };
        let stored: RegistryEntry = layout::from_json("registry entry", &stored)?;
        let RegistryEntry { name, version, hash, .. } = entry;
        Err(StoreError::BundleTaken { name, version, stored: stored.hash, given: hash })
    }

    async fn registry(&self) -> Result<Registered, StoreError> {
        self.registered().await
    }

    async fn set_alias(&self, alias: &str, version: &str) -> Result<(), StoreError> {
        let Some((model, _)) = alias.split_once('@') else {
            let why = "it is not of the form model@name".to_owned();
            return Err(StoreError::Invalid { what: "an alias", why });
        };
        layout::bounded_alias(alias)?;
        let field = layout::bundle_field(model, version)?;
        let keys = [self.layout.bundles(), self.layout.aliases()];
        let question = scripts::ALIAS.question(&self.layout, &keys, &[&field, alias.as_bytes(), version.as_bytes()]);
        let answered = answer::only("alias", self.link.ask(Lane::Write, &question).await?)?;
        if answer::number("alias", &answered)? == 0 {
            let (name, version) = (model.to_owned(), version.to_owned());
            return Err(StoreError::BundleUnknown { name, version, alias: alias.to_owned() });
        }
        Ok(())
    }
}
