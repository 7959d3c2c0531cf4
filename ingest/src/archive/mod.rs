//! The archive: every change of every source in Parquet, each exactly once.
//!
//! A [`Writer`] takes what a source delivers, in order, and publishes it in files; [`Writer::begin`] gives the position after which the
//! source goes on. The caller tells how far the store is; the archive is complete up to [`Writer::position`], and no source may be told that
//! something is durable beyond it.
//!
//! Invariants:
//! - After any crash every change up to the archive's position is in exactly one file, and no change behind it is in any. So what is read
//!   again may be cut into files in any other way.
//! - A file holds nothing that the store does not hold. The store may be ahead: what it holds is then read again for the archive alone.
//! - A snapshot is published as a whole, and before the store passes it its files are on disk: what cannot be read again is never missing.
//! - Rows in memory are bounded by [`config::ArchiveOptions`]; what waits beyond that is encoded and on disk.

pub mod config;
pub mod error;
pub mod folder;
pub mod metrics;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

use interdict_features::change::{Change, ChangeBatch, Version};

use crate::source::Delivery;

pub use writer::Writer;

/// What the positions of a source are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// Records, counted through: a change's own position is that of its record.
    Records,
    /// Places in a database's log: of a transaction's rows the version tells whether the position covers them.
    Log,
}

/// The place in the log of the snapshot that a delivery is of, if it is of one: its first change tells.
#[must_use]
pub fn snapshot_of(batches: &[ChangeBatch]) -> Option<u64> {
    let (change, _) = batches.iter().flat_map(ChangeBatch::iter).next()?;
    change.op.is_of_snapshot().then_some(change.version.major)
}

impl Places {
    /// Whether a source that stands at `position` has passed a change.
    #[must_use]
    pub fn covers(self, position: u64, change: &Change) -> bool {
        match self {
            Self::Records => change.position <= position,
            Self::Log => change.version <= Version::new(position),
        }
    }

    /// Whether a source that stands at `position` has passed everything in `delivery`.
    #[must_use]
    pub fn covers_all(self, position: u64, delivery: &Delivery) -> bool {
        let is_passed = |batch: &ChangeBatch| batch.iter().all(|(change, _)| self.covers(position, change));
        // Dead letters are in order of position.
        let letter = delivery.dead.last().is_none_or(|letter| match self {
            Self::Records => letter.position <= position,
            Self::Log => Version { major: letter.position, minor: letter.row.unwrap_or(0) } <= Version::new(position),
        });
        delivery.position <= position && letter && delivery.batches.iter().all(is_passed)
    }
}
