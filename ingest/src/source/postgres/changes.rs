//! From rows of transactions to deliveries.
//!
//! Row version: the LSN of the commit and the row's number within the transaction, from 1; rows of the snapshot have
//! the LSN that the snapshot is consistent with and number 0. Every transaction in the snapshot committed before that
//! LSN and every streamed one at or after it, so that a snapshot row is older than any change of it.
//!
//! Invariants:
//! - Versions grow in order of delivery; a row at or below the newest delivered one is left out, so that a connection
//!   that begins anew delivers nothing twice.
//! - The position is the end of the last transaction that was delivered completely: a transaction handed over in parts
//!   moves it with its last part. It never shrinks.
//! - rows + dead letters + skipped = records.
//! - A row that moves to another partition comes as a delete and an insert of the same id, one behind the other: it is one update. So the delete
//!   of a row of a partitioned table is held back until the next row comes, or the end of its transaction, and counts as not delivered.

mod held;

use std::sync::Arc;

use interdict_features::change::{Change, Op, Version};
use interdict_features::definition::{OnDelete, Stream};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;

use crate::dead_letter::{DeadLetter, DeadReason, Fault};
use crate::decoder::{Batches, finish};
use crate::source::{Delivery, LeftKey};

use super::check::Found;
use super::left::{self, Keys, key_before};
use super::message::{Cell, Malformed, Message, Old, Tuple, parse};
use super::recovery::Taking;
use super::row::{is_moved, read_row};
use super::table::{Catalog, Lacking, Places, Unfit};
use super::value::{set, unavailable};
use held::Held;

/// Microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Decodes a session's rows into deliveries.
pub(super) struct Changes {
    source: String,
    catalog: Catalog,
    batches: Batches,
    dead: Vec<DeadLetter>,
    keys: Keys,
    left: Vec<LeftKey>,
    skipped: u64,
    records: u64,
    /// Rows since they were last counted that lack a column.
    lacking: u64,
    transaction: Option<Transaction>,
    held: Option<Held>,
    /// The newest version delivered.
    floor: Version,
    position: u64,
    /// The position that was last handed over.
    handed: u64,
    /// Up to where the server has read without finding more.
    idle: u64,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes")
            .field("source", &self.source)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// The transaction that rows belong to.
#[derive(Clone, Copy, Debug)]
struct Transaction {
    commit_lsn: u64,
    arrival: Option<Timestamp>,
    rows: u32,
}

/// A row that was not delivered before.
struct Numbered {
    /// `None`: its table feeds no stream.
    places: Option<Arc<Places>>,
    change: Change,
}

/// Why a frame stops the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// The frame is not what the protocol says.
    Frame(Malformed),
    /// A table no longer fits its stream.
    Table(Unfit),
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self::Frame(malformed)
    }
}

/// Which row a change is of.
#[derive(Clone, Copy)]
struct RowPlace {
    table: usize,
    change: Change,
}

impl Changes {
    pub(super) fn new(source: &str, catalog: Catalog) -> Self {
        let streams: Vec<Arc<Stream>> = catalog.tables().iter().map(|table| Arc::clone(&table.stream)).collect();
        Self {
            source: source.to_owned(),
            catalog,
            batches: Batches::new(streams),
            dead: Vec::new(),
            keys: Keys::Unasked,
            left: Vec::new(),
            skipped: 0,
            records: 0,
            lacking: 0,
            transaction: None,
            held: None,
            floor: Version::REQUEST,
            position: 0,
            handed: 0,
            idle: 0,
        }
    }

    /// From now on deliveries say which keys rows left.
    pub(super) fn note_keys(&mut self) {
        self.keys = Keys::Noted;
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Takes note of what the tables are.
    pub(super) fn know_tables(&mut self, found: Vec<Found>) {
        self.catalog.know(found);
    }

    /// The end of the last transaction that was delivered completely.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Records since the last [`Self::take`].
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Whether rows of an unfinished transaction were seen.
    pub(super) fn is_within_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Everything that committed before `position` was delivered.
    pub(super) fn go_on_after(&mut self, position: u64) {
        self.position = self.position.max(position);
        self.handed = self.position;
        self.floor = self.floor.max(Version::new(position));
    }

    /// A new connection: it describes its relations and repeats the transaction that was cut off.
    pub(super) fn reconnected(&mut self) {
        (self.transaction, self.held) = (None, None);
        self.idle = 0;
        self.catalog.forget();
    }

    pub(super) fn begin(&mut self, commit_lsn: u64, commit_micros: i64) {
        let arrival = commit_micros.checked_add(EPOCH_MICROS).and_then(Timestamp::checked_from_micros);
        self.transaction = Some(Transaction { commit_lsn, arrival, rows: 0 });
    }

    /// Ends the transaction; says when it committed, if it had rows.
    pub(super) fn commit(&mut self, end_lsn: u64) -> Option<Timestamp> {
        self.release();
        let transaction = self.transaction.take();
        self.position = self.position.max(end_lsn);
        transaction.filter(|transaction| transaction.rows > 0).and_then(|transaction| transaction.arrival)
    }

    /// The server has read its log up to `lsn`.
    pub(super) fn read_up_to(&mut self, lsn: u64) {
        if self.transaction.is_none() {
            self.idle = self.idle.max(lsn);
        }
    }

    /// Moves the position to where the server has read, when it has found nothing of ours since; says whether the
    /// position is beyond the one that was last handed over.
    pub(super) fn take_idle(&mut self) -> bool {
        if self.transaction.is_some() || self.records > 0 {
            return false;
        }
        self.position = self.position.max(self.idle);
        self.position > self.handed
    }

    /// What was decoded since the last call.
    pub(super) fn take(&mut self) -> Delivery {
        self.handed = self.position;
        Delivery {
            batches: self.batches.take(),
            dead: std::mem::take(&mut self.dead),
            skipped: std::mem::take(&mut self.skipped),
            records: std::mem::take(&mut self.records),
            partition: 0,
            position: self.position,
            left: std::mem::take(&mut self.left),
        }
    }

    /// Rows since the last call that lack a column of their stream.
    pub(super) fn take_lacking(&mut self) -> u64 {
        std::mem::take(&mut self.lacking)
    }

    /// Decodes one frame.
    pub(super) fn frame(&mut self, frame: &[u8], lacking: Lacking) -> Result<(), Broken> {
        let message = parse(frame)?;
        if !matches!(message, Message::Relation(_) | Message::Insert { .. } | Message::Other) {
            self.release();
        }
        match message {
            Message::Relation(relation) => self.catalog.describe(&relation, lacking).map_err(Broken::Table),
            Message::Insert { relation, new } => {
                let moved = self.take_moved(relation, new);
                self.row(relation, |changes, places, change| match moved.as_ref().and_then(Held::old) {
                    None => changes.insert(places, change, new),
                    old => changes.update(places, change, old, new),
                })
            }
            Message::Update { relation, old, new } => self.row(relation, |changes, places, change| {
                changes.update(places, change, old, new);
            }),
            Message::Delete { relation, old } => match self.number(relation)? {
                Some(Numbered { places: Some(places), change }) if self.catalog.is_partitioned(places.table) => {
                    self.held = Some(Held::new(relation, (places, change), frame));
                    Ok(())
                }
                Some(row) => {
                    self.take_row(row, |changes, places, change| changes.delete(places, change, old));
                    Ok(())
                }
                None => Ok(()),
            },
            Message::Truncate { relations } => {
                for relation in relations.iter() {
                    self.row(relation, |changes, places, change| changes.truncate(places, change))?;
                }
                Ok(())
            }
            Message::Other => Ok(()),
        }
    }

    /// Numbers a row and hands it on, unless it was delivered before or its table feeds no stream.
    fn row(&mut self, relation: u32, take: impl FnOnce(&mut Self, &Places, Change)) -> Result<(), Broken> {
        if let Some(row) = self.number(relation)? {
            self.take_row(row, take);
        }
        Ok(())
    }

    /// Numbers a row; `None` if it was delivered before.
    fn number(&mut self, relation: u32) -> Result<Option<Numbered>, Broken> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Malformed("a row outside of a transaction").into());
        };
        // Past four billion rows of one transaction the numbers end; its later rows count as the last one's repetition.
        transaction.rows = transaction.rows.saturating_add(1);
        let version = Version { major: transaction.commit_lsn, minor: transaction.rows };
        let (arrival, position) = (transaction.arrival, transaction.commit_lsn);
        let Some(places) = self.catalog.places_of(relation) else {
            return Err(Malformed("a row of a table that was not described").into());
        };
        let change = Change { op: Op::Insert, version, arrival, position };
        Ok((version > self.floor).then(|| Numbered { places: places.map(Arc::clone), change }))
    }

    fn take_row(&mut self, row: Numbered, take: impl FnOnce(&mut Self, &Places, Change)) {
        let Numbered { places, change } = row;
        self.floor = change.version;
        match places {
            None => {
                self.records += 1;
                self.skipped += 1;
            }
            Some(places) => {
                self.lacking += u64::from(places.are_lacking());
                take(self, &places, change);
            }
        }
    }

    fn insert(&mut self, places: &Places, change: Change, new: Tuple<'_>) {
        let place = RowPlace { table: places.table, change };
        let fault = self.write(place, |writer| read_row(writer, places, new, None));
        self.note(place, fault);
    }

    fn update(&mut self, places: &Places, change: Change, old: Option<Old<'_>>, new: Tuple<'_>) {
        let id = self.stream(places).id;
        if let Some(old) = old.filter(|old| is_moved(places, id, old.tuple(), new)) {
            // Another id is another event: the old one is gone and a new one is there, as Debezium has it.
            self.delete(places, change, old);
            self.insert_whole(places, change, old, new);
            return;
        }
        let place = RowPlace { table: places.table, change: Change { op: Op::Update, ..change } };
        let fault = self.write(place, |writer| read_row(writer, places, new, old));
        if let (Ok(()), Some(old)) = (&fault, old) {
            self.note_left(places, old);
        }
        self.note(place, fault);
    }

    /// Notes the key under which the row of the last change was, where it is asked for.
    fn note_left(&mut self, places: &Places, old: Old<'_>) {
        if self.keys == Keys::Noted
            && let Some((batch, place)) = self.batches.last()
        {
            let key = key_before(batch.stream(), places, old);
            left::note(&mut self.left, key, batch, place);
        }
    }

    fn insert_whole(&mut self, places: &Places, change: Change, old: Old<'_>, new: Tuple<'_>) {
        let place = RowPlace { table: places.table, change };
        let fault = self.write(place, |writer| {
            read_row(writer, places, new, Some(old))?;
            let stream = Arc::clone(writer.stream());
            match (0..stream.columns.len()).find(|&column| writer.cell(column) == UNCHANGED) {
                Some(column) => Err(unavailable(&stream.columns[column].name)),
                None => Ok(()),
            }
        });
        self.note(place, fault);
    }

    fn delete(&mut self, places: &Places, change: Change, old: Old<'_>) {
        let stream = Arc::clone(self.stream(places));
        let place = RowPlace { table: places.table, change: Change { op: Op::Delete, ..change } };
        let cell = places.columns[stream.id].and_then(|column| old.tuple().cell(column));
        let Some(Cell::Text(text)) = cell else {
            if stream.on_delete == OnDelete::Ignore {
                self.records += 1;
                self.skipped += 1;
                return;
            }
            let detail = format!(
                "a delete that names no '{}'; set the table's replica identity so that it holds the column",
                stream.columns[stream.id].name
            );
            self.note(place, Err(Fault::new(DeadReason::RowMissing, detail)));
            return;
        };
        let fault = self.write(place, |writer| set(writer, stream.id, text));
        if fault.is_ok() {
            self.note_left(places, old);
        }
        self.note(place, fault);
    }

    fn truncate(&mut self, places: &Places, change: Change) {
        let place = RowPlace { table: places.table, change: Change { op: Op::Truncate, ..change } };
        let fault = self.write(place, |_no_cells| Ok(()));
        self.note(place, fault);
    }

    /// Takes a row of the snapshot that is consistent with `lsn`; `cells` in the order of the stream's columns.
    pub(super) fn snapshot_row<'a>(
        &mut self,
        table: usize,
        (taking, lsn): (Taking, u64),
        cells: impl Iterator<Item = Option<&'a str>>,
    ) {
        let mut writer = self.batches.of(table).begin();
        // All of them, whatever one is: time and id say what becomes of the row.
        let mut read = Ok(());
        for (column, cell) in cells.enumerate() {
            let set = cell.map_or(Ok(()), |text| set(&mut writer, column, text.as_bytes()));
            read = read.and(set);
        }
        let read = read.map_err(|fault: Fault| fault.of_row(&writer.row()));
        let declared = &self.catalog.tables()[table];
        let time = declared.stream.time.map(|time| writer.cell(time));
        let place = RowPlace { table, change: taking.change(declared, lsn, time) };
        let fault = read.and_then(|()| finish(writer, place.change).map(|_row| ()));
        self.note(place, fault);
    }

    /// Says of every row of a table, if `taking` asks for it, that what a snapshot at `lsn` does not hold was lost ([`Op::Lost`]) or is gone
    /// ([`Op::Settled`]).
    pub(super) fn snapshot_mark(&mut self, table: usize, (taking, lsn): (Taking, u64), op: Op) {
        if let Some(change) = taking.mark(&self.catalog.tables()[table], lsn, op) {
            let place = RowPlace { table, change };
            let fault = self.write(place, |_no_cells| Ok(()));
            self.note(place, fault);
        }
    }

    fn stream(&self, places: &Places) -> &Arc<Stream> {
        &self.catalog.tables()[places.table].stream
    }

    fn write(
        &mut self,
        place: RowPlace,
        fill: impl FnOnce(&mut interdict_features::change::RowWriter<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut writer = self.batches.of(place.table).begin();
        fill(&mut writer)?;
        finish(writer, place.change).map(|_row| ())
    }

    /// Counts a row, as a dead letter where it has a fault.
    fn note(&mut self, place: RowPlace, outcome: Result<(), Fault>) {
        self.records += 1;
        let Err(fault) = outcome else { return };
        let table = &self.catalog.tables()[place.table];
        let Version { major, minor } = place.change.version;
        let at = Lsn(major);
        let row = (minor > 0).then_some(minor);
        let detail = match row {
            Some(row) => {
                format!("row {row} of the transaction that committed at {at}, table {table}: {}", fault.detail)
            }
            None => format!("row of the snapshot at {at}, table {table}: {}", fault.detail),
        };
        self.dead.push(DeadLetter {
            source: self.source.clone(),
            partition: 0,
            position: major,
            row,
            stream: Some(table.stream.name.clone()),
            // A streamed row is told by its place; that of a snapshot behind lost changes is another one with every attempt.
            id: fault.id.filter(|_| place.change.op.is_of_snapshot() && place.change.arrival.is_some()),
            version: None,
            op: Some(place.change.op),
            reason: fault.reason,
            detail,
            payload: None,
        });
    }
}

/// A position as PostgreSQL writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lsn(pub(super) u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}
