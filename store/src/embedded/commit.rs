//! Turns a [`Commit`] into one batch: checks what is conditional, then stages what is to be written.
//!
//! Invariants:
//! - Nothing here writes. A condition that fails leaves no trace; the caller writes the batch whole.
//! - The caller holds the commit lock from the first check until the batch is written.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use fjall::{OwnedWriteBatch, Readable, Snapshot};
use interdict_features::decision::ListKind;
use interdict_features::time::Timestamp;
use uuid::Uuid;

use super::engine::Engine;
use super::expiry::Index;
use super::layout::{self, Perishable};
use super::{log, read};
use crate::error::StoreError;
use crate::port::{
    Claim, ClaimOutcome, Commit, Committed, Finished, Intent, ListEntry, ListWrite, LogName, Note, OffsetMove,
    RECENT_DECISIONS_MAX, UNBLOCKS_KEPT, Unblock,
};

/// One claim in so many of an entity looks for recent decisions beyond the bound.
const PRUNE_ONE_IN: u64 = 64;

/// Recent decisions removed at once at most.
const PRUNE_ENTRIES_MAX: usize = 1024;

/// Where the next entries go; moves on only when a batch is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    pub(super) sequence: u64,
    pub(super) decisions_next: u64,
    pub(super) logs_next: HashMap<LogName, u64>,
    pub(super) outbox_entries: usize,
}

/// A commit ready to be written.
pub(super) struct Staged {
    pub(super) batch: OwnedWriteBatch,
    pub(super) answer: Committed,
    pub(super) positions: Positions,
}

/// Checks and stages a commit.
pub(super) fn stage(
    engine: &Engine,
    index: &mut Index,
    positions: &Positions,
    outbox_capacity: usize,
    commit: &Commit,
) -> Result<Staged, StoreError> {
    let writes = 2 * (commit.states.len() + commit.rows.len()) + 4 * commit.claims.len() + 16;
    let mut staging = Staging {
        snapshot: engine.snapshot(),
        batch: engine.batch(writes),
        positions: positions.clone(),
        claimed: HashMap::new(),
        outbox: HashMap::new(),
        loose: HashMap::new(),
        let_go: HashMap::new(),
        removed: HashSet::new(),
        finished_loose: HashSet::new(),
        appended: HashMap::new(),
        engine,
    };
    staging.offsets(&commit.offsets)?;
    let mut answer = Committed::default();
    for claim in &commit.claims {
        answer.claims.push(staging.claim(index, claim)?);
    }
    for (number, intent) in (0_u32..).zip(&commit.intents) {
        staging.loose(number, intent)?;
    }
    staging.bound_outbox(outbox_capacity)?;
    for finished in &commit.finished {
        staging.finish(finished)?;
    }
    for note in &commit.notes {
        staging.note(note)?;
    }
    for write in &commit.lists {
        staging.list(write)?;
    }
    for unblock in &commit.unblocks {
        staging.unblock(unblock)?;
    }
    for append in &commit.appends {
        layout::bounded_value("log entry", append.bytes.len())?;
        answer.appended.push(staging.append(append.log, &append.bytes)?);
    }
    let is_expecting =
        commit.states.iter().any(|it| it.expected.is_some()) || commit.rows.iter().any(|it| it.expected.is_some());
    let is_of_several =
        !(commit.listed.is_empty() && commit.unchanged.is_empty() && commit.work.is_empty() && commit.done.is_empty());
    if is_expecting || is_of_several {
        let why = "one process works on an embedded store, and it expects nothing of others".to_owned();
        return Err(StoreError::Invalid { what: "a commit of one of several writers", why });
    }
    staging.perishables(index, commit)?;
    staging.positions.sequence += 1;
    let sequence = staging.positions.sequence.to_be_bytes();
    staging.batch.insert(&engine.meta, layout::SEQUENCE_KEY, sequence);
    Ok(Staged { batch: staging.batch, answer, positions: staging.positions })
}

struct Staging<'a> {
    engine: &'a Engine,
    snapshot: Snapshot,
    batch: OwnedWriteBatch,
    positions: Positions,
    /// Claims of this commit that succeeded: position and record.
    claimed: HashMap<Uuid, (u64, Bytes)>,
    /// Outbox entries of this commit.
    outbox: HashMap<[u8; 12], Intent>,
    /// Outbox entries of this commit that belong to no decision, by id and action.
    loose: HashMap<(Uuid, String), Vec<u8>>,
    /// Whom this commit lets go, and when; whom it forgets.
    let_go: HashMap<Vec<u8>, Option<i64>>,
    /// Outbox entries that this commit finishes.
    removed: HashSet<[u8; 12]>,
    /// The same, of those that belong to no decision.
    finished_loose: HashSet<(Uuid, String)>,
    /// Texts under the decisions that this commit touches, stored ones included.
    appended: HashMap<Uuid, Vec<String>>,
}

impl Staging<'_> {
    fn offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        let mut moved: HashMap<Vec<u8>, u64> = HashMap::new();
        for wanted in moves {
            let key = layout::offset_key(&wanted.source, wanted.partition)?;
            let stored = match moved.get(&key) {
                Some(position) => Some(*position),
                None => read::number(self.engine, &self.snapshot, &key)?,
            };
            if stored != wanted.from {
                return Err(StoreError::Fenced {
                    source_name: wanted.source.clone(),
                    partition: wanted.partition,
                    stored,
                    expected: wanted.from,
                });
            }
            self.batch.insert(&self.engine.meta, key.as_slice(), wanted.to.to_be_bytes());
            moved.insert(key, wanted.to);
        }
        Ok(())
    }

    fn claim(&mut self, index: &Index, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        layout::bounded_value("decision record", claim.record.len())?;
        check_intents(claim)?;
        if let Some((_, record)) = self.claimed.get(&claim.id) {
            return Ok(ClaimOutcome::Existing(record.clone()));
        }
        if let Some(position) = read::decision_position(self.engine, &self.snapshot, claim.id)? {
            let record = read::record(self.engine, &self.snapshot, position)?;
            return Ok(ClaimOutcome::Existing(record));
        }
        let position = self.positions.decisions_next;
        self.positions.decisions_next += 1;
        self.batch.insert(&self.engine.decisions, position.to_be_bytes(), &claim.record[..]);
        self.batch.insert(&self.engine.claims, *claim.id.as_bytes(), position.to_be_bytes());
        for entity in &claim.entities {
            let prefix = layout::recent_prefix(entity)?;
            let key = layout::at_position(&prefix, position);
            if index.chance(&key).is_multiple_of(PRUNE_ONE_IN) {
                self.prune_recent(&prefix)?;
            }
            self.batch.insert(&self.engine.recent, key.as_slice(), []);
        }
        for (number, intent) in (1_u32..).zip(&claim.intents) {
            let key = layout::outbox_key(position, number);
            self.batch.insert(&self.engine.outbox, key, layout::to_json("intent", intent)?.as_slice());
            self.outbox.insert(key, intent.clone());
        }
        for entry in &claim.lists {
            if !self.is_let_go(entry)? {
                self.list(&ListWrite::Set(entry.clone()))?;
            }
        }
        self.claimed.insert(claim.id, (position, claim.record.clone()));
        Ok(ClaimOutcome::Claimed { position })
    }

    /// Removes what lies beyond the newest recent decisions of an entity. Done by chance, so that a claim need not
    /// count: an entity keeps about [`PRUNE_ONE_IN`] entries more than asked.
    fn prune_recent(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        let old = self.snapshot.prefix(&self.engine.recent, prefix).rev().skip(RECENT_DECISIONS_MAX);
        for entry in old.take(PRUNE_ENTRIES_MAX) {
            let key = entry.key().map_err(|error| self.engine.failure(error))?;
            self.batch.remove(&self.engine.recent, key);
        }
        Ok(())
    }

    /// Puts an action that belongs to no decision into the outbox, unless it is there.
    fn loose(&mut self, number: u32, intent: &Intent) -> Result<(), StoreError> {
        let index = layout::loose_index_key(intent.decision, &intent.action)?;
        let at = (intent.decision, intent.action.clone());
        if self.loose.contains_key(&at) || self.loose_entry(&index)?.is_some() {
            return Ok(());
        }
        let value = layout::to_json("intent", intent)?;
        layout::bounded_value("intent", value.len())?;
        let key = layout::loose_key(self.positions.decisions_next, self.positions.sequence, number);
        self.batch.insert(&self.engine.outbox, key, value.as_slice());
        self.batch.insert(&self.engine.meta, index.as_slice(), key);
        self.loose.insert(at, key.to_vec());
        Ok(())
    }

    /// The key of a stored outbox entry that belongs to no decision.
    fn loose_entry(&self, index: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.snapshot.get(&self.engine.meta, index).map_err(|error| self.engine.failure(error))?;
        Ok(key.map(|key| key.to_vec()))
    }

    /// Intents that this commit brings in must fit beside what is unfinished. A commit without any always goes through, so
    /// that a full outbox can drain, and an empty outbox takes any commit: one that is larger than the bound would wait for
    /// ever otherwise.
    fn bound_outbox(&mut self, capacity: usize) -> Result<(), StoreError> {
        let more = self.outbox.len() + self.loose.len();
        let unfinished = self.positions.outbox_entries;
        let entries = unfinished + more;
        if more > 0 && unfinished > 0 && entries > capacity {
            return Err(StoreError::OutboxFull { capacity });
        }
        self.positions.outbox_entries = entries;
        Ok(())
    }

    fn finish(&mut self, finished: &Finished) -> Result<(), StoreError> {
        let position = match self.claimed.get(&finished.decision) {
            Some((position, _)) => Some(*position),
            None => read::decision_position(self.engine, &self.snapshot, finished.decision)?,
        };
        let key = match position {
            Some(position) => self.unfinished(position, &finished.action)?,
            None => None,
        };
        let Some(key) = key else { return self.finish_loose(finished) };
        self.batch.remove(&self.engine.outbox, key);
        self.removed.insert(key);
        self.positions.outbox_entries = self.positions.outbox_entries.saturating_sub(1);
        self.append_under(finished.decision, &finished.result)
    }

    fn finish_loose(&mut self, finished: &Finished) -> Result<(), StoreError> {
        let index = layout::loose_index_key(finished.decision, &finished.action)?;
        let at = (finished.decision, finished.action.clone());
        let key = match self.loose.get(&at) {
            Some(key) => Some(key.clone()),
            None => self.loose_entry(&index)?,
        };
        let Some(key) = key else { return Ok(()) };
        if !self.finished_loose.insert(at) {
            return Ok(());
        }
        self.batch.remove(&self.engine.outbox, key.as_slice());
        self.batch.remove(&self.engine.meta, index.as_slice());
        self.positions.outbox_entries = self.positions.outbox_entries.saturating_sub(1);
        self.append_under(finished.decision, &finished.result)
    }

    fn unfinished(&self, position: u64, action: &str) -> Result<Option<[u8; 12]>, StoreError> {
        for entry in self.snapshot.prefix(&self.engine.outbox, position.to_be_bytes()) {
            let (key, value) = entry.into_inner().map_err(|error| self.engine.failure(error))?;
            let Ok(key) = <[u8; 12]>::try_from(&key[..]) else { continue };
            let intent: Intent = layout::from_json("outbox entry", &value)?;
            if intent.action == action && !self.removed.contains(&key) {
                return Ok(Some(key));
            }
        }
        let staged = self.outbox.iter().find(|(key, intent)| {
            key[..8] == position.to_be_bytes() && intent.action == action && !self.removed.contains(*key)
        });
        Ok(staged.map(|(key, _)| *key))
    }

    fn note(&mut self, note: &Note) -> Result<(), StoreError> {
        if self.texts(note.decision)?.contains(&note.text) {
            return Ok(());
        }
        self.append_under(note.decision, &note.text)
    }

    fn texts(&mut self, decision: Uuid) -> Result<&mut Vec<String>, StoreError> {
        match self.appended.entry(decision) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(read::appended(self.engine, &self.snapshot, decision)?))
            }
        }
    }

    fn append_under(&mut self, decision: Uuid, text: &str) -> Result<(), StoreError> {
        layout::bounded_value("text under a decision", text.len())?;
        let texts = self.texts(decision)?;
        let number = u32::try_from(texts.len()).map_err(|_full| StoreError::TooLarge {
            what: "number of texts under a decision",
            bytes: texts.len(),
            limit: u32::MAX as usize,
        })?;
        texts.push(text.to_owned());
        self.batch.insert(&self.engine.appended, layout::appended_key(decision, number), text);
        Ok(())
    }

    fn list(&mut self, write: &ListWrite) -> Result<(), StoreError> {
        match write {
            ListWrite::Set(entry) => {
                let key = layout::list_key(entry.list, &entry.entity)?;
                let value = layout::to_json("list entry", entry)?;
                layout::bounded_value("list entry", value.len())?;
                self.batch.insert(&self.engine.lists, key.as_slice(), value.as_slice());
            }
            ListWrite::Remove { list, entity } => {
                self.batch.remove(&self.engine.lists, layout::list_key(*list, entity)?.as_slice());
            }
        }
        Ok(())
    }

    /// Whether a person has let an entity go since a decision blocked it.
    fn is_let_go(&self, entry: &ListEntry) -> Result<bool, StoreError> {
        if entry.list != ListKind::AutomaticBlock {
            return Ok(false);
        }
        let at = read::number(self.engine, &self.snapshot, &layout::unblock_key(&entry.entity)?)?;
        Ok(at.is_some_and(|at| entry.created.micros() <= at.cast_signed()))
    }

    fn unblock(&mut self, unblock: &Unblock) -> Result<(), StoreError> {
        let key = layout::unblock_key(&unblock.entity)?;
        // People let few go, so that all are looked at.
        let mut all: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for entry in self.snapshot.prefix(&self.engine.meta, [layout::UNBLOCK]) {
            let (key, value) = entry.into_inner().map_err(|error| self.engine.failure(error))?;
            all.insert(key.to_vec(), layout::position_at_end("unblock", &value)?.cast_signed());
        }
        for (key, at) in &self.let_go {
            match at {
                Some(at) => all.insert(key.clone(), *at),
                None => all.remove(key),
            };
        }
        let at = all.get(&key).map_or(unblock.at.micros(), |known| unblock.at.micros().max(*known));
        all.insert(key.clone(), at);
        self.batch.insert(&self.engine.meta, key.as_slice(), at.to_be_bytes());
        self.let_go.insert(key, Some(at));
        let kept = unblock.at.minus(UNBLOCKS_KEPT).micros();
        for (key, _) in all.into_iter().filter(|(_, at)| *at < kept) {
            self.batch.remove(&self.engine.meta, key.as_slice());
            self.let_go.insert(key, None);
        }
        Ok(())
    }

    fn append(&mut self, name: LogName, bytes: &Bytes) -> Result<u64, StoreError> {
        if name == LogName::DECISIONS {
            let why = "decisions enter it by being claimed".to_owned();
            return Err(StoreError::Invalid { what: "an entry for the decision log", why });
        }
        let next = match self.positions.logs_next.get(&name) {
            Some(next) => *next,
            None => log::next(self.engine, &self.snapshot, name)?,
        };
        let key = layout::at_position(&layout::log_prefix(name)?, next);
        self.batch.insert(&self.engine.logs, key.as_slice(), &bytes[..]);
        self.positions.logs_next.insert(name, next + 1);
        Ok(next)
    }

    fn perishables(&mut self, index: &mut Index, commit: &Commit) -> Result<(), StoreError> {
        let mut scratch = Scratch::default();
        for write in &commit.states {
            layout::state_key(&mut scratch.key, &write.entity, &write.key, write.group)?;
            self.perishable(index, &mut scratch, Perishable::State, (write.bytes.as_deref(), write.expires))?;
        }
        for write in &commit.rows {
            layout::row_key(&mut scratch.key, &write.key)?;
            self.perishable(index, &mut scratch, Perishable::Row, (write.bytes.as_deref(), write.expires))?;
        }
        Ok(())
    }

    fn perishable(
        &mut self,
        index: &mut Index,
        scratch: &mut Scratch,
        kind: Perishable,
        (body, expires): (Option<&[u8]>, Option<Timestamp>),
    ) -> Result<(), StoreError> {
        let keyspace = match kind {
            Perishable::State => &self.engine.states,
            Perishable::Row => &self.engine.rows,
        };
        let Scratch { key, value, entry } = scratch;
        let Some(body) = body else {
            self.batch.remove(keyspace, key.as_slice());
            return Ok(());
        };
        layout::bounded_value("state or row record", body.len())?;
        layout::perishable_value(value, expires, body);
        self.batch.insert(keyspace, key.as_slice(), value.as_slice());
        if let Some(expires) = expires {
            index.stage(self.engine, &mut self.batch, entry, (kind, key, expires));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
    entry: Vec<u8>,
}

fn check_intents(claim: &Claim) -> Result<(), StoreError> {
    for (at, intent) in claim.intents.iter().enumerate() {
        let why = if intent.decision != claim.id {
            format!("it names decision {}", intent.decision)
        } else if claim.intents[..at].iter().any(|earlier| earlier.action == intent.action) {
            "the decision wants it twice".to_owned()
        } else {
            continue;
        };
        return Err(StoreError::Invalid { what: "an action of a claim", why: format!("{}: {why}", intent.action) });
    }
    Ok(())
}
