//! History in Parquet: the columnar path that backfill, batch scoring and file sources share.
//!
//! Columns are found by name; others are ignored. `_position` (and `_position_row`) order versions and equal times when
//! they are there, otherwise the row's ordinal does, counted from 1 over all files in order. `_op` (`insert`, `snapshot`,
//! `update`, `delete`, `truncate`, `lost`, `recovered`, `settled` or Debezium's letters) overrides what rows are taken as; `_arrival` and `_unchanged` are those of an archive
//! ([`crate::archive`]), whose folder of a stream is read as it stands.
//!
//! Invariants:
//! - Every row of a group is either in its batch or in its dead letters.
//! - A row's position is its ordinal over the whole history, whatever thread reads it and in whatever order.

pub(crate) mod columns;
mod conversion;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use interdict_features::change::{ChangeBatch, Op};
use interdict_features::definition::Stream;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use crate::dead_letter::DeadLetter;
use crate::source::error::SourceError;

use columns::Plan;

/// Rows converted at a time: their cells stay within the second-level cache while the columns are filled one by one.
const ROWS_PER_STEP: usize = 8192;

/// Rows that room is made for before any was read: one group as most writers make them.
const ROWS_RESERVED_MAX: usize = 1 << 20;

/// How the folders of an archived stream's days begin.
const PARTITION: &[u8] = b"date=";

/// One Parquet file of a stream's history. Reading opens the file anew per call, so that threads share one of these.
#[derive(Debug)]
pub struct HistoryFile {
    path: PathBuf,
    stream: Arc<Stream>,
    source: String,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    plan: Plan,
    rows_as: Op,
    /// Ordinal of the row before each group's first, and of the last row at the end.
    starts: Vec<u64>,
}

impl HistoryFile {
    /// Reads the footer of the file at `path` and checks its columns against those of `stream`. Rows are taken as
    /// [`Op::Snapshot`] and counted from 1.
    ///
    /// # Errors
    /// Fatal: the file is missing or no complete Parquet file, a declared column is missing, or its type does not
    /// convert exactly; each names what to write instead.
    pub fn open(path: &Path, stream: Arc<Stream>) -> Result<Self, SourceError> {
        Self::open_as(path, stream, &path.display().to_string(), Op::Snapshot, 0)
    }

    pub(crate) fn open_as(
        path: &Path,
        stream: Arc<Stream>,
        source: &str,
        rows_as: Op,
        rows_before: u64,
    ) -> Result<Self, SourceError> {
        let file = open_file(path)?;
        let load = || ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
        let metadata = catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_panic| Err(ParquetError::General("its directory is damaged".to_owned())))
            .map_err(|source| SourceError::NotParquet { path: path.to_owned(), source })?;
        let (plan, roots) = Plan::new(path, &stream, metadata.schema())?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        let mut starts = vec![rows_before];
        for group in metadata.metadata().row_groups() {
            let last = starts.last().copied().unwrap_or_default();
            starts.push(last.saturating_add(u64::try_from(group.num_rows()).unwrap_or_default()));
        }
        Ok(Self { path: path.to_owned(), stream, source: source.to_owned(), metadata, mask, plan, rows_as, starts })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stream whose rows these are.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// How many row groups the file has.
    #[must_use]
    pub fn row_groups(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many rows group `group` has.
    ///
    /// # Panics
    /// When `group` is not below [`Self::row_groups`].
    #[must_use]
    pub fn group_rows(&self, group: usize) -> u64 {
        self.starts[group + 1] - self.starts[group]
    }

    /// Ordinal, over the whole history, of the row before group `group`'s first.
    ///
    /// # Panics
    /// When `group` is not below [`Self::row_groups`].
    #[must_use]
    pub fn group_start(&self, group: usize) -> u64 {
        self.starts[group]
    }

    /// How many rows the file has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows_end() - self.starts[0]
    }

    /// Ordinal of the file's last row over the whole history.
    pub(crate) fn rows_end(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// All rows of one group, in file order, and those that became dead letters. Callable from several threads.
    ///
    /// # Errors
    /// Fatal: the group is damaged; nothing of it is returned.
    ///
    /// # Panics
    /// When `group` is not below [`Self::row_groups`].
    pub fn read_group(&self, group: usize) -> Result<(ChangeBatch, Vec<DeadLetter>), SourceError> {
        let mut batch = ChangeBatch::new(Arc::clone(&self.stream), 0);
        // A damaged footer may claim any number of rows: room is made for at most the rows of a usual group.
        batch.reserve(usize::try_from(self.group_rows(group)).unwrap_or(usize::MAX).min(ROWS_RESERVED_MAX));
        let mut dead = Vec::new();
        let mut reader = self.read_group_from(group, 0)?;
        while reader.read_into(self, ROWS_PER_STEP, &mut batch, &mut dead)? > 0 {}
        Ok((batch, dead))
    }

    /// Begins to read a group after its first `skip` rows.
    pub(crate) fn read_group_from(&self, group: usize, skip: u64) -> Result<GroupReader, SourceError> {
        let damaged = |source| SourceError::RowGroup {
            path: self.path.clone(),
            group,
            rows_before: self.starts[group] + skip,
            source,
        };
        let file = open_file(&self.path)?;
        let build = || {
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(self.mask.clone())
                .with_row_groups(vec![group])
                .with_offset(usize::try_from(skip).unwrap_or(usize::MAX))
                .with_batch_size(ROWS_PER_STEP)
                .build()
        };
        let reader = catch_unwind(AssertUnwindSafe(build))
            .unwrap_or_else(|_panic| Err(ParquetError::General("its pages are damaged".to_owned())))
            .map_err(damaged)?;
        Ok(GroupReader { reader, group, rows_done: self.starts[group] + skip, rest: None })
    }

    /// The group that holds the row after row `ordinal` of the whole history, and how many of its rows come before.
    pub(crate) fn place_after(&self, ordinal: u64) -> (usize, u64) {
        let group = self.starts.partition_point(|start| *start <= ordinal).saturating_sub(1);
        (group, ordinal - self.starts[group])
    }

    /// What tells this content from another: the file's directory, which holds the size, place and statistics of
    /// every column chunk.
    pub(crate) fn identity(&self) -> Result<Vec<u8>, SourceError> {
        let io = |source| SourceError::Io { action: "read", path: self.path.clone(), source };
        let mut file = open_file(&self.path)?;
        let mut tail = [0; 8];
        file.seek(SeekFrom::End(-8)).map_err(io)?;
        file.read_exact(&mut tail).map_err(io)?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        file.seek(SeekFrom::End(-8 - i64::from(length))).map_err(io)?;
        let mut directory = Vec::new();
        file.take(u64::from(length)).read_to_end(&mut directory).map_err(io)?;
        Ok(directory)
    }
}

/// Reads one row group in steps.
pub(crate) struct GroupReader {
    reader: ParquetRecordBatchReader,
    group: usize,
    rows_done: u64,
    rest: Option<RecordBatch>,
}

impl GroupReader {
    /// Converts the next rows, at most `limit`, to changes and dead letters; returns how many rows it took, 0 at the
    /// group's end.
    pub(crate) fn read_into(
        &mut self,
        file: &HistoryFile,
        limit: usize,
        batch: &mut ChangeBatch,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<usize, SourceError> {
        let Some(rows) = self.rows(file)? else {
            return Ok(0);
        };
        let taken = rows.num_rows().min(limit.max(1));
        if taken < rows.num_rows() {
            self.rest = Some(rows.slice(taken, rows.num_rows() - taken));
        }
        file.plan.decode(&rows.slice(0, taken), self.rows_done, file.rows_as, &file.source, batch, dead);
        self.rows_done += taken as u64;
        Ok(taken)
    }

    fn rows(&mut self, file: &HistoryFile) -> Result<Option<RecordBatch>, SourceError> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        // The Parquet reader panics on some damaged pages; a damaged file must not take the process with it.
        let read = catch_unwind(AssertUnwindSafe(|| self.reader.next()));
        let why = match read {
            Ok(Some(Ok(rows))) if rows.num_rows() > 0 => return Ok(Some(rows)),
            Ok(None) if self.rows_done == file.starts[self.group + 1] => return Ok(None),
            Ok(Some(Err(error))) => error.to_string(),
            Ok(_) => "the file's directory promises more rows".to_owned(),
            Err(_panic) => "its pages are damaged".to_owned(),
        };
        Err(SourceError::RowGroup {
            path: file.path.clone(),
            group: self.group,
            rows_before: self.rows_done,
            source: ParquetError::General(why),
        })
    }

    /// Ordinal of the last row read.
    pub(crate) fn rows_done(&self) -> u64 {
        self.rows_done
    }
}

/// Several files of one stream's history, in order, their rows counted through.
#[derive(Debug)]
pub struct History {
    files: Vec<HistoryFile>,
    /// File and group within it, in order.
    groups: Vec<(usize, usize)>,
}

impl History {
    /// Opens a file, every `*.parquet` of a folder, or the files that match a pattern with `*` and `?` in its last
    /// part; in order of name. Of a folder with partitions (`date=...`) and no file of its own: those of the partitions, by their own names.
    ///
    /// # Errors
    /// Fatal: nothing matches, or as [`HistoryFile::open`] for the first file that fails.
    pub fn open(path: &Path, stream: &Arc<Stream>) -> Result<Self, SourceError> {
        Self::open_as(path, stream, None, Op::Snapshot)
    }

    pub(crate) fn open_as(
        path: &Path,
        stream: &Arc<Stream>,
        source: Option<&str>,
        rows_as: Op,
    ) -> Result<Self, SourceError> {
        let mut files: Vec<HistoryFile> = Vec::new();
        for path in matching(path)? {
            let before = files.last().map_or(0, HistoryFile::rows_end);
            let name = source.map_or_else(|| path.display().to_string(), str::to_owned);
            files.push(HistoryFile::open_as(&path, Arc::clone(stream), &name, rows_as, before)?);
        }
        let groups = files
            .iter()
            .enumerate()
            .flat_map(|(file, opened)| (0..opened.row_groups()).map(move |g| (file, g)))
            .collect();
        Ok(Self { files, groups })
    }

    /// The files, in order.
    #[must_use]
    pub fn files(&self) -> &[HistoryFile] {
        &self.files
    }

    /// The file that row `ordinal` (counted from 1 over all files) stands in.
    #[must_use]
    pub fn file_of(&self, ordinal: u64) -> Option<&HistoryFile> {
        self.files.iter().find(|file| ordinal <= file.rows_end())
    }

    /// How many row groups all files have together.
    #[must_use]
    pub fn row_groups(&self) -> usize {
        self.groups.len()
    }

    /// How many rows all files have together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.last().map_or(0, HistoryFile::rows_end)
    }

    /// All rows of one group, counted over all files. Callable from several threads.
    ///
    /// # Errors
    /// As [`HistoryFile::read_group`].
    ///
    /// # Panics
    /// When `group` is not below [`Self::row_groups`].
    pub fn read_group(&self, group: usize) -> Result<(ChangeBatch, Vec<DeadLetter>), SourceError> {
        let (file, group) = self.groups[group];
        self.files[file].read_group(group)
    }
}

fn open_file(path: &Path) -> Result<File, SourceError> {
    File::open(path).map_err(|source| SourceError::Io { action: "open", path: path.to_owned(), source })
}

/// The files that a path, folder or pattern names, in order of name.
fn matching(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (folder, pattern) = if path.is_dir() {
        (path.to_owned(), "*.parquet".to_owned())
    } else if name.contains(['*', '?']) && !path.exists() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (folder.to_owned(), name)
    } else {
        return Ok(vec![path.to_owned()]);
    };
    let mut found = listed(&folder, |path, name| path.is_file() && matches(pattern.as_bytes(), name))?;
    if found.is_empty() && path.is_dir() {
        for partition in listed(&folder, |path, name| path.is_dir() && name.starts_with(PARTITION))? {
            found.extend(listed(&partition, |path, name| path.is_file() && matches(pattern.as_bytes(), name))?);
        }
        // Their names begin with positions.
        found.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    }
    if found.is_empty() {
        return Err(SourceError::NoFiles { path: path.to_owned() });
    }
    Ok(found)
}

/// What of a folder `is_wanted` by its path and name, in order of name.
fn listed(folder: &Path, is_wanted: impl Fn(&Path, &[u8]) -> bool) -> Result<Vec<PathBuf>, SourceError> {
    let io = |source| SourceError::Io { action: "list", path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if is_wanted(&entry.path(), entry.file_name().as_encoded_bytes()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..])),
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) if a == b => matches(&pattern[1..], &name[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
