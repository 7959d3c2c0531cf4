//! Which folder a decision belongs to and what its file is called.
//!
//! Invariant: the answer depends on the record alone, never on a clock or on how records were batched, so that a
//! replay puts every record where it was.

use std::fmt;

use interdict_features::decision::{DecisionRecord, ModelScore};
use interdict_features::hive::{NULL, date_and_hour, folder_text};
use interdict_features::time::Span;

/// One `model=NAME/date=YYYY-MM-DD/hour=HH` folder.
///
/// The hour is that of the arrival time (commit time, broker timestamp or receipt: nearly in order, so that a batch
/// touches one or two folders), of the event time where there is none (files), and the null partition where there is
/// neither. Both are part of the record. The decide time is not used: it differs between two runs over the same events.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Partition {
    model: String,
    hour: Option<i64>,
}

impl Partition {
    pub(crate) fn of(record: &DecisionRecord) -> Self {
        let time = record.arrival_time.or(record.event_time);
        Self {
            model: champion(record).map_or_else(|| NULL.to_owned(), |model| folder_text(&model.name)),
            hour: time.map(|time| time.micros().div_euclid(Span::HOUR.micros())),
        }
    }

    /// The folder, relative to the log's.
    pub(crate) fn folder(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hour) = self.hour else {
            return write!(f, "model={}/date={NULL}/hour={NULL}", self.model);
        };
        let (date, of_day) = date_and_hour(hour);
        write!(f, "model={}/date={date}/hour={of_day}", self.model)
    }
}

/// The model whose score decides; shadows and challengers do not name the folder.
pub(crate) fn champion(record: &DecisionRecord) -> Option<&ModelScore> {
    record.models.iter().find(|model| model.role == "champion")
}

/// The name of the file that holds positions `first` to `last` of its partition, in order of position when sorted.
pub(crate) fn file_name(first: u64, last: u64) -> String {
    format!("{first:020}-{last:020}.parquet")
}

/// The last position of a file by its name, with or without folders.
pub(super) fn last_position(file: &str) -> Option<u64> {
    let (_, name) = file.rsplit_once('-')?;
    name.strip_suffix(".parquet")?.parse().ok()
}
