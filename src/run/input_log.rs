//! Entries of the input log: what changes state over HTTP, as it is applied again after a crash (DESIGN 3.18).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::definition::{Column, Definitions, LabelsOf, Stream};
use interdict_features::row::RowRecord;
use interdict_features::time::Timestamp;
use interdict_features::value::{ColumnType, Value};
use interdict_store::error::StoreError;
#[cfg(feature = "redis")]
use interdict_store::port::LogName;
use interdict_store::port::Store;
use serde::{Deserialize, Serialize};

use super::core::position_of;

/// The source's name in offsets and records.
pub(crate) const SOURCE: &str = "input";
/// Versions of labels over HTTP lie over those of every label stream, so that the two never meet.
const LABEL_VERSIONS: u64 = 1 << 63;

/// One entry.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// An event that was to be decided before the database knew it. `row`: the row record's bytes with every column, base64.
    Request {
        stream: String,
        received: Timestamp,
        row: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
    },
    /// A label. `received` tells when the entry may be trimmed; the first versions did not write it.
    Label {
        stream: String,
        id: Value,
        value: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        received: Option<Timestamp>,
        reported: Timestamp,
        author: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
    },
}

/// Where an entry stands in the source [`SOURCE`] when one of several scorers wrote it, in the commit that applied it: each has a partition
/// of its own. The entry of the only process stands in partition 0, at its position in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    partition: u32,
    position: u64,
}

/// Why an entry cannot be applied again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("an entry of the input log is not what this version writes: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "the input log names the stream '{0}', which the configuration no longer has; bring it back, or fill a new namespace"
    )]
    Stream(String),
    #[error("a request in the input log does not fit the columns of its stream any more; fill a new namespace")]
    Row,
}

/// The place in the log behind what the only process has applied.
pub(crate) async fn applied_end(store: &impl Store) -> Result<u64, StoreError> {
    Ok(position_of(&store.positions(SOURCE).await?, 0).map_or(0, |applied| applied + 1))
}

/// Whether the only process has left entries that are in no state yet.
#[cfg(feature = "redis")]
pub(crate) async fn has_unapplied(store: &impl Store) -> Result<bool, StoreError> {
    let mut next = applied_end(store).await?;
    loop {
        let entries = store.read_log(LogName::INPUT, next, 1_000).await?;
        let Some((last, _)) = entries.last() else { return Ok(false) };
        next = last + 1;
        let is_own = |bytes: &[u8]| !serde_json::from_slice(bytes).is_ok_and(|entry: Entry| entry.is_applied());
        if entries.iter().any(|(_, bytes)| is_own(bytes)) {
            return Ok(true);
        }
    }
}

impl Entry {
    /// Whether it was applied in the commit that appended it, as one of several scorers does.
    pub(crate) const fn is_applied(&self) -> bool {
        matches!(self, Self::Request { place: Some(_), .. } | Self::Label { place: Some(_), .. })
    }

    /// The entry of a request: the only change of `batch`.
    pub(crate) fn of_request(batch: &ChangeBatch, received: Timestamp) -> Self {
        let stream = &**batch.stream();
        let (change, row) = batch.get(0);
        let mut record = RowRecord::default();
        record.reset(stream);
        // A request is the first version of its row, so it always applies to an empty record.
        let _applied = record.apply(change, row);
        let mut bytes = Vec::new();
        record.encode(stream, &all_columns(stream), &mut bytes);
        Self::Request { stream: stream.name.clone(), received, row: STANDARD.encode(bytes), place: None }
    }

    /// The entry as one of several scorers writes it.
    #[cfg(feature = "redis")]
    pub(crate) fn at(mut self, partition: u32, position: u64) -> Self {
        let (Self::Request { place, .. } | Self::Label { place, .. }) = &mut self;
        *place = Some(Place { partition, position });
        self
    }

    /// The entry as a batch of one change at `position` of the input log.
    pub(crate) fn to_batch(&self, definitions: &Definitions, position: u64) -> Result<ChangeBatch, EntryError> {
        let stream_of = |name: &String| definitions.stream(name).ok_or_else(|| EntryError::Stream(name.clone()));
        match self {
            Self::Request { stream, received, row, .. } => {
                let stream = stream_of(stream)?;
                let bytes = STANDARD.decode(row).map_err(|_not_base64| EntryError::Row)?;
                let mut record = RowRecord::default();
                record.decode(stream, &all_columns(stream), &bytes).map_err(|_damaged| EntryError::Row)?;
                let row = record.row(stream).ok_or(EntryError::Row)?;
                let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
                batch.push_row(row, request_change(*received, position));
                Ok(batch)
            }
            Self::Label { stream, id, value, reported, .. } => {
                let version = label_version(position);
                label_batch(stream_of(stream)?, id, *value, *reported, version, position).ok_or(EntryError::Row)
            }
        }
    }
}

fn all_columns(stream: &Stream) -> Vec<usize> {
    (0..stream.columns.len()).collect()
}

/// The change of a request at `position` of the input log.
pub(crate) fn request_change(received: Timestamp, position: u64) -> Change {
    Change { op: Op::Request, version: Version::REQUEST, arrival: Some(received), position }
}

/// The version of a label that came to the only process, at `position` of the input log.
pub(crate) fn label_version(position: u64) -> Version {
    Version::new(LABEL_VERSIONS + position)
}

/// The version of a label that came to one of several scorers: later ones are newer, and over those of the only process before.
#[cfg(feature = "redis")]
pub(crate) fn label_version_at(received: Timestamp, partition: u32) -> Version {
    Version { major: LABEL_VERSIONS + received.micros().max(0).unsigned_abs(), minor: partition }
}

/// A label for a row of `stream`, as a batch of a stream of labels. `None` when the id does not fit.
pub(crate) fn label_batch(
    stream: &Stream,
    id: &Value,
    value: Option<bool>,
    reported: Timestamp,
    version: Version,
    position: u64,
) -> Option<ChangeBatch> {
    let mut batch = ChangeBatch::new(Arc::new(labels_of(stream)), 0);
    let mut writer = batch.begin();
    match id {
        Value::Int(id) => writer.set_cell(0, *id),
        Value::Text(id) => writer.set_text(0, id).ok()?,
        _ => return None,
    }
    if let Some(value) = value {
        writer.set_cell(1, i64::from(value));
    }
    writer.set_cell(2, reported.micros());
    writer.finish(Change { op: Op::Insert, version, arrival: Some(reported), position });
    Some(batch)
}

/// The stream of labels over HTTP for the rows of `stream`: id, label, report time. The id of a sensitive column is masked already.
fn labels_of(stream: &Stream) -> Stream {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, sensitive: false };
    let columns = vec![
        column("id", stream.columns[stream.id].kind),
        column("label", ColumnType::Bool),
        column("reported_at", ColumnType::Timestamp),
    ];
    let mut labels = Stream::of_columns("http_labels", columns, 0, Some(2));
    labels.index = stream.index;
    labels.labels = Some(LabelsOf { stream: stream.index, value: 1 });
    labels
}

#[cfg(test)]
mod tests {
    use interdict_features::config::ConfigFile;

    use super::*;

    #[test]
    fn corpus_of_entries() {
        crate::fuzz_corpus::replay("input_log", |bytes| {
            let file = ConfigFile::parse("world.toml", include_str!("../../fuzz/world.toml")).unwrap();
            let definitions = Definitions::read(&file, None).unwrap();
            if let Ok(entry) = serde_json::from_slice::<Entry>(bytes) {
                let _batch = entry.to_batch(&definitions, 7);
            }
        });
    }
}
