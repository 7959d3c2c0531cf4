//! Leases: what one process at a time does, for as long as it renews.
//!
//! Time is the server's. A lease is a hint and no lock: a process that stood still may act on one that it has lost, so what must not
//! happen twice is fenced by what a commit expects.

use std::time::Duration;

use uuid::Uuid;

use super::link::Lane;
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;

/// The shortest lease that the server's clock tells from none.
const LEAST: Duration = Duration::from_millis(1);

/// A lease that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Grows with every new holder, also over a fail-over that lost the one before, as far as the servers' clocks agree.
    pub epoch: u64,
}

/// A lease and who holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldLease {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub holder: Uuid,
}

impl RedisStore {
    /// Acquires the lease `name` for `holder`, or renews it; it ends `time_to_live` from now. `None`: another one holds it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lease(&self, name: &str, holder: Uuid, time_to_live: Duration) -> Result<Option<Lease>, StoreError> {
        self.lease_from(name, holder, time_to_live, 0).await
    }

    /// As [`Self::lease`] for several of one holder, at one instant; in the order asked.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lease_all(
        &self,
        names: &[String],
        holder: Uuid,
        time_to_live: Duration,
    ) -> Result<Vec<Option<Lease>>, StoreError> {
        let epochs = self.ask_leases(names, holder, time_to_live.max(LEAST), 0).await?;
        Ok(epochs.into_iter().map(|epoch| (epoch > 0).then_some(Lease { epoch })).collect())
    }

    /// As [`Self::lease`], with an epoch that is `seen` or greater; greater for every holder but the one it was given to. For who has seen an
    /// epoch that the server may have lost in a fail-over.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lease_from(
        &self,
        name: &str,
        holder: Uuid,
        time_to_live: Duration,
        seen: u64,
    ) -> Result<Option<Lease>, StoreError> {
        let epochs = self.ask_leases(&[name.to_owned()], holder, time_to_live.max(LEAST), seen).await?;
        let epoch = epochs.into_iter().next().ok_or_else(|| answer::odd("lease"))?;
        Ok((epoch > 0).then_some(Lease { epoch }))
    }

    /// Gives leases back, those that `holder` holds.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn release(&self, names: &[String], holder: Uuid) -> Result<(), StoreError> {
        self.ask_leases(names, holder, Duration::ZERO, 0).await.map(drop)
    }

    /// The leases whose names begin with `prefix` and that are held, in order of name. Those among them that begin with `passing`, where
    /// one is given, and that nobody holds any more are forgotten, epochs and all: names that come and go would fill the server's memory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn leases(&self, prefix: &str, passing: Option<&str>) -> Result<Vec<HeldLease>, StoreError> {
        let arguments = [prefix.as_bytes(), passing.unwrap_or_default().as_bytes()];
        let question = scripts::LEASES.question(&self.layout, &[self.layout.leases()], &arguments);
        let answered = answer::only("leases", self.link.ask(Lane::Write, &question).await?)?;
        let mut words = answer::list("leases", answered)?.into_iter();
        let mut leases = Vec::with_capacity(words.len() / 2);
        while let (Some(name), Some(holder)) = (words.next(), words.next()) {
            let name = layout::text("lease", answer::some_bytes("lease", name)?)?;
            let holder = answer::some_bytes("lease", holder)?;
            let holder = Uuid::from_slice(&holder).map_err(|_odd| answer::odd("lease"))?;
            leases.push(HeldLease { name, holder });
        }
        leases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(leases)
    }

    async fn ask_leases(
        &self,
        names: &[String],
        holder: Uuid,
        time_to_live: Duration,
        seen: u64,
    ) -> Result<Vec<u64>, StoreError> {
        let (millis, seen) = (time_to_live.as_millis().to_string(), seen.to_string());
        let mut arguments = vec![holder.as_bytes().as_slice(), millis.as_bytes(), seen.as_bytes()];
        arguments.extend(names.iter().map(String::as_bytes));
        let question = scripts::LEASE.question(&self.layout, &[self.layout.leases()], &arguments);
        let answered = answer::only("lease", self.link.ask(Lane::Write, &question).await?)?;
        let epochs = answer::list("lease", answered)?;
        epochs.iter().map(|epoch| answer::position("lease", epoch)).collect()
    }
}
