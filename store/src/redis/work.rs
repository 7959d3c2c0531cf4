//! The queue of work: left by commits, taken by whoever asks first, finished by commits.
//!
//! Invariants:
//! - A piece stays until a commit names it as done, whoever has taken it: one that died leaves it to others.
//! - Taking waits on a connection of its own, so nothing else waits behind it.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::failure::DatabaseError;
use super::link::Lane;
use super::{RedisStore, answer, layout};
use crate::error::StoreError;
use crate::port::WorkId;

/// Those who take work.
const GROUP: &str = "scorers";

impl RedisStore {
    /// Takes up to `limit` pieces of work for `worker`: first those that another worker took and did not finish within `abandoned_after`,
    /// then the oldest that nobody took. Where there is none, waits up to `wait` (at most half of the time for an answer) for the next one.
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
        let taken = self.ask_work(worker, limit, wait, abandoned_after).await;
        if taken.as_ref().is_err_and(DatabaseError::lacks_group) {
            self.make_group().await?;
            return Ok(Vec::new());
        }
        let (claimed, next) = taken?;
        let mut work = Vec::new();
        let claimed = answer::list("abandoned work", claimed)?.into_iter().nth(1);
        read_entries(claimed.unwrap_or_default(), &mut work)?;
        // One stream was asked for: its name and its entries, or nothing.
        for stream in answer::list("work", next)? {
            read_entries(answer::list("work", stream)?.pop().unwrap_or_default(), &mut work)?;
        }
        Ok(work)
    }

    /// Pieces of work in the queue, taken ones included.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn work_waiting(&self) -> Result<u64, StoreError> {
        let mut question = redis::pipe();
        question.cmd("XLEN").arg(self.layout.work());
        let answered = answer::only("work", self.link.ask(Lane::Read, &question).await?)?;
        answer::position("work", &answered)
    }

    async fn ask_work(
        &self,
        worker: &str,
        limit: usize,
        wait: Duration,
        abandoned_after: Duration,
    ) -> Result<(Value, Value), DatabaseError> {
        let key = self.layout.work();
        let idle = u64::try_from(abandoned_after.as_millis()).unwrap_or(u64::MAX);
        let mut question = redis::pipe();
        question.cmd("XAUTOCLAIM").arg(&key).arg(GROUP).arg(worker).arg(idle).arg("0-0").arg("COUNT").arg(limit);
        let claimed = self.link.ask(Lane::Wait, &question).await?.pop().unwrap_or_default();
        if has_entries(&claimed) {
            return Ok((claimed, Value::Nil));
        }
        // For the server 0 is for ever.
        let wait = wait.min(self.link.config().response_timeout / 2).as_millis().max(1);
        let mut question = redis::pipe();
        question.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg(worker).arg("COUNT").arg(limit);
        question.arg("BLOCK").arg(u64::try_from(wait).unwrap_or(1)).arg("STREAMS").arg(&key).arg(">");
        let next = self.link.ask(Lane::Wait, &question).await?.pop().unwrap_or_default();
        Ok((claimed, next))
    }

    async fn make_group(&self) -> Result<(), StoreError> {
        let mut question = redis::pipe();
        question.cmd("XGROUP").arg("CREATE").arg(self.layout.work()).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.link.ask(Lane::Write, &question).await {
            // Another process made it meanwhile.
            Err(error) if error.has_group() => Ok(()),
            made => made.map(drop).map_err(Into::into),
        }
    }
}

/// Whether an answer to XAUTOCLAIM brought anything.
fn has_entries(claimed: &Value) -> bool {
    let Value::Array(parts) = claimed else { return false };
    matches!(parts.get(1), Some(Value::Array(entries)) if !entries.is_empty())
}

/// Adds entries of the stream: id and one field each. One that was finished meanwhile has no fields any more.
fn read_entries(entries: Value, work: &mut Vec<(WorkId, Bytes)>) -> Result<(), StoreError> {
    for entry in answer::list("work", entries)? {
        let mut parts = answer::list("piece of work", entry)?.into_iter();
        let (Some(id), Some(fields)) = (parts.next(), parts.next()) else { continue };
        let id = layout::text("piece of work", answer::some_bytes("piece of work", id)?)?;
        let Some(piece) = answer::list("piece of work", fields)?.pop() else { continue };
        work.push((WorkId(id), Bytes::from(answer::some_bytes("piece of work", piece)?)));
    }
    Ok(())
}
