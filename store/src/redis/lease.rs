//! Leases: what one process at a time does, for as long as it renews.
//!
//! Time is the server's. A lease is a hint and no lock: a process that stood still may act on one that it has lost, so what must not
//! happen twice is fenced by what a commit expects.

use std::time::Duration;

use uuid::Uuid;

use super::link::Lane;
use super::{RedisStore, answer, scripts};
use crate::error::StoreError;

/// A lease that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Grows with every new holder and never goes back.
    pub epoch: u64,
}

impl RedisStore {
    /// Acquires the lease `name` for `holder`, or renews it; it ends `time_to_live` from now. `None`: another one holds it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lease(&self, name: &str, holder: Uuid, time_to_live: Duration) -> Result<Option<Lease>, StoreError> {
        let millis = time_to_live.as_millis().max(1).to_string();
        let epoch = self.ask_lease(name, holder, &millis).await?;
        Ok((epoch > 0).then_some(Lease { epoch }))
    }

    /// Gives the lease `name` back if `holder` holds it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn release(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        self.ask_lease(name, holder, "0").await.map(drop)
    }

    async fn ask_lease(&self, name: &str, holder: Uuid, millis: &str) -> Result<u64, StoreError> {
        let arguments = [name.as_bytes(), holder.as_bytes(), millis.as_bytes()];
        let question = scripts::LEASE.question(&self.layout, &[self.layout.leases()], &arguments);
        let answered = answer::only("lease", self.link.ask(Lane::Write, &question).await?)?;
        answer::position("lease", &answered)
    }
}
