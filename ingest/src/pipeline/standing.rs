//! Where the partitions of every source stand: what of them the store holds, and what is applied in memory.
//!
//! Invariant: the offsets that a commit moves are those of the states and row records that leave with it.

use std::collections::BTreeMap;

use interdict_features::decision::SeenPosition;
use interdict_store::port::{Offset, OffsetMove};

use super::{Pipeline, PipelineError, Reader};

/// Every partition that was taken up, by source and number.
#[derive(Debug, Default)]
pub(super) struct Standings(BTreeMap<(String, u32), Standing>);

/// Where one source partition stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    /// As the store has it.
    stored: Option<u64>,
    /// Applied in memory.
    applied: Option<u64>,
    /// Standard input and the like have no place to return to.
    is_volatile: bool,
    /// Something was taken of it since the last commit, which need not have moved it: part of a transaction or of a snapshot.
    is_touched: bool,
}

impl Standings {
    /// Whether a position is applied and not stored.
    pub(super) fn are_ahead(&self) -> bool {
        self.0.values().any(|standing| standing.applied != standing.stored)
    }

    /// What the commit of everything that is applied moves: also sources that something was taken of and that did not move.
    pub(super) fn moves(&self) -> impl Iterator<Item = OffsetMove> {
        self.0.iter().filter_map(|((source, partition), standing)| {
            let to = standing.applied.filter(|_| !standing.is_volatile)?;
            let is_due = standing.applied != standing.stored || standing.is_touched;
            is_due.then(|| OffsetMove { source: source.clone(), partition: *partition, from: standing.stored, to })
        })
    }

    /// Notes that the commit with [`Self::moves`] went through.
    pub(super) fn stored(&mut self) {
        for standing in self.0.values_mut() {
            (standing.stored, standing.is_touched) = (standing.applied, false);
        }
    }

    /// Goes back to what is stored.
    pub(super) fn rewind(&mut self) {
        for standing in self.0.values_mut() {
            (standing.applied, standing.is_touched) = (standing.stored, false);
        }
    }
}

impl<S: Reader> Pipeline<S> {
    /// Takes up a source where the store left it: the positions after which its partitions go on, those that are missing from
    /// their beginning. `incarnation` is its identity; `None` for a source that has no place to return to.
    ///
    /// # Errors
    /// [`StoreError::Incarnation`] when it is another source than before.
    pub async fn attach(&mut self, source: &str, incarnation: Option<&str>) -> Result<Vec<Offset>, PipelineError> {
        let Some(incarnation) = incarnation else {
            self.standings.0.insert((source.to_owned(), 0), Standing { is_volatile: true, ..Standing::default() });
            return Ok(Vec::new());
        };
        let offsets = self.store.offsets(source, incarnation).await?;
        let partitions: Vec<u32> = offsets.iter().map(|offset| offset.partition).collect();
        self.bring_clocks(source, &partitions).await?;
        self.take_up(source, &offsets);
        Ok(offsets)
    }

    /// Notes what the stored states hold of a source that is not attached yet: decisions made meanwhile have seen it.
    pub fn take_up(&mut self, source: &str, offsets: &[Offset]) {
        for offset in offsets {
            let (stored, applied) = (Some(offset.position), Some(offset.position));
            let standing = Standing { stored, applied, ..Standing::default() };
            self.standings.0.insert((source.to_owned(), offset.partition), standing);
        }
    }

    /// The sources whose places are known.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = self.standings.0.keys().map(|(source, _)| source.clone()).collect();
        sources.dedup();
        sources
    }

    /// Lets go of partitions: another process goes on with them.
    pub fn let_go(&mut self, source: &str, partitions: &[u32]) {
        for &partition in partitions {
            self.standings.0.remove(&(source.to_owned(), partition));
            self.clocks.let_go(source, partition);
        }
    }

    /// How far each partition was applied, in order of name.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenPosition> {
        let position = |((source, partition), standing): (&(String, u32), &Standing)| {
            standing.applied.map(|position| SeenPosition { partition: format!("{source}/{partition}"), position })
        };
        let mut seen: Vec<SeenPosition> = self.standings.0.iter().filter_map(position).collect();
        // Ten partitions and more are ordered otherwise as texts than as numbers.
        seen.sort_unstable_by(|one, other| one.partition.cmp(&other.partition));
        seen
    }

    /// How far the partitions of a source are stored.
    pub fn stored_positions<'a>(&'a self, source: &'a str) -> impl Iterator<Item = (u32, u64)> + 'a {
        let of_source = self.standings.0.range((source.to_owned(), 0)..=(source.to_owned(), u32::MAX));
        of_source.filter_map(|((_, partition), standing)| Some((*partition, standing.stored?)))
    }

    /// Notes that everything up to `position` was applied, and perhaps some of what comes behind it.
    pub fn advance(&mut self, source: &str, partition: u32, position: u64) {
        let standing = self.standings.0.entry((source.to_owned(), partition)).or_default();
        (standing.applied, standing.is_touched) = (Some(position), true);
        self.clocks.settle(source, partition);
    }

    /// Moves that say where every source stands and leave it there: a commit with them is refused where the store does not hold that.
    #[must_use]
    pub fn held(&self) -> Vec<OffsetMove> {
        let held = |((source, partition), standing): (&(String, u32), &Standing)| {
            let to = standing.stored.filter(|_| !standing.is_volatile)?;
            Some(OffsetMove { source: source.clone(), partition: *partition, from: Some(to), to })
        };
        self.standings.0.iter().filter_map(held).collect()
    }
}
