//! Reads the decision log back, for audit.
//!
//! Only published files are read. While a writer is at work a batch of several files may be seen in part; what is
//! read is always complete records, each once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use interdict_features::decision::DecisionRecord;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::columns::{POSITION, RECORD};
use crate::error::MonitorError;

/// One logged decision.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its position in the decision log.
    pub position: u64,
    /// The record, bit for bit as it was pushed.
    pub record: DecisionRecord,
}

/// Every decision in the log under `dir`, file by file in order of first position; positions ascend within a file.
/// Holds one file's batch of rows in memory at a time.
///
/// # Errors
/// Transient when a folder cannot be listed. The items fail when a file cannot be read; a file that is not this
/// log's Parquet is Fatal.
pub fn read(dir: &Path) -> Result<Entries, MonitorError> {
    let mut files = files(dir)?;
    files.sort_by(|a, b| b.file_name().cmp(&a.file_name()).then_with(|| b.cmp(a)));
    Ok(Entries { files, open: None, batch: None })
}

/// The logged decision of the highest position under `dir`, if there is any.
///
/// # Errors
/// As the items of [`read`].
pub fn last(dir: &Path) -> Result<Option<Entry>, MonitorError> {
    // FIRST-LAST.parquet
    let last_of = |file: &PathBuf| file.file_stem().and_then(|stem| Some(stem.to_str()?.split_once('-')?.1.to_owned()));
    let newest = files(dir)?.into_iter().max_by_key(last_of);
    let entries = Entries { files: newest.into_iter().collect(), open: None, batch: None };
    entries.last().transpose()
}

/// Iterator over the logged decisions, made by [`read`].
#[derive(Debug)]
pub struct Entries {
    /// Files not yet opened, the next one last.
    pub(super) files: Vec<PathBuf>,
    open: Option<(PathBuf, ParquetRecordBatchReader)>,
    batch: Option<(RecordBatch, usize)>,
}

impl Entries {
    fn step(&mut self) -> Result<Option<Entry>, MonitorError> {
        loop {
            if let Some((batch, row)) = self.batch.as_mut()
                && *row < batch.num_rows()
            {
                let path = self.open.as_ref().map_or(Path::new(""), |(path, _)| path.as_path());
                let entry = entry_of(path, batch, *row);
                *row += 1;
                return entry.map(Some);
            }
            self.batch = None;
            if let Some((path, reader)) = self.open.as_mut() {
                match reader.next() {
                    Some(Ok(batch)) => self.batch = Some((batch, 0)),
                    Some(Err(error)) => return Err(undecodable(path, error.into())),
                    None => self.open = None,
                }
                continue;
            }
            let Some(path) = self.files.pop() else {
                return Ok(None);
            };
            let reader = open(&path)?;
            self.open = Some((path, reader));
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, MonitorError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if matches!(item, Some(Err(_))) {
            // The rest of a file that failed is not read: its error was told, the other files follow.
            self.open = None;
            self.batch = None;
        }
        item
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReader, MonitorError> {
    let file = File::open(path).map_err(|error| MonitorError::io("opening", path, error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| undecodable(path, error))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [POSITION, RECORD]);
    builder.with_projection(mask).build().map_err(|error| undecodable(path, error))
}

fn entry_of(path: &Path, batch: &RecordBatch, row: usize) -> Result<Entry, MonitorError> {
    let missing = || MonitorError::Corrupt {
        path: path.to_owned(),
        why: format!("it has no columns {POSITION} and {RECORD}; only this log's files belong in its folders"),
    };
    let positions = batch.column_by_name(POSITION).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let records = batch.column_by_name(RECORD).and_then(|column| column.as_string_opt::<i32>());
    let (Some(positions), Some(records)) = (positions, records) else {
        return Err(missing());
    };
    if positions.is_null(row) || records.is_null(row) {
        return Err(missing());
    }
    Ok(Entry { position: positions.value(row), record: serde_json::from_str(records.value(row))? })
}

fn undecodable(path: &Path, source: parquet::errors::ParquetError) -> MonitorError {
    MonitorError::Decode { path: path.to_owned(), source }
}

/// Whether any file is published under `dir`.
pub(super) fn has_files(dir: &Path) -> Result<bool, MonitorError> {
    Ok(!files(dir)?.is_empty())
}

/// The published files: `model=/date=/hour=/*.parquet`.
fn files(dir: &Path) -> Result<Vec<PathBuf>, MonitorError> {
    let mut folders = vec![dir.to_owned()];
    for prefix in ["model=", "date=", "hour="] {
        let mut below = Vec::new();
        for folder in folders {
            below.extend(entries(&folder, |name| name.starts_with(prefix))?);
        }
        folders = below;
    }
    let mut files = Vec::new();
    for folder in folders {
        files.extend(entries(&folder, |name| name.ends_with(".parquet"))?);
    }
    Ok(files)
}

fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, MonitorError> {
    let failed = |error| MonitorError::io("listing", folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
