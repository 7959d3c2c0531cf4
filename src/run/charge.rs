//! Charge of what one process does at a time, as the store counts it: of a namespace where one process plays every role and trusts its
//! memory, or of a topic's partition that one of several ingestors reads.
//!
//! Invariants:
//! - Every commit says under which charge it is made, and is refused once another process has taken charge: what this one has in memory may
//!   be old by then.
//! - Charge is taken before anything is read that memory is to hold.
//! - So of two who take each other for dead the later one stays, whoever commits first.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Committed, OffsetMove, Store};

use super::core::position_of;
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
        if self == Self::Sole {
            return Ok(self);
        }
        let taken = take(store, stop, ENGINE, &[0]).await?;
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
    let told = "the store does not answer; charge of it is taken later";
    loop {
        let stored = patiently(stop, told, async || store.positions(name).await).await?;
        let up = |partition: &u32| {
            let from = position_of(&stored, *partition);
            OffsetMove { source: name.to_owned(), partition: *partition, from, to: from.map_or(1, |from| from + 1) }
        };
        let offsets: Vec<OffsetMove> = partitions.iter().map(up).collect();
        let commit = Commit { offsets: offsets.clone(), ..Commit::default() };
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

/// What a commit names that is made while no process without a role has charge of the namespace, as things stand now.
///
/// # Errors
/// As [`patiently`].
#[cfg(feature = "redis")]
pub(super) async fn standing(store: &impl Store, stop: &Stop) -> anyhow::Result<OffsetMove> {
    let told = "the store does not answer; who is in charge is asked later";
    loop {
        let stored = patiently(stop, told, async || store.positions(ENGINE).await).await?;
        if let Some(number) = position_of(&stored, 0) {
            return Ok(named(ENGINE, 0, number));
        }
        // There is something to be fenced by from now on; another process may have seen to it at this moment.
        let offsets = vec![OffsetMove { source: ENGINE.to_owned(), partition: 0, from: None, to: 0 }];
        let commit = Commit { offsets, ..Commit::default() };
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
