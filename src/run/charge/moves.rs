//! How charge goes from one process to the next.
//!
//! Invariants:
//! - Charge of a namespace is odd while one process without a role has it, which each of them takes anew, and even while roles work, which they
//!   have together.
//! - Beside it stands the turn in which it was moved last. A turn is a time in which the namespace was worked on in one of the two ways, and
//!   a later one has a greater number. Nobody moves charge in a turn before that, or in another one than his own, which he asks for after he has
//!   read how charge stands: whoever stood still while the namespace went over to the other way is refused, and fences nobody off.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Durability, Offset, OffsetMove, Store};

use super::super::core::position_of;
use super::super::input_log;
use super::super::patience::patiently;
use super::shared::ENGINE;

/// The partitions of [`ENGINE`]: how often charge was taken, and in which turn it was moved last.
const NUMBER: u32 = 0;
const TURN: u32 = 1;

const LEFT: &str = "requests and labels that a process without --role took are in no state yet: it did not end well. Start it once more without \
    --role until it is ready (/health/ready), end it, then start the roles";

/// Whether roles have charge of a namespace that was taken so often.
pub(in super::super) const fn is_shared(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// What a commit under charge names that was taken for the `number`th time.
pub(super) fn held(number: u64) -> OffsetMove {
    OffsetMove { source: ENGINE.to_owned(), partition: NUMBER, from: Some(number), to: number }
}

/// Where charge of a namespace stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    number: Option<u64>,
    turn: Option<u64>,
}

impl Standing {
    async fn read(store: &impl Store, stop: &Stop) -> anyhow::Result<Self> {
        let stored = positions(store, stop, ENGINE).await?;
        Ok(Self { number: position_of(&stored, NUMBER), turn: position_of(&stored, TURN) })
    }

    /// Moves charge in `turn`; false where another process moved it at the same time.
    async fn moved(self, store: &impl Store, stop: &Stop, number: u64, turn: u64) -> anyhow::Result<bool> {
        let step = |partition, from, to| OffsetMove { source: ENGINE.to_owned(), partition, from, to };
        moved(store, stop, vec![step(NUMBER, self.number, number), step(TURN, self.turn, turn)]).await
    }
}

/// Takes charge of a namespace for a process without a role from whichever such process has it; how often it was taken with this. `turn` says
/// in which turn this process may work, which is none before the one given.
///
/// # Errors
/// As [`patiently`]; those of `turn`.
pub(in super::super) async fn alone(
    store: &impl Store,
    stop: &Stop,
    turn: impl AsyncFn(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<u64> {
    loop {
        let standing = Standing::read(store, stop).await?;
        let own = turn(standing.turn.unwrap_or(0)).await?;
        let number = standing.number.map_or(1, |number| number + 1 + number % 2);
        if standing.moved(store, stop, number, own).await? {
            return Ok(number);
        }
    }
}

/// What every commit of a process with a role names: that the namespace is worked on by roles, as it is from now on. `turn` as of [`alone`].
///
/// # Errors
/// As [`patiently`]; those of `turn`; that a process without a role has left what only such a one applies.
pub(in super::super) async fn of_roles(
    store: &impl Store,
    stop: &Stop,
    turn: impl AsyncFn(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<OffsetMove> {
    loop {
        let standing = Standing::read(store, stop).await?;
        let own = turn(standing.turn.unwrap_or(0)).await?;
        let next = match standing.number {
            Some(number) if standing.turn == Some(own) && is_shared(number) => return Ok(held(number)),
            // Whoever had it stores nothing any more: what it has left is all there is.
            Some(fenced) if standing.turn == Some(own) => {
                let told = "the store does not answer; what was left is asked later";
                let has_left = patiently(stop, told, async || input_log::has_unapplied(store).await).await?;
                anyhow::ensure!(!has_left, LEFT);
                fenced + 1
            }
            Some(number) if is_shared(number) => number,
            // Odd still, and nobody's: whoever had it is fenced before it is asked what it left.
            Some(alone) => alone + 2,
            None => 0,
        };
        // Another process may see to it at this moment.
        standing.moved(store, stop, next, own).await?;
    }
}

/// Sees that no process without a role, of which none works, has left what only such a one applies.
///
/// # Errors
/// That one has, and what to do; that the store does not answer.
pub(in super::super) async fn ensure_applied(store: &impl Store) -> anyhow::Result<()> {
    let number = position_of(&store.positions(ENGINE).await?, NUMBER);
    let is_alone = number.is_some_and(|number| !is_shared(number));
    anyhow::ensure!(!is_alone || !input_log::has_unapplied(store).await?, LEFT);
    Ok(())
}

/// Takes charge of `partitions` of `name` from whichever processes have it: what a commit of each names from now on, in their order.
///
/// # Errors
/// As [`patiently`].
pub(in super::super) async fn take(
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
