//! The store as a person would explain it: plain maps, no disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::Timestamp;
use uuid::Uuid;

use super::OUTBOX_CAPACITY;
use crate::error::StoreError;
use crate::port::{
    ClaimOutcome, Commit, Committed, Intent, ListEntry, ListWrite, LogName, RECENT_DECISIONS_MAX, StoredDecision,
    UNBLOCKS_KEPT, Unblock,
};

type Perishable = (Bytes, Option<Timestamp>);

/// Everything a store holds.
#[derive(Clone, Debug, Default)]
pub struct Twin {
    /// By entity, key and group.
    pub states: BTreeMap<(String, Vec<u8>, u64), Perishable>,
    /// By stream and event id.
    pub rows: BTreeMap<(String, Vec<u8>), Perishable>,
    /// In order of position.
    pub decisions: Vec<(Uuid, Bytes, Vec<EntityRef>)>,
    /// By decision.
    pub appended: BTreeMap<Uuid, Vec<String>>,
    /// By list and entity.
    pub lists: BTreeMap<(ListKind, EntityRef), ListEntry>,
    /// When entities were let go last.
    pub unblocks: BTreeMap<EntityRef, Timestamp>,
    /// Oldest first.
    pub outbox: Vec<Intent>,
    /// All entries ever.
    pub logs: BTreeMap<LogName, Vec<Bytes>>,
    /// The first position that is not trimmed.
    pub firsts: BTreeMap<LogName, u64>,
    /// By source and partition.
    pub offsets: BTreeMap<(String, u32), u64>,
}

impl Twin {
    /// What [`crate::port::Store::commit`] must do.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] and [`StoreError::OutboxFull`]; nothing has changed then.
    pub fn commit(&mut self, commit: &Commit) -> Result<Committed, StoreError> {
        let mut next = self.clone();
        let answer = next.apply(commit)?;
        *self = next;
        Ok(answer)
    }

    fn apply(&mut self, commit: &Commit) -> Result<Committed, StoreError> {
        for wanted in &commit.offsets {
            let at = (wanted.source.clone(), wanted.partition);
            let stored = self.offsets.get(&at).copied();
            if stored != wanted.from {
                return Err(StoreError::Fenced {
                    source_name: wanted.source.clone(),
                    partition: wanted.partition,
                    stored,
                    expected: wanted.from,
                });
            }
            self.offsets.insert(at, wanted.to);
        }
        let mut answer = Committed::default();
        let before = self.unblocks.clone();
        let unfinished = self.outbox.len();
        for claim in &commit.claims {
            if let Some((_, record, _)) = self.decisions.iter().find(|(id, ..)| *id == claim.id) {
                answer.claims.push(ClaimOutcome::Existing(record.clone()));
                continue;
            }
            answer.claims.push(ClaimOutcome::Claimed { position: self.decisions.len() as u64 });
            self.decisions.push((claim.id, claim.record.clone(), claim.entities.clone()));
            self.outbox.extend(claim.intents.iter().cloned());
            let is_let_go = |entry: &&ListEntry| {
                entry.list == ListKind::AutomaticBlock
                    && before.get(&entry.entity).is_some_and(|at| entry.created <= *at)
            };
            for entry in claim.lists.iter().filter(|entry| !is_let_go(entry)) {
                self.lists.insert((entry.list, entry.entity.clone()), entry.clone());
            }
        }
        self.enter(&commit.intents);
        if unfinished > 0 && self.outbox.len() > unfinished && self.outbox.len() > OUTBOX_CAPACITY {
            return Err(StoreError::OutboxFull { capacity: OUTBOX_CAPACITY });
        }
        for finished in &commit.finished {
            let is_it = |intent: &Intent| intent.decision == finished.decision && intent.action == finished.action;
            if let Some(at) = self.outbox.iter().position(is_it) {
                self.outbox.remove(at);
                self.appended.entry(finished.decision).or_default().push(finished.result.clone());
            }
        }
        for note in &commit.notes {
            let texts = self.appended.entry(note.decision).or_default();
            if !texts.contains(&note.text) {
                texts.push(note.text.clone());
            }
        }
        self.change_lists(commit);
        for append in &commit.appends {
            let log = self.logs.entry(append.log).or_default();
            answer.appended.push(log.len() as u64);
            log.push(append.bytes.clone());
        }
        for write in &commit.states {
            let at = (write.entity.to_string(), write.key.to_vec(), write.group);
            put(&mut self.states, at, write.bytes.as_ref(), write.expires);
        }
        for write in &commit.rows {
            let at = (write.key.stream.to_string(), write.key.id.to_vec());
            put(&mut self.rows, at, write.bytes.as_ref(), write.expires);
        }
        Ok(answer)
    }

    fn change_lists(&mut self, commit: &Commit) {
        for write in &commit.lists {
            match write {
                ListWrite::Set(entry) => {
                    self.lists.insert((entry.list, entry.entity.clone()), entry.clone());
                }
                ListWrite::Remove { list, entity } => {
                    self.lists.remove(&(*list, entity.clone()));
                }
            }
        }
        for Unblock { entity, at } in &commit.unblocks {
            let latest = self.unblocks.entry(entity.clone()).or_insert(*at);
            *latest = (*latest).max(*at);
            self.unblocks.retain(|_, kept| *kept >= at.minus(UNBLOCKS_KEPT));
        }
    }

    fn enter(&mut self, intents: &[Intent]) {
        for intent in intents {
            let is_it = |held: &Intent| held.decision == intent.decision && held.action == intent.action;
            if !self.outbox.iter().any(is_it) {
                self.outbox.push(intent.clone());
            }
        }
    }

    /// Removes what expired before `now`; how many.
    pub fn expire(&mut self, now: Timestamp) -> u64 {
        let before = self.states.len() + self.rows.len();
        let lives = |expires: Option<Timestamp>| expires.is_none_or(|expires| expires >= now);
        self.states.retain(|_, (_, expires)| lives(*expires));
        self.rows.retain(|_, (_, expires)| lives(*expires));
        (before - self.states.len() - self.rows.len()) as u64
    }

    /// Removes the states of a group for which `is_stale` holds; how many.
    pub fn prune(&mut self, entity: &str, group: u64, is_stale: impl Fn(&[u8]) -> bool) -> u64 {
        let before = self.states.len();
        self.states.retain(|at, (bytes, _)| (at.0.as_str(), at.2) != (entity, group) || !is_stale(bytes));
        (before - self.states.len()) as u64
    }

    /// Forgets the entries of a log before `position`.
    pub fn trim(&mut self, log: LogName, position: u64) {
        let end = position.min(self.entries(log).len() as u64);
        let first = self.firsts.entry(log).or_default();
        *first = end.max(*first);
    }

    /// The log's entries that are left from `position` on.
    #[must_use]
    pub fn read_log(&self, log: LogName, position: u64, limit: usize) -> Vec<(u64, Bytes)> {
        let from = position.max(self.firsts.get(&log).copied().unwrap_or(0));
        let numbered = (0..).zip(self.entries(log));
        numbered.filter(|(at, _)| *at >= from).take(limit).collect()
    }

    fn entries(&self, log: LogName) -> Vec<Bytes> {
        if log == LogName::DECISIONS {
            return self.decisions.iter().map(|(_, record, _)| record.clone()).collect();
        }
        self.logs.get(&log).cloned().unwrap_or_default()
    }

    /// One decision.
    #[must_use]
    pub fn decision(&self, id: Uuid) -> Option<StoredDecision> {
        let (_, record, _) = self.decisions.iter().find(|(stored, ..)| *stored == id)?;
        let appended = self.appended.get(&id).cloned().unwrap_or_default();
        Some(StoredDecision { record: record.clone(), appended })
    }

    /// The newest decisions of an entity.
    #[must_use]
    pub fn recent(&self, entity: &EntityRef, limit: usize) -> Vec<Bytes> {
        let newest = self.decisions.iter().rev().filter(|(_, _, entities)| entities.contains(entity));
        newest.take(limit.min(RECENT_DECISIONS_MAX)).map(|(_, record, _)| record.clone()).collect()
    }
}

fn put<K: Ord>(map: &mut BTreeMap<K, Perishable>, at: K, bytes: Option<&Bytes>, expires: Option<Timestamp>) {
    match bytes {
        Some(bytes) => map.insert(at, (bytes.clone(), expires)),
        None => map.remove(&at),
    };
}
