//! The decision log as Parquet files: batches records, encodes and publishes them, tells how far they are durable.
//!
//! The caller reads decisions in order from the store's log and hands each over with its position. Positions ascend
//! strictly and need not be dense. After a restart it goes on at the position [`LogWriter::open`] returns; what comes
//! again before it is passed over.
//!
//! Invariants:
//! - After any crash every record before the durable position is in exactly one file, and no record at or after it
//!   is in any: [`publish`] makes a batch appear in all its partitions or in none. So the batches of a replay may
//!   have any other boundaries.
//! - Of what the store has not noted ([`LogWriter::note`]) the manifest knows the files, over any crash: where another folder turns out to
//!   hold it, it is taken out again.
//! - A failed write loses nothing: the encoded batch is kept and tried again; until it is written one further batch
//!   is taken, then [`LogWriter::push`] fails.

mod columns;
mod partition;
mod publish;
mod read;
#[cfg(test)]
mod tests;

use std::path::Path;

use interdict_features::decision::DecisionRecord;
use interdict_features::time::{Span, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use self::columns::Rows;
use self::partition::{Partition, file_name};
use self::publish::{Encoded, Probe, Publisher, Stage};
pub use self::read::{Entries, Entry, last, read};
use crate::error::MonitorError;

/// When a batch is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// With this many rows.
    pub rows_max: usize,
    /// This long after its first row came, at the next [`LogWriter::tick`].
    pub age_max: Span,
    /// With this many bytes of records; bounds the memory, together with the batch that waits for the disk.
    pub bytes_max: usize,
    /// With this many files: records of hours far apart, such as a replay, make a file each.
    pub files_max: usize,
}

impl Default for LogOptions {
    /// 10,000 rows or a minute: bytes per row are fine from 1,000 rows on, the price of smaller batches is the number of files.
    fn default() -> Self {
        Self { rows_max: 10_000, age_max: Span::from_micros(60_000_000), bytes_max: 64 << 20, files_max: 64 }
    }
}

/// A batch on its way to disk.
#[derive(Debug)]
struct Sealed {
    files: Vec<Encoded>,
    next_position: u64,
    rows: usize,
    stage: Stage,
}

/// Counts since the writer was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogCounts {
    /// Rows published.
    pub rows: u64,
    /// Files published.
    pub files: u64,
    /// Records passed over because they were durable already.
    pub repeated: u64,
}

/// What became of a record handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It is in the open batch.
    Taken,
    /// It was taken before.
    Repeated,
}

/// Writes decisions to Parquet, each exactly once. Calls block on the disk: not for an async thread.
#[derive(Debug)]
pub struct LogWriter {
    options: LogOptions,
    publisher: Publisher,
    open: Vec<(Partition, Rows)>,
    /// When the first row of the open batch came.
    since: Option<Timestamp>,
    sealed: Option<Sealed>,
    /// The position after the last record taken.
    next: u64,
    counts: LogCounts,
    /// A batch could not be encoded: its records are not in any file, and nothing after them may be.
    is_broken: bool,
}

impl LogWriter {
    /// Opens the log in `dir`, creating it when it is not there, and finishes a publication that a crash interrupted.
    /// Returns the writer and the position at which the caller goes on: every record before it is durable.
    ///
    /// # Errors
    /// Fatal when another process writes there or the folder is not this log's; Transient when a file operation fails.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Self, u64), MonitorError> {
        Self::open_probed(dir, options, Box::new(|_| Ok(())))
    }

    fn open_probed(dir: &Path, options: LogOptions, probe: Probe) -> Result<(Self, u64), MonitorError> {
        let publisher = Publisher::open(dir, probe)?;
        let next = publisher.next_position();
        let writer = Self {
            options,
            publisher,
            open: Vec::new(),
            since: None,
            sealed: None,
            next,
            counts: LogCounts::default(),
            is_broken: false,
        };
        Ok((writer, next))
    }

    /// Takes one record; not durable before a flush says so. A record that was taken before is passed over.
    /// A full batch is published first.
    ///
    /// # Errors
    /// The record was not taken: Transient when the batches before it cannot be written, push it again later;
    /// Fatal when a batch could not be encoded: open the log anew, it goes on at the durable position.
    pub fn push(&mut self, position: u64, record: &DecisionRecord, now: Timestamp) -> Result<Pushed, MonitorError> {
        self.check_broken()?;
        if position < self.next {
            self.counts.repeated += 1;
            return Ok(Pushed::Repeated);
        }
        let json = serde_json::to_string(record)?;
        if self.is_full() {
            self.flush()?;
        }
        let partition = Partition::of(record);
        let fitting = self.open.iter().position(|(known, rows)| *known == partition && rows.fits(record));
        let index = fitting.unwrap_or_else(|| {
            self.open.push((partition, Rows::like(record)));
            self.open.len() - 1
        });
        self.open[index].1.push(position, record, &json);
        self.since.get_or_insert(now);
        self.next = position.saturating_add(1);
        Ok(Pushed::Taken)
    }

    /// Publishes what is due by size or age. Returns the durable position.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn tick(&mut self, now: Timestamp) -> Result<u64, MonitorError> {
        if self.is_due(now) { self.flush() } else { Ok(self.durable()) }
    }

    /// Whether the next call publishes.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let is_old = self.since.is_some_and(|since| now.since(since) >= self.options.age_max);
        is_old || self.is_full() || self.sealed.is_some()
    }

    /// Publishes everything taken so far. Returns the position before which every record is durable: what the
    /// store's log may forget.
    ///
    /// # Errors
    /// Transient when the disk fails or is full: nothing is lost, the next call tries again from where this one
    /// stopped. Fatal when records cannot be encoded.
    pub fn flush(&mut self) -> Result<u64, MonitorError> {
        self.check_broken()?;
        self.publish_sealed()?;
        if !self.open.is_empty() {
            let rows = self.open.iter().map(|(_, rows)| rows.rows()).sum();
            let open = std::mem::take(&mut self.open);
            let files =
                open.into_iter().map(encode).collect::<Result<_, _>>().inspect_err(|_| self.is_broken = true)?;
            self.sealed = Some(Sealed { files, next_position: self.next, rows, stage: Stage::Encoded });
            self.since = None;
            self.publish_sealed()?;
        }
        Ok(self.durable())
    }

    /// Forgets what was taken and is not durable: the store that it came from has lost it. The next record is that at the durable position.
    ///
    /// # Errors
    /// As [`Self::flush`], where a publication was cut short beyond the point of no return.
    pub fn rewind(&mut self) -> Result<(), MonitorError> {
        if self.sealed.as_ref().is_some_and(|sealed| sealed.stage == Stage::Committed) {
            self.publish_sealed()?;
        }
        self.forget();
        Ok(())
    }

    /// Goes on at `position`: everything before it that the store has not noted as this folder's is in another one. What was taken is
    /// forgotten, what was published is taken out, and readers see its files no more.
    ///
    /// # Errors
    /// As [`Self::flush`]; call it again.
    pub fn go_on_at(&mut self, position: u64) -> Result<(), MonitorError> {
        self.rewind()?;
        let withdrawn = self.publisher.withdraw(position);
        // Wherever the folder stands by now.
        self.forget();
        withdrawn
    }

    fn forget(&mut self) {
        self.sealed = None;
        self.open.clear();
        self.since = None;
        self.next = self.durable();
    }

    fn publish_sealed(&mut self) -> Result<(), MonitorError> {
        if let Some(sealed) = self.sealed.as_mut() {
            self.publisher.publish(&sealed.files, sealed.next_position, &mut sealed.stage)?;
            self.counts.rows += sealed.rows as u64;
            self.counts.files += sealed.files.len() as u64;
            self.sealed = None;
        }
        Ok(())
    }

    fn check_broken(&self) -> Result<(), MonitorError> {
        if self.is_broken { Err(MonitorError::Broken { position: self.durable() }) } else { Ok(()) }
    }

    /// The log's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.publisher.dir()
    }

    /// The position after the last record taken.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.next
    }

    /// The position before which every record is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.publisher.next_position()
    }

    /// What this folder is known by, wherever it is moved.
    #[must_use]
    pub fn folder(&self) -> Uuid {
        self.publisher.folder()
    }

    /// The position before which the store has noted every record, as far as is known; it ends no later than [`Self::durable`].
    #[must_use]
    pub fn noted(&self) -> u64 {
        self.publisher.noted()
    }

    /// The store has noted that everything before `position` is in this folder or in another one.
    pub fn note(&mut self, position: u64) {
        self.publisher.note(position);
    }

    /// Rows taken and not yet durable.
    #[must_use]
    pub fn unflushed_rows(&self) -> usize {
        let open: usize = self.open.iter().map(|(_, rows)| rows.rows()).sum();
        open + self.sealed.as_ref().map_or(0, |sealed| sealed.rows)
    }

    /// What was written since the writer was opened.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        self.counts
    }

    fn is_full(&self) -> bool {
        let rows: usize = self.open.iter().map(|(_, rows)| rows.rows()).sum();
        let bytes: usize = self.open.iter().map(|(_, rows)| rows.bytes()).sum();
        rows >= self.options.rows_max || bytes >= self.options.bytes_max || self.open.len() >= self.options.files_max
    }
}

/// Encodes the rows of one file. Its footer names its positions and their number.
fn encode((partition, rows): (Partition, Rows)) -> Result<Encoded, MonitorError> {
    let (first, last) = rows.span();
    let count = rows.rows();
    let failed = |source| MonitorError::Encode { source };
    let batch = rows.finish().map_err(|error| failed(error.into()))?;
    let level = ZstdLevel::try_new(3).map_err(failed)?;
    let facts = [("format", 1), ("first_position", first), ("last_position", last), ("rows", count as u64)];
    let facts = facts.map(|(key, value)| KeyValue::new(format!("interdict.{key}"), value.to_string()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_key_value_metadata(Some(facts.to_vec()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    let bytes = writer.into_inner().map_err(failed)?;
    Ok(Encoded { folder: partition.folder(), name: file_name(first, last), bytes })
}
