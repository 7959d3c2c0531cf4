//! The block and allow lists in memory, by entity: loaded from the store at start, kept by what is committed.
//!
//! Invariants:
//! - An entity has at most one entry per list; a newer one takes its place, as in the store.
//! - An entry counts while `now` lies before its end; at its end it no longer does.
//! - Entries of people are refused above `capacity` (an entry takes some 400 bytes with short keys and reasons). Blocks of decisions are
//!   always taken, as they bind the very next event: whoever decides stops while the lists are full, so that no more come than one
//!   batch brings.

use std::collections::HashMap;

use interdict_features::decision::{EntityRef, ListHit, ListKind};
use interdict_features::time::Timestamp;
use interdict_store::port::{ListEntry, ListWrite};
use uuid::Uuid;

/// Entries held unless configured otherwise: some 400 MB.
pub const CAPACITY: usize = 1_000_000;

/// The lists are full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the block and allow lists hold {capacity} entries, their bound; remove some, give automatic blocks an end with `expires`, or raise [scorer] list_entries_max"
)]
pub struct ListsFull {
    /// The bound.
    pub capacity: usize,
}

/// Entries of one entity, by [`ListKind`] in the order in which they bind.
type Entries = [Option<ListEntry>; 3];

/// All list entries by entity.
#[derive(Clone, Debug)]
pub struct Lists {
    entities: HashMap<EntityRef, Entries>,
    count: usize,
    capacity: usize,
}

const fn slot(list: ListKind) -> usize {
    match list {
        ListKind::ManualBlock => 0,
        ListKind::Allow => 1,
        ListKind::AutomaticBlock => 2,
    }
}

impl Lists {
    /// Lists of at most `capacity` entries, filled with `entries` (what `Store::lists` returns), however many they are.
    #[must_use]
    pub fn new(capacity: usize, entries: impl IntoIterator<Item = ListEntry>) -> Self {
        let mut lists = Self { entities: HashMap::new(), count: 0, capacity };
        for entry in entries {
            lists.put(entry);
        }
        lists
    }

    /// How many entries there are, ended ones included until they are removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Does what a commit does to the stored lists.
    pub fn apply(&mut self, write: ListWrite) {
        match write {
            ListWrite::Set(entry) => self.put(entry),
            ListWrite::Remove { list, entity } => self.remove_where(&entity, list, |_any| true),
        }
    }

    /// Adds or replaces an entry.
    ///
    /// # Errors
    /// [`ListsFull`]; nothing changed.
    pub fn set(&mut self, entry: ListEntry) -> Result<(), ListsFull> {
        let is_held = self.entities.get(&entry.entity).is_some_and(|entries| entries[slot(entry.list)].is_some());
        if !is_held && self.is_full() {
            return Err(ListsFull { capacity: self.capacity });
        }
        self.put(entry);
        Ok(())
    }

    /// Adds or replaces an entry that a decision made, full or not.
    pub fn put(&mut self, entry: ListEntry) {
        let slot = slot(entry.list);
        let entries = self.entities.entry(entry.entity.clone()).or_default();
        self.count += usize::from(entries[slot].is_none());
        entries[slot] = Some(entry);
    }

    /// Dates entries that a decision makes no earlier than those which they replace, whatever the clocks of two deciders say: who takes one
    /// back is later than it, and has to be later than every block of before.
    pub fn date(&self, entries: &mut [ListEntry]) {
        for entry in entries {
            let replaced = self.entities.get(&entry.entity).and_then(|held| held[slot(entry.list)].as_ref());
            entry.created = replaced.map_or(entry.created, |replaced| replaced.created.max(entry.created));
        }
    }

    /// Whether no entry can be added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count >= self.capacity
    }

    /// What to tell an operator of full lists.
    #[must_use]
    pub fn full(&self) -> ListsFull {
        ListsFull { capacity: self.capacity }
    }

    /// Takes back the automatic block that `decision` put on `entity`, when its claim turned out to be taken by an
    /// earlier record. An entry of another decision stays.
    pub fn withdraw(&mut self, entity: &EntityRef, decision: Uuid) {
        self.remove_where(entity, ListKind::AutomaticBlock, |entry| entry.decision == Some(decision));
    }

    /// The entries that bind `entities` at `now`, in the order in which they bind. Does not allocate when there is none.
    #[must_use]
    pub fn hits(&self, entities: &[EntityRef], now: Timestamp) -> Vec<ListHit> {
        let mut hits = Vec::new();
        if self.count == 0 {
            return hits;
        }
        for entity in entities {
            let Some(entries) = self.entities.get(entity) else { continue };
            let binding = entries.iter().flatten().filter(|entry| entry.expires.is_none_or(|end| now < end));
            hits.extend(binding.map(|entry| ListHit {
                list: entry.list,
                entity: entity.clone(),
                reason: entry.reason.clone(),
            }));
        }
        hits.sort_by_key(|hit| hit.list);
        hits
    }

    /// Entries of one entity, ended ones included.
    pub fn of<'l>(&'l self, entity: &EntityRef) -> impl Iterator<Item = &'l ListEntry> {
        self.entities.get(entity).into_iter().flatten().flatten()
    }

    /// Removes the entries that ended by `now`, and returns what the store is to remove.
    pub fn expire(&mut self, now: Timestamp) -> Vec<ListWrite> {
        let mut ended = Vec::new();
        self.entities.retain(|_, entries| {
            for held in entries.iter_mut() {
                if let Some(entry) = held.take_if(|entry| entry.expires.is_some_and(|end| end <= now)) {
                    ended.push(ListWrite::Remove { list: entry.list, entity: entry.entity });
                }
            }
            entries.iter().any(Option::is_some)
        });
        self.count -= ended.len();
        ended
    }

    fn remove_where(&mut self, entity: &EntityRef, list: ListKind, wanted: impl Fn(&ListEntry) -> bool) {
        let Some(entries) = self.entities.get_mut(entity) else { return };
        if entries[slot(list)].take_if(|entry| wanted(entry)).is_some() {
            self.count -= 1;
        }
        if entries.iter().all(Option::is_none) {
            self.entities.remove(entity);
        }
    }
}
