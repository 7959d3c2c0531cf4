//! Row records of one shard, in memory: encoded, in one growing block, so that a row costs its bytes and no allocation.

use crate::bytes::Damaged;
use crate::definition::Stream;
use crate::row::{Cleared, RowRecord};
use crate::time::Timestamp;

use super::OwnedKey;
use super::Unwritten;
use super::entities::KeyIndex;
use super::plan::Key;

/// The block is rewritten when more of it than this is dead, and more is dead than alive.
const DEAD_BYTES_MIN: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    offset: usize,
    len: u32,
    is_dirty: bool,
    /// The latest time the record knows, microseconds; `i64::MIN` where it knows none.
    newest: i64,
}

/// Records of one stream's rows.
#[derive(Clone, Debug, Default)]
pub(super) struct RowTable {
    index: KeyIndex,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    dead: usize,
    dirty: Vec<(OwnedKey, u32)>,
    /// Bytes of the records that are dirty, as they were when they became so.
    dirty_bytes: usize,
    buffer: Vec<u8>,
    /// The stream's newest truncation or loss: older records give way to it when they are read.
    pub(super) cleared: Cleared,
}

impl RowTable {
    pub(super) fn contains(&self, id: &Key<'_>) -> bool {
        self.find(id).is_some()
    }

    pub(super) fn find(&self, id: &Key<'_>) -> Option<u32> {
        self.index.get(id)
    }

    /// The place of `id`, made blank when it is new.
    pub(super) fn place(&mut self, id: &Key<'_>) -> u32 {
        if let Some(place) = self.index.get(id) {
            return place;
        }
        let place = u32::try_from(self.entries.len()).expect("memory holds fewer than 2^32 rows");
        self.index.insert(id, place);
        self.entries.push(Entry { newest: i64::MIN, ..Entry::default() });
        place
    }

    /// Whether nothing is known of the row at `place`.
    pub(super) fn is_blank(&self, place: u32) -> bool {
        self.entries[place as usize].len == 0
    }

    /// Reads the record at `place` into `record`; a row of which nothing is known gives an empty one.
    pub(super) fn read(
        &self,
        stream: &Stream,
        needed: &[usize],
        place: u32,
        record: &mut RowRecord,
    ) -> Result<(), Damaged> {
        let entry = self.entries[place as usize];
        if entry.len > 0 {
            record.decode(stream, needed, &self.bytes[entry.offset..entry.offset + entry.len as usize])?;
        } else {
            record.reset(stream);
        }
        record.settle(stream, self.cleared);
        Ok(())
    }

    /// Stores the record of `id`, to be written at the next checkpoint. `seen` is the latest time known of the row that the record itself
    /// may no longer hold: a tombstone has no cells.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        needed: &[usize],
        (id, place): (&Key<'_>, u32),
        record: &RowRecord,
        seen: Option<Timestamp>,
    ) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        record.encode(stream, needed, &mut buffer);
        self.put(place, &buffer);
        self.buffer = buffer;
        self.note(id, place, record.newest(stream).max(seen));
    }

    /// Stores the first record of a row: `write` appends its bytes. To be written at the next checkpoint.
    pub(super) fn write_first(
        &mut self,
        (id, place): (&Key<'_>, u32),
        newest: Option<Timestamp>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(self.is_blank(place), "a record of the row would be lost");
        let offset = self.bytes.len();
        write(&mut self.bytes);
        let entry = &mut self.entries[place as usize];
        entry.offset = offset;
        entry.len = length(self.bytes.len() - offset);
        self.note(id, place, newest);
    }

    /// Takes over what the store holds of `id`; `None`: nothing.
    pub(super) fn load(&mut self, id: &Key<'_>, bytes: Option<&[u8]>) {
        let place = self.place(id);
        self.put(place, bytes.unwrap_or(&[]));
    }

    fn note(&mut self, id: &Key<'_>, place: u32, newest: Option<Timestamp>) {
        let entry = &mut self.entries[place as usize];
        entry.newest = newest.map_or(i64::MIN, Timestamp::micros);
        if !std::mem::replace(&mut entry.is_dirty, true) {
            self.dirty_bytes += entry.len as usize;
            self.dirty.push((OwnedKey::from(*id), place));
        }
    }

    fn put(&mut self, place: u32, bytes: &[u8]) {
        let len = length(bytes.len());
        let entry = &mut self.entries[place as usize];
        if entry.len >= len {
            self.dead += (entry.len - len) as usize;
            self.bytes[entry.offset..entry.offset + bytes.len()].copy_from_slice(bytes);
        } else {
            self.dead += entry.len as usize;
            entry.offset = self.bytes.len();
            self.bytes.extend_from_slice(bytes);
        }
        entry.len = len;
        if self.dead > DEAD_BYTES_MIN && self.dead > self.bytes.len() / 2 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.dead);
        for entry in &mut self.entries {
            let from = entry.offset;
            entry.offset = bytes.len();
            bytes.extend_from_slice(&self.bytes[from..from + entry.len as usize]);
        }
        self.bytes = bytes;
        self.dead = 0;
    }

    /// Visits the records that changed since the last visit.
    pub(super) fn drain_dirty(&mut self, mut visit: impl FnMut(&[u8], &[u8], Option<Timestamp>)) {
        self.dirty_bytes = 0;
        for (id, place) in std::mem::take(&mut self.dirty) {
            let entry = &mut self.entries[place as usize];
            entry.is_dirty = false;
            let newest = (entry.newest != i64::MIN).then(|| Timestamp::from_micros(entry.newest));
            visit(&id.as_key().to_bytes(), &self.bytes[entry.offset..entry.offset + entry.len as usize], newest);
        }
    }

    /// What changed since the last visit.
    pub(super) fn unwritten(&self) -> Unwritten {
        Unwritten { records: self.dirty.len(), bytes: self.dirty_bytes }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.len() * 56
    }

    pub(super) fn clear(&mut self) {
        // The memory goes too: kept, it would count as used, and every checkpoint would forget everything again.
        *self = Self { cleared: self.cleared, ..Self::default() };
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a record is bounded by its columns")
}
