//! The current values, until there are enough of them for a batch.
//!
//! Invariant: adding a record takes time for the number of columns and no allocation, once each column was found where
//! it stands in the records; the memory is that of `rows_max` rows, taken at the start.

use std::sync::Arc;

use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;

use super::reference::{Column, Reference, SCORE, normal};

/// Where a reference column is found in a record.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// Not looked for yet, or not in the last record.
    Unknown,
    Score,
    /// Where it was last among the features, and its name there.
    Feature(usize, Arc<str>),
    /// Among the event's columns.
    Event,
}

/// Current values of one column.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    place: Place,
    pub(crate) values: Vec<f64>,
    pub(crate) counts: Vec<u64>,
}

/// Values of the records since the last batch.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) samples: Vec<Sample>,
    pub(crate) rows: usize,
    rows_max: usize,
    pub(crate) span: Option<WindowSpan>,
}

/// Which records a window holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowSpan {
    /// Lowest log position.
    pub first_position: u64,
    /// Highest log position.
    pub last_position: u64,
    /// When the first record was observed.
    pub since: Timestamp,
}

impl Window {
    pub(crate) fn new(reference: &Reference, rows_max: usize) -> Self {
        let sample = |column: &Column| Sample {
            place: if column.name == SCORE { Place::Score } else { Place::Unknown },
            values: Vec::with_capacity(rows_max),
            counts: vec![0; column.bins.count()],
        };
        Self { samples: reference.columns.iter().map(sample).collect(), rows: 0, rows_max, span: None }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.rows_max
    }

    /// Adds the record's values: features, columns of the event where no feature has the name, the score.
    pub(crate) fn add(&mut self, reference: &Reference, position: u64, record: &DecisionRecord, now: Timestamp) {
        for (sample, column) in self.samples.iter_mut().zip(&reference.columns) {
            let value = match &sample.place {
                Place::Score => record.score,
                Place::Feature(index, name) => match record.features.get(*index) {
                    Some(feature) if feature.name == *name => feature.reading.value.number(),
                    _ => look_for(record, &column.name, &mut sample.place),
                },
                Place::Event | Place::Unknown => look_for(record, &column.name, &mut sample.place),
            };
            sample.add(column, value);
        }
        self.rows += 1;
        let span =
            self.span.get_or_insert(WindowSpan { first_position: position, last_position: position, since: now });
        span.first_position = span.first_position.min(position);
        span.last_position = span.last_position.max(position);
    }

    /// Adds what another window of the same reference holds.
    #[cfg(test)]
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.samples.iter_mut().zip(&other.samples) {
            own.values.extend_from_slice(&theirs.values);
            for (count, more) in own.counts.iter_mut().zip(&theirs.counts) {
                *count += more;
            }
        }
        self.rows += other.rows;
        if let Some(span) = other.span {
            let merged = self.span.get_or_insert(span);
            merged.first_position = merged.first_position.min(span.first_position);
            merged.last_position = merged.last_position.max(span.last_position);
            merged.since = merged.since.min(span.since);
        }
    }

    pub(crate) fn clear(&mut self) {
        for sample in &mut self.samples {
            sample.values.clear();
            sample.counts.fill(0);
        }
        self.rows = 0;
        self.span = None;
    }
}

impl Sample {
    fn add(&mut self, column: &Column, value: Option<f64>) {
        let value = value.map_or(f64::NAN, normal);
        self.counts[column.bins.of_value(value)] += 1;
        if !value.is_nan() {
            self.values.push(value);
        }
    }
}

/// Finds the column in the record and notes where: among the features, else among the event's columns.
fn look_for(record: &DecisionRecord, name: &str, place: &mut Place) -> Option<f64> {
    if *place == Place::Event
        && let Some(value) = record.event.get(name)
    {
        return value.number();
    }
    if let Some(index) = record.features.iter().position(|feature| is_flat_name_of(name, &feature.name)) {
        let feature = &record.features[index];
        *place = Place::Feature(index, Arc::clone(&feature.name));
        return feature.reading.value.number();
    }
    let value = record.event.get(name)?;
    *place = Place::Event;
    value.number()
}

/// Whether `flat` is `name` as flat tables write it: `group__feature` for `group.feature`.
fn is_flat_name_of(flat: &str, name: &str) -> bool {
    match name.split_once('.') {
        None => flat == name,
        Some((group, feature)) => {
            flat.strip_prefix(group).and_then(|rest| rest.strip_prefix("__")).is_some_and(|rest| rest == feature)
        }
    }
}
