//! Removes the states of a group that its owner no longer needs.

use std::ops::Bound;

use fjall::Readable;

use super::engine::Engine;
use super::{layout, read};
use crate::error::StoreError;
use crate::port::Durability;

/// States looked at under one hold of the commit lock.
const STEP_STATES: usize = 1024;

/// What one step did.
pub(super) struct Pruned {
    /// States removed.
    pub(super) removed: u64,
    /// The last key looked at, if there are more behind it.
    pub(super) last: Option<Vec<u8>>,
}

/// Looks at a bounded number of the entity's states behind `after` and removes those of `group` for which `is_stale` holds.
pub(super) fn prune(
    engine: &Engine,
    (entity, group): (&str, u64),
    after: Option<&[u8]>,
    is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<Pruned, StoreError> {
    let prefix = layout::entity_prefix(entity)?;
    let snapshot = engine.snapshot();
    let mut batch = engine.batch(0);
    let (mut removed, mut seen, mut last) = (0, 0, None);
    let from = after.map_or(Bound::Included(prefix.as_slice()), Bound::Excluded);
    for entry in snapshot.range::<&[u8], _>(&engine.states, (from, Bound::Unbounded)).take(STEP_STATES) {
        let (key, value) = read::pair(engine, entry)?;
        if !key.starts_with(&prefix) {
            break;
        }
        let (_, state) = layout::split_perishable(&value)?;
        if key.ends_with(&group.to_be_bytes()) && is_stale(state) {
            batch.remove(&engine.states, &*key);
            removed += 1;
        }
        seen += 1;
        last = Some(key.to_vec());
    }
    if removed > 0 {
        engine.write(batch, Durability::Process)?;
    }
    Ok(Pruned { removed, last: last.filter(|_| seen == STEP_STATES) })
}
