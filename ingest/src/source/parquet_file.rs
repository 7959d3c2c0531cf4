//! Parquet files as a source.

use std::sync::Arc;

use interdict_features::change::ChangeBatch;
use interdict_features::definition::Stream;

use crate::history::{GroupReader, History, HistoryFile};

use super::config::{FileConfig, Input};
use super::error::SourceError;
use super::stop::Stop;
use super::{Delivery, stream_called};

/// Rows of one or several Parquet files, in order.
pub(super) struct ParquetSource {
    history: History,
    stream: Arc<Stream>,
    stop: Stop,
    file: usize,
    group: usize,
    skip: u64,
    reader: Option<GroupReader>,
    position: u64,
}

impl std::fmt::Debug for ParquetSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetSource")
            .field("file", &self.file)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl ParquetSource {
    pub(super) fn open(
        name: &str,
        config: &FileConfig,
        streams: &[Arc<Stream>],
        stop: Stop,
    ) -> Result<Self, SourceError> {
        let Input::Path(path) = &config.input else {
            return Err(SourceError::NoFiles { path: "standard input".into() });
        };
        let stream = stream_called(name, config.stream.as_deref(), streams)?;
        let history = History::open_as(path, &stream, Some(name), config.reading.rows_as)?;
        Ok(Self { history, stream, stop, file: 0, group: 0, skip: 0, reader: None, position: 0 })
    }

    pub(super) fn identity(&self) -> Result<Vec<u8>, SourceError> {
        let files: Result<Vec<_>, _> = self.history.files().iter().map(HistoryFile::identity).collect();
        Ok(files?.concat())
    }

    pub(super) fn resume(&mut self, position: u64) -> Result<(), SourceError> {
        let files = self.history.files();
        if position > self.history.rows() {
            let path = files.last().map(|file| file.path().to_owned()).unwrap_or_default();
            return Err(SourceError::PositionBeyondEnd { path, records: self.history.rows(), position });
        }
        self.file = files.iter().position(|file| file.rows_end() > position).unwrap_or(files.len());
        (self.group, self.skip) = files.get(self.file).map_or((0, 0), |file| file.place_after(position));
        self.reader = None;
        self.position = position;
        Ok(())
    }

    pub(super) fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        let mut batch = ChangeBatch::new(Arc::clone(&self.stream), 0);
        let mut dead = Vec::new();
        while let Some(file) = self.history.files().get(self.file) {
            if self.stop.is_stopped() {
                return Ok(None);
            }
            if self.group == file.row_groups() {
                (self.file, self.group, self.skip) = (self.file + 1, 0, 0);
                continue;
            }
            if self.reader.is_none() {
                self.reader = Some(file.read_group_from(self.group, self.skip)?);
            }
            let Some(reader) = &mut self.reader else { continue };
            let taken = reader.read_into(file, records_max, &mut batch, &mut dead)?;
            if taken == 0 {
                (self.group, self.skip, self.reader) = (self.group + 1, 0, None);
                continue;
            }
            self.position = reader.rows_done();
            let batches = if batch.is_empty() { Vec::new() } else { vec![batch] };
            let (records, position) = (taken as u64, self.position);
            return Ok(Some(Delivery { batches, dead, skipped: 0, records, partition: 0, position, left: Vec::new() }));
        }
        Ok(None)
    }
}
