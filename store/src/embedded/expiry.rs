//! Finds what has expired without reading on write.
//!
//! Every state and row record carries its expiry in its head. An index names, per day, what may expire in it; a write
//! adds an entry and never looks for the older one. The sweep reads the head again: what was rewritten with a later
//! expiry has an entry in a later day, and only the old entry goes.
//!
//! Invariant: whatever has an expiry has an entry in the index in that expiry's day.

use std::hash::{BuildHasher, RandomState};

use fjall::{OwnedWriteBatch, Readable};
use interdict_features::time::Timestamp;

use super::engine::Engine;
use super::layout::{self, Perishable};
use crate::error::StoreError;
use crate::port::Durability;

/// Entries of the index looked at under one hold of the commit lock.
const STEP_ENTRIES: usize = 4096;

/// Remembered entries: a key that is written all day is indexed once, not with every write.
const REMEMBERED: usize = 1 << 16;

/// What this process knows of the index.
pub(super) struct Index {
    hashers: [RandomState; 2],
    remembered: Box<[u128]>,
    staged: Vec<(u128, u64)>,
    sweep_from: u64,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            remembered: vec![0; REMEMBERED].into_boxed_slice(),
            staged: Vec::new(),
            sweep_from: 0,
        }
    }

    /// Adds the entry for a write to its batch, unless it is known to be there. `entry` is scratch.
    pub(super) fn stage(
        &mut self,
        engine: &Engine,
        batch: &mut OwnedWriteBatch,
        entry: &mut Vec<u8>,
        (kind, key, expires): (Perishable, &[u8], Timestamp),
    ) {
        let day = layout::day(expires);
        layout::expiry_key(entry, day, kind, key);
        let fingerprint = self.fingerprint(entry);
        if self.remembered[slot(fingerprint)] == fingerprint {
            return;
        }
        batch.insert(&engine.expiry, entry.as_slice(), []);
        self.staged.push((fingerprint, day));
    }

    /// A pseudo-random number that depends on the bytes, another one in every process.
    pub(super) fn chance(&self, bytes: &[u8]) -> u64 {
        self.hashers[0].hash_one(bytes)
    }

    /// Forgets entries whose batch was not written.
    pub(super) fn unstage(&mut self) {
        self.staged.clear();
    }

    /// Remembers the entries of the batch that was written.
    pub(super) fn settle(&mut self) {
        for (fingerprint, day) in self.staged.drain(..) {
            self.remembered[slot(fingerprint)] = fingerprint;
            self.sweep_from = self.sweep_from.min(day);
        }
    }

    fn fingerprint(&self, entry: &[u8]) -> u128 {
        let [low, high] = &self.hashers;
        u128::from(high.hash_one(entry)) << 64 | u128::from(low.hash_one(entry))
    }
}

fn slot(fingerprint: u128) -> usize {
    let at = fingerprint % REMEMBERED as u128;
    usize::try_from(at).expect("smaller than the table")
}

/// What one step of a sweep did.
pub(super) struct Swept {
    /// States and row records removed.
    pub(super) removed: u64,
    /// Whether days that are over have entries left.
    pub(super) is_done: bool,
}

/// Looks at a bounded number of index entries of the days before `now`'s and removes what expired.
pub(super) fn sweep(engine: &Engine, index: &mut Index, now: Timestamp) -> Result<Swept, StoreError> {
    let today = layout::day(now);
    let snapshot = engine.snapshot();
    let mut batch = engine.batch(0);
    let (mut removed, mut seen, mut last_day) = (0, 0, today);
    if index.sweep_from >= today {
        return Ok(Swept { removed, is_done: true });
    }
    let days = index.sweep_from.to_be_bytes()..today.to_be_bytes();
    for entry in snapshot.range(&engine.expiry, days).take(STEP_ENTRIES) {
        let entry = entry.key().map_err(|error| engine.failure(error))?;
        let (day, kind, key) = layout::split_expiry(&entry)?;
        let keyspace = match kind {
            Perishable::State => &engine.states,
            Perishable::Row => &engine.rows,
        };
        if let Some(value) = snapshot.get(keyspace, key).map_err(|error| engine.failure(error))? {
            let (expires, _) = layout::split_perishable(&value)?;
            // Older entries of a record that was rewritten go alone: the one of its own day takes the record along.
            if layout::day(Timestamp::from_micros(expires)) == day {
                batch.remove(keyspace, key);
                removed += 1;
            }
        }
        batch.remove(&engine.expiry, entry);
        seen += 1;
        last_day = day;
    }
    let is_done = seen < STEP_ENTRIES;
    if seen > 0 {
        index.remembered.fill(0);
        engine.write(batch, Durability::Process)?;
    }
    index.sweep_from = if is_done { today } else { last_day };
    Ok(Swept { removed, is_done })
}
