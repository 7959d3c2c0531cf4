//! How many partitions of a topic each of its readers takes: every one works it out for itself from what all of them hold.
//!
//! Invariants:
//! - Shares of readers that see the same add up to the partitions, and differ by one at most.
//! - Readers that hold their shares hold their shares still when they look again: nothing moves without a cause.
//! - Whoever has the most keeps the odd ones, so that a reader that comes or goes moves no more than it has to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

/// Who reads a topic, and who holds which of its partitions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Readers {
    pub(super) members: BTreeSet<Uuid>,
    pub(super) held: BTreeMap<u32, Uuid>,
}

impl Readers {
    /// How many of so many partitions `member` is to read.
    pub(super) fn share(&self, member: Uuid, partitions: usize) -> usize {
        let held = |member: &Uuid| self.held.values().filter(|holder| *holder == member).count();
        let members = self.members.iter().chain([&member]);
        let ranked: BTreeSet<(Reverse<usize>, &Uuid)> = members.map(|member| (Reverse(held(member)), member)).collect();
        let rank = ranked.iter().take_while(|(_, other)| **other != member).count();
        partitions / ranked.len() + usize::from(rank < partitions % ranked.len())
    }
}

#[cfg(test)]
mod tests;
