//! What several processes of one namespace share beside its data: work, leases, and who is present.
//!
//! Invariants:
//! - Work is handed to one worker at a time and stays until a commit names it as done; of two that hold the same entry,
//!   one after the other was taken for dead, one commits and the other is told [`StoreError::WorkGone`].
//! - A lease's epoch grows with every new holder. Times are those of the server's clock.
//! - A worker that waits for work waits on a connection that nobody else uses.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::link::Lane;
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;
use crate::port::{Lease, WorkId};

/// Entries handed out at once at most.
const TAKE_MAX: usize = 1000;

impl RedisStore {
    /// Takes up to `limit` entries of work: first those that another worker took longer than `abandoned_after` ago and
    /// has not finished, then new ones, oldest first. Waits up to `wait` while there is none. When the future is
    /// dropped, or its answer lost, what was handed out goes to whoever asks after `abandoned_after`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn take_work(
        &self,
        worker: &str,
        limit: usize,
        wait: Duration,
        abandoned_after: Duration,
    ) -> Result<Vec<(WorkId, Bytes)>, StoreError> {
        let limit = limit.min(TAKE_MAX).to_string();
        if limit == "0" {
            return Ok(Vec::new());
        }
        let until = Instant::now() + wait;
        let work = [self.layout.work()];
        let abandoned_ms = milliseconds(abandoned_after).to_string();
        let arguments = [worker.as_bytes(), limit.as_bytes(), abandoned_ms.as_bytes()];
        let question = scripts::WORK_TAKE.question(&work, &arguments);
        let taken = answer::only("work", self.link.ask(Lane::Write, &question).await?)?;
        let taken = entries(taken)?;
        let left = until.saturating_duration_since(Instant::now());
        if !taken.is_empty() || left.is_zero() {
            return Ok(taken);
        }
        let mut question = redis::pipe();
        let command = question.cmd("XREADGROUP").arg("GROUP").arg("workers").arg(worker).arg("COUNT").arg(limit);
        command.arg("BLOCK").arg(milliseconds(left)).arg("STREAMS").arg(&work[0]).arg(">");
        let Value::Array(streams) = answer::only("work", self.link.ask_alone(&question, left).await?)? else {
            return Ok(Vec::new());
        };
        let Some(stream) = streams.into_iter().next() else { return Ok(Vec::new()) };
        entries(answer::list("work", stream)?.pop().unwrap_or_default())
    }

    /// Entries of work that are not done, those that a worker holds included.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn work_waiting(&self) -> Result<u64, StoreError> {
        let mut question = redis::pipe();
        question.cmd("XLEN").arg(self.layout.work());
        answer::position("work", &answer::only("work", self.link.ask(Lane::Read, &question).await?)?)
    }

    /// Acquires a lease for `ttl`, or renews it; `None` while another one holds it. Its epoch goes into
    /// [`crate::port::Commit::fences`]: it fences from when another one acquired the lease or this one released it, not
    /// from when it ended.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub async fn lease(&self, name: &str, holder: Uuid, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let (holder, ttl_ms) = (holder.to_string(), milliseconds(ttl).to_string());
        let arguments = [layout::lease_field(name)?, holder.as_bytes(), ttl_ms.as_bytes()];
        let question = scripts::LEASE.question(&[self.layout.leases()], &arguments);
        let epoch = answer::bytes("lease", answer::only("lease", self.link.ask(Lane::Write, &question).await?)?)?;
        epoch.map(|epoch| Ok(Lease { epoch: layout::number("lease", &epoch)? })).transpose()
    }

    /// Gives a lease up; nothing happens when another one holds it.
    ///
    /// # Errors
    /// As [`RedisStore::lease`].
    pub async fn release(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        let holder = holder.to_string();
        let arguments = [layout::lease_field(name)?, holder.as_bytes()];
        let question = scripts::RELEASE.question(&[self.layout.leases()], &arguments);
        self.link.ask(Lane::Write, &question).await?;
        Ok(())
    }

    /// Is present as a member of a role for `ttl`; says who is, this one included, in order.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn join(&self, role: &str, member: Uuid, ttl: Duration) -> Result<Vec<Uuid>, StoreError> {
        let ttl_ms = milliseconds(ttl).to_string();
        let arguments: [&[u8]; 2] = [member.as_bytes(), ttl_ms.as_bytes()];
        let question = scripts::JOIN.question(&[self.layout.members(role)?], &arguments);
        let mut members = Vec::new();
        let answered = answer::only("members", self.link.ask(Lane::Write, &question).await?)?;
        for member in answer::list("members", answered)? {
            let member = answer::some_bytes("member", member)?;
            members.push(Uuid::from_slice(&member).map_err(|error| layout::corrupt("member", &error.to_string()))?);
        }
        members.sort();
        Ok(members)
    }

    /// Is no member any more.
    ///
    /// # Errors
    /// As [`RedisStore::join`].
    pub async fn leave(&self, role: &str, member: Uuid) -> Result<(), StoreError> {
        let mut question = redis::pipe();
        question.cmd("ZREM").arg(self.layout.members(role)?).arg(member.as_bytes());
        self.link.ask(Lane::Write, &question).await?;
        Ok(())
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

fn entries(page: Value) -> Result<Vec<(WorkId, Bytes)>, StoreError> {
    let mut entries = Vec::new();
    for entry in answer::list("work", page)? {
        let mut entry = answer::list("work", entry)?.into_iter();
        let id = layout::log_position(&answer::some_bytes("work", entry.next().unwrap_or_default())?)?;
        let mut pair = answer::list("work", entry.next().unwrap_or_default())?;
        entries.push((WorkId(id), Bytes::from(answer::some_bytes("work", pair.pop().unwrap_or_default())?)));
    }
    Ok(entries)
}
