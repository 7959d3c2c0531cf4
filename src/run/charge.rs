//! Charge of what one process does at a time, as the store counts it: of a namespace where one process plays every role and trusts its
//! memory, or of a topic's partition that one of several ingestors reads.
//!
//! Invariants:
//! - Every commit that makes or judges state says under which charge it is made, and is refused once another process has taken charge: what
//!   this one has in memory may be old by then.
//! - Charge is taken before anything is read that memory is to hold.
//! - So of two who take each other for dead the later one stays, whoever commits first.
//! - Charge of a namespace is odd while one process without a role has it, which each of them takes anew, and even while roles work, which they
//!   have together: whoever stood still while the namespace went over to the other way is refused.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Committed, Durability, Offset, OffsetMove, Store};

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
    /// Others may be at work, and this one has changed nothing yet. `seen` is how often charge was taken as it began.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a Redis is shared"))]
    Open { seen: Option<u64> },
    /// It is, since charge was taken for this number of times.
    Taken(u64),
}

impl Charge {
    /// That of a process without a role that others may stand beside.
    ///
    /// # Errors
    /// As [`Store::positions`].
    #[cfg(feature = "redis")]
    pub(super) async fn begin(store: &impl Store) -> Result<Self, StoreError> {
        Ok(Self::Open { seen: position_of(&store.positions(ENGINE).await?, 0) })
    }

    /// Whether others may be at work, and this process has changed nothing yet.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Takes charge from whichever process without a role has it. A store that no other process reaches needs none.
    ///
    /// # Errors
    /// As [`patiently`], and that processes with roles have it since this one began.
    pub(super) async fn take(self, store: &impl Store, stop: &Stop) -> anyhow::Result<Self> {
        let seen = match self {
            Self::Sole => return Ok(self),
            // It is held, or lost: nobody takes it back.
            Self::Taken(_) => {
                let told = "the store does not answer; whether this process is in charge is asked later";
                self.commit(store, stop, told, Commit::default()).await?;
                return Ok(self);
            }
            Self::Open { seen } => seen,
        };
        loop {
            let from = position_of(&positions(store, stop, ENGINE).await?, 0);
            anyhow::ensure!(from == seen || !from.is_some_and(is_shared), ROLES_TOOK_OVER);
            let to = from.map_or(1, |from| from + 1 + from % 2);
            if moved(store, stop, vec![move_of(from, to)]).await? {
                return Ok(Self::Taken(to));
            }
        }
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
            commit.offsets.insert(0, move_of(Some(number), number));
        }
        let committed = patiently(stop, told, async || store.commit(commit.clone()).await).await;
        committed.map_err(|error| match error.downcast_ref() {
            Some(StoreError::Fenced { source_name, stored, .. }) if source_name == ENGINE => {
                let by_roles = stored.is_some_and(is_shared);
                error.context(if by_roles { ROLES_TOOK_OVER } else { ANOTHER_TOOK_OVER })
            }
            _ => error,
        })
    }
}

const ANOTHER_TOOK_OVER: &str =
    "another process has taken over what this one does, which knows the newest no more; start it again, it stands by";
const ROLES_TOOK_OVER: &str =
    "processes with --role have taken this namespace over since this one began: stop them, or this one";

/// Whether roles have charge of a namespace that was taken so often.
pub(super) const fn is_shared(number: u64) -> bool {
    number.is_multiple_of(2)
}

fn move_of(from: Option<u64>, to: u64) -> OffsetMove {
    OffsetMove { source: ENGINE.to_owned(), partition: 0, from, to }
}

async fn positions(store: &impl Store, stop: &Stop, name: &str) -> anyhow::Result<Vec<Offset>> {
    let told = "the store does not answer; who is in charge is asked later";
    patiently(stop, told, async || store.positions(name).await).await
}

/// Moves numbers of charge; false where another process moved one at the same time.
async fn moved(store: &impl Store, stop: &Stop, offsets: Vec<OffsetMove>) -> anyhow::Result<bool> {
    // What a fail-over took back, another one would take again.
    let commit = Commit { offsets, durability: Durability::Power, ..Commit::default() };
    let told = "the store, or a replica of it, does not answer; charge is taken later";
    let moved = patiently(stop, told, async || match store.commit(commit.clone()).await {
        Err(StoreError::Fenced { .. }) => Ok(false),
        committed => committed.map(|_| true),
    });
    moved.await
}

/// Takes charge of `partitions` of `name` from whichever processes have it: what a commit of each names from now on, in their order.
///
/// # Errors
/// As [`patiently`].
#[cfg(feature = "redis")]
pub(super) async fn take(
    store: &impl Store,
    stop: &Stop,
    name: &str,
    partitions: &[u32],
) -> anyhow::Result<Vec<OffsetMove>> {
    loop {
        let stored = positions(store, stop, name).await?;
        let up = |partition: &u32| {
            let from = position_of(&stored, *partition);
            OffsetMove { source: name.to_owned(), partition: *partition, from, to: from.map_or(1, |from| from + 1) }
        };
        let taken: Vec<OffsetMove> = partitions.iter().map(up).collect();
        if moved(store, stop, taken.clone()).await? {
            return Ok(taken.into_iter().map(|taken| OffsetMove { from: Some(taken.to), ..taken }).collect());
        }
    }
}

/// What every commit of a process with a role names: that the namespace is worked on by roles, as it is from now on.
///
/// # Errors
/// As [`patiently`]; that a process without a role has left what only such a one applies.
#[cfg(feature = "redis")]
pub(super) async fn shared(store: &impl Store, stop: &Stop) -> anyhow::Result<OffsetMove> {
    loop {
        match position_of(&positions(store, stop, ENGINE).await?, 0) {
            Some(number) if is_shared(number) => return Ok(move_of(Some(number), number)),
            Some(alone) => {
                // Whoever had it stores nothing any more from here on: what it has left is all there is.
                let own = alone + 2;
                if moved(store, stop, vec![move_of(Some(alone), own)]).await? {
                    let told = "the store does not answer; what was left is asked later";
                    let has_left = patiently(stop, told, async || input_log::has_unapplied(store).await).await?;
                    anyhow::ensure!(!has_left, LEFT);
                    moved(store, stop, vec![move_of(Some(own), own + 1)]).await?;
                }
            }
            // Nobody has had it. Another process may see to it at this moment.
            None => drop(moved(store, stop, vec![move_of(None, 0)]).await?),
        }
    }
}

/// Sees that no process without a role, of which none works, has left what only such a one applies.
///
/// # Errors
/// That one has, and what to do; that the store does not answer.
#[cfg(feature = "redis")]
pub(super) async fn ensure_applied(store: &impl Store) -> anyhow::Result<()> {
    let number = position_of(&store.positions(ENGINE).await?, 0);
    let is_alone = number.is_some_and(|number| !is_shared(number));
    anyhow::ensure!(!is_alone || !input_log::has_unapplied(store).await?, LEFT);
    Ok(())
}

#[cfg(feature = "redis")]
const LEFT: &str = "requests and labels that a process without --role took are in no state yet: it did not end well. Start it once more without \
    --role until it is ready (/health/ready), end it, then start the roles";
