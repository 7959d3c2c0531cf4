//! Sources that a loop pulls from, on a thread of its own: every call may block.
//!
//! A record is a line of a text format (blank ones included, a CSV header not) or a row of Parquet; positions count
//! records from 1. Reading goes on after any position: the same file gives the same rows, versions and positions.
//!
//! Invariants:
//! - rows + dead letters + skipped = records of a [`Delivery`]; its position is that of its last record.
//! - The order of delivery is the order of the file, over all its streams.

pub mod config;
pub mod error;
pub mod lines;
mod parquet_file;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod stop;
mod text_file;

use std::sync::Arc;

use interdict_features::change::ChangeBatch;
use interdict_features::definition::Stream;
use uuid::Uuid;

use crate::dead_letter::DeadLetter;

use config::{FileConfig, Format, Input};
use error::SourceError;
use parquet_file::ParquetSource;
use stop::Stop;
use text_file::TextSource;

/// What a source handed over at once.
#[derive(Debug)]
pub struct Delivery {
    /// Changes in order of delivery: one batch for each run of changes of one stream.
    pub batches: Vec<ChangeBatch>,
    /// Records that became no change, in order of position.
    pub dead: Vec<DeadLetter>,
    /// Records that carry no row by nature: blank lines, tombstones, heartbeats, transaction markers, logical messages.
    pub skipped: u64,
    /// How many records this is.
    pub records: u64,
    /// Where the records stand, of a topic; everything else has the one partition 0.
    pub partition: u32,
    /// Position of the last record in its partition: reading goes on after it once everything here is durable.
    pub position: u64,
    /// The keys that rows had before, where the source tells and somebody asked for them: see [`LeftKey`].
    pub left: Vec<LeftKey>,
}

/// The key (`partition_by`) under which a row was before a change that deleted it or gave it another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftKey {
    /// The change: batch of its [`Delivery`], and place in it.
    pub change: (usize, usize),
    /// The key's text.
    pub key: String,
}

/// A file, a folder of Parquet files, or standard input.
#[derive(Debug)]
pub struct FileSource {
    name: String,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Text(Box<TextSource>),
    Parquet(Box<ParquetSource>),
}

impl FileSource {
    /// Opens the source called `name` at its beginning. `streams` are all streams of the definitions; [`Stop::stop`]
    /// on a clone of `stop` ends a call that waits for a file to grow.
    ///
    /// # Errors
    /// Fatal: the file cannot be opened, is no complete Parquet, lacks a declared column or has one of another type.
    pub fn open(name: &str, config: &FileConfig, streams: &[Arc<Stream>], stop: Stop) -> Result<Self, SourceError> {
        let inner = match config.format {
            Format::Parquet => Inner::Parquet(Box::new(ParquetSource::open(name, config, streams, stop)?)),
            Format::Csv | Format::Json | Format::Debezium => {
                Inner::Text(Box::new(TextSource::open(name, config, streams, stop)?))
            }
        };
        if config.input == Input::Stdin {
            tracing::warn!(source = name, "standard input cannot be read again after a crash; its offset is not kept");
        }
        Ok(Self { name: name.to_owned(), inner })
    }

    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Identity of the content: the hash of the first record's line (of Parquet: of every file's directory). A copy of
    /// the file has the same one, another file under the same path another. Blocks while a followed file has no first
    /// line yet. `None`: the source cannot be resumed (standard input) or holds nothing; keep no offset for it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn incarnation(&self) -> Result<Option<String>, SourceError> {
        let identity = match &self.inner {
            Inner::Text(text) => text.identity()?,
            Inner::Parquet(parquet) => Some(parquet.identity()?),
        };
        Ok(identity.map(|bytes| Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes).to_string()))
    }

    /// Goes on after the record at `position`; to be called before the first [`Self::next`].
    ///
    /// # Errors
    /// Fatal: the file has fewer records, or it is standard input.
    pub fn resume(&mut self, position: u64) -> Result<(), SourceError> {
        match &mut self.inner {
            Inner::Text(text) => text.resume(position),
            Inner::Parquet(parquet) => parquet.resume(position),
        }
    }

    /// The next records, at most `records_max`: what is there, never waiting to fill. `None` at the end, and once
    /// stopped. While a file is followed this waits for the first new line. A read of standard input cannot be
    /// interrupted.
    ///
    /// # Errors
    /// Everything before the failing place was delivered. Fatal: the file is damaged, was truncated or rotated.
    pub fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        match &mut self.inner {
            Inner::Text(text) => text.next(records_max.max(1)),
            Inner::Parquet(parquet) => parquet.next(records_max.max(1)),
        }
    }
}

/// The stream `wanted`, or the only one there is.
pub(crate) fn stream_called(
    name: &str,
    wanted: Option<&str>,
    streams: &[Arc<Stream>],
) -> Result<Arc<Stream>, SourceError> {
    let found = match (wanted, streams) {
        (None, [only]) => Some(only),
        (Some(wanted), _) => streams.iter().find(|stream| stream.name == wanted),
        _ => None,
    };
    found.cloned().ok_or_else(|| SourceError::UnknownStream {
        name: name.to_owned(),
        stream: wanted.unwrap_or("(none named)").to_owned(),
    })
}

#[cfg(test)]
mod tests;
