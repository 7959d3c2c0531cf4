//! Charge of what one process does at a time, as the store counts it: of a namespace where one process plays every role and trusts its
//! memory, or of a topic's partition that one of several ingestors reads.
//!
//! Invariants:
//! - Every commit says under which charge it is made, and is refused once another process has taken charge: what this one has in memory may
//!   be old by then.
//! - Charge is taken before anything is read that memory is to hold.
//! - So of two who take each other for dead the later one stays, whoever commits first.
//! - Charge of a namespace is odd while one process without a role has it, which each of them takes anew, and even while roles work, which they
//!   have together: whoever stood still while the namespace went over to the other way is refused.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Committed, Durability, OffsetMove, Store};

use super::core::position_of;
#[cfg(feature = "redis")]
use super::input_log;
use super::patience::patiently;

/// What the name of the position begins with that says how often charge was taken.
#[cfg(feature = "redis")]
pub(crate) const POSITIONS: &str = "charge/";
/// Its name where charge is of a namespace.
pub(super) const ENGINE: &str = "charge/engine";

/// Whether this process is in charge of what it works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charge {
    /// No other process can reach the store.
    Sole,
    /// Others may be at work, and this one has changed nothing yet.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a Redis is shared"))]
    Open,
    /// It is, since charge was taken for this number of times.
    Taken(u64),
}

impl Charge {
    /// Takes charge from whichever process has it. A store that no other process reaches needs none.
    ///
    /// # Errors
    /// As [`patiently`].
    pub(super) async fn take(self, store: &impl Store, stop: &Stop) -> anyhow::Result<Self> {
        match self {
            Self::Sole => return Ok(self),
            // It is held, or lost: nobody takes it back.
            Self::Taken(_) => {
                let told = "the store does not answer; whether this process is in charge is asked later";
                self.commit(store, stop, told, Commit::default()).await?;
                return Ok(self);
            }
            Self::Open => {}
        }
        let odd = |from: Option<u64>| from.map_or(1, |from| from + 1 + from % 2);
        let taken = up(store, stop, ENGINE, &[0], odd).await?;
        Ok(Self::Taken(taken.first().map_or(0, |named| named.to)))
    }

    /// Makes a commit that is refused once another process has taken charge, again and again where the store fails for a while.
    ///
    /// # Errors
    /// As [`patiently`], and that another process has taken charge.
    pub(super) async fn commit(
        self,
        store: &impl Store,
        stop: &Stop,
        told: &str,
        mut commit: Commit,
    ) -> anyhow::Result<Committed> {
        if let Self::Taken(number) = self {
            // The first to be looked at: what else does not fit follows from it.
            commit.offsets.insert(0, named(ENGINE, 0, number));
        }
        let committed = patiently(stop, told, async || store.commit(commit.clone()).await).await;
        committed.map_err(|error| match error.downcast_ref() {
            Some(StoreError::Fenced { source_name, .. }) if source_name == ENGINE => error.context(
                "another process has taken over what this one does, which knows the newest no more; start it again, it stands by",
            ),
            _ => error,
        })
    }
}

/// Takes charge of `partitions` of `name` from whichever processes have it: what a commit of each names from now on, in their order.
///
/// # Errors
/// As [`patiently`].
pub(super) async fn take(
    store: &impl Store,
    stop: &Stop,
    name: &str,
    partitions: &[u32],
) -> anyhow::Result<Vec<OffsetMove>> {
    up(store, stop, name, partitions, |from| from.map_or(1, |from| from + 1)).await
}

async fn up(
    store: &impl Store,
    stop: &Stop,
    name: &str,
    partitions: &[u32],
    next: impl Fn(Option<u64>) -> u64,
) -> anyhow::Result<Vec<OffsetMove>> {
    let told = "the store does not answer; charge of it is taken later";
    loop {
        let stored = patiently(stop, told, async || store.positions(name).await).await?;
        let up = |partition: &u32| {
            let from = position_of(&stored, *partition);
            OffsetMove { source: name.to_owned(), partition: *partition, from, to: next(from) }
        };
        let offsets: Vec<OffsetMove> = partitions.iter().map(up).collect();
        // What a fail-over took back, another one would take again.
        let commit = Commit { offsets: offsets.clone(), durability: Durability::Power, ..Commit::default() };
        let taken = patiently(stop, told, async || match store.commit(commit.clone()).await {
            // Another process took it at this moment.
            Err(StoreError::Fenced { .. }) => Ok(false),
            committed => committed.map(|_| true),
        });
        if taken.await? {
            return Ok(offsets.into_iter().map(|taken| named(name, taken.partition, taken.to)).collect());
        }
    }
}

/// What every commit of a process with a role names: that the namespace is worked on by roles, as it is from now on.
///
/// # Errors
/// As [`patiently`]; that a process without a role has left what only such a one applies.
#[cfg(feature = "redis")]
pub(super) async fn shared(store: &impl Store, stop: &Stop) -> anyhow::Result<OffsetMove> {
    let told = "the store does not answer; who is in charge is asked later";
    loop {
        let stored = patiently(stop, told, async || store.positions(ENGINE).await).await?;
        let from = position_of(&stored, 0);
        if let Some(number) = from.filter(|from| from % 2 == 0) {
            return Ok(named(ENGINE, 0, number));
        }
        if from.is_some() {
            patiently(stop, told, async || input_log::unapplied(store).await).await.and_then(|unapplied| {
                anyhow::ensure!(
                    unapplied == 0,
                    "{unapplied} requests and labels that a process without --role took are in no state yet: it did not end well. Start it \
                     once more without --role until it is ready (/health/ready), end it, then start the roles"
                );
                Ok(())
            })?;
        }
        // Another process may do so at this moment.
        let to = from.map_or(0, |from| from + 1);
        let offsets = vec![OffsetMove { source: ENGINE.to_owned(), partition: 0, from, to }];
        let commit = Commit { offsets, durability: Durability::Power, ..Commit::default() };
        patiently(stop, told, async || match store.commit(commit.clone()).await {
            Err(StoreError::Fenced { .. }) => Ok(()),
            committed => committed.map(drop),
        })
        .await?;
    }
}

/// What a commit names that is made under the charge that was taken for the `number`th time.
fn named(name: &str, partition: u32, number: u64) -> OffsetMove {
    OffsetMove { source: name.to_owned(), partition, from: Some(number), to: number }
}
