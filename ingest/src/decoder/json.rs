//! Plain JSON lines: one object per row, a key per column, others ignored. `_op` names the operation where it is not
//! the configured one.

use std::borrow::Cow;
use std::fmt;

use interdict_features::change::{ChangeBatch, Op, RowWriter};
use interdict_features::decode::{ColumnFinder, TimeUnit, set_raw_json, unquote};
use interdict_features::definition::Stream;
use interdict_features::value::{CellError, ColumnType};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dead_letter::{DeadReason, Fault};
use crate::source::config::{Missing, Reading};

use super::{Outcome, Record, finish, op_of};

pub(super) struct JsonRows {
    object: RowObject,
    units: Vec<Option<TimeUnit>>,
    rows_as: Op,
}

impl JsonRows {
    pub(super) fn new(stream: &Stream, reading: &Reading) -> Self {
        Self {
            object: RowObject::new(stream, reading.missing),
            units: stream.columns.iter().map(|column| reading.time_units.of(&column.name)).collect(),
            rows_as: reading.rows_as,
        }
    }

    pub(super) fn decode(
        &mut self,
        text: &str,
        record: &Record<'_>,
        batch: &mut ChangeBatch,
    ) -> Result<Outcome, Fault> {
        let units = &self.units;
        let mut writer = batch.begin();
        let read = self.object.read(text, &mut writer, |writer, column, raw| {
            set_raw_json(writer, column, raw, units[column]).map_err(|error| {
                let declared = &writer.stream().columns[column];
                match (declared.kind, error, raw.as_bytes().first()) {
                    (ColumnType::Timestamp, CellError::WrongType, Some(b'-' | b'0'..=b'9')) => {
                        unit_unknown(&declared.name)
                    }
                    _ => Fault::of_cell(&declared.name, declared.kind, error),
                }
            })
        });
        let told = read.map_err(|fault| match fault.reason {
            DeadReason::BadJson | DeadReason::UnknownOp => fault,
            _ => Fault { op: fault.op.or(Some(self.rows_as)), ..fault },
        })?;
        let op = told.unwrap_or(self.rows_as);
        let is_whole = if !op.has_row() {
            // Only the id of a row that is gone is certain.
            self.object.require(writer.stream(), op)
        } else {
            self.object.require_all(writer.stream())
        };
        is_whole.map_err(|fault| fault.of_row(&writer.row()).of_op(op))?;
        finish(writer, record.plain(op)).map_err(|fault| fault.of_op(op))
    }
}

/// The fault of a number in a timestamp column whose unit nothing says.
pub(super) fn unit_unknown(column: &str) -> Fault {
    let detail = format!(
        "column '{column}' (timestamp) holds a number and nothing says what it counts; write time_unit = {{ {column} = \"ms\" }} (or us, s, ns, days) in [source]"
    );
    Fault::new(DeadReason::TimeUnitUnknown, detail)
}

/// Reads JSON objects whose keys are the columns of one stream.
pub(super) struct RowObject {
    finder: ColumnFinder,
    missing: Missing,
    seen: Vec<bool>,
}

impl RowObject {
    pub(super) fn new(stream: &Stream, missing: Missing) -> Self {
        Self { finder: ColumnFinder::new(stream), missing, seen: vec![false; stream.columns.len()] }
    }

    /// Hands the raw text of every column in the object to `set`, after a fault that of the id alone; returns the operation it names in
    /// `_op`.
    pub(super) fn read<F>(&mut self, text: &str, writer: &mut RowWriter<'_>, set: F) -> Result<Option<Op>, Fault>
    where
        F: FnMut(&mut RowWriter<'_>, usize, &str) -> Result<(), Fault>,
    {
        self.seen.fill(false);
        let (mut fault, mut op) = (None, None);
        let seed = RowSeed { object: self, writer: &mut *writer, set, fault: &mut fault, op: &mut op };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
        read.map_err(|error| not_json(&error))?;
        match fault {
            None => Ok(op),
            Some(fault) => Err(Fault { op, ..fault.of_row(&writer.row()) }),
        }
    }

    /// Whether the last object held every column; what it lacks is null where that is configured.
    pub(super) fn require_all(&self, stream: &Stream) -> Result<(), Fault> {
        match self.seen.iter().position(|seen| !seen) {
            Some(column) if self.missing == Missing::DeadLetter => Err(missing(&stream.columns[column].name)),
            _ => Ok(()),
        }
    }

    fn require(&self, stream: &Stream, op: Op) -> Result<(), Fault> {
        if op.is_mark() || self.seen[stream.id] {
            return Ok(());
        }
        Err(missing(&stream.columns[stream.id].name))
    }
}

fn missing(column: &str) -> Fault {
    let detail = format!(
        "column '{column}' is not in the record; mend its name in the stream's columns, or write missing = \"null\" in [source] if the writer leaves nulls out"
    );
    Fault::new(DeadReason::MissingColumn, detail)
}

/// A fault that says where the JSON breaks, and not what stands there.
pub(super) fn not_json(error: &serde_json::Error) -> Fault {
    let what = if error.is_eof() {
        "JSON ends too early"
    } else if error.is_data() {
        "JSON of another shape"
    } else {
        "not JSON"
    };
    Fault::new(DeadReason::BadJson, format!("{what} at byte {}", error.column()))
}

struct RowSeed<'a, 'w, F> {
    object: &'a mut RowObject,
    writer: &'a mut RowWriter<'w>,
    set: F,
    fault: &'a mut Option<Fault>,
    op: &'a mut Option<Op>,
}

impl<'de, F> DeserializeSeed<'de> for RowSeed<'_, '_, F>
where
    F: FnMut(&mut RowWriter<'_>, usize, &str) -> Result<(), Fault>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F> Visitor<'de> for RowSeed<'_, '_, F>
where
    F: FnMut(&mut RowWriter<'_>, usize, &str) -> Result<(), Fault>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a key per column")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let id = self.writer.stream().id;
        while let Some(Name(name)) = map.next_key()? {
            let Some(column) = self.object.finder.find(&name) else {
                if name == "_op" {
                    let raw: &RawValue = map.next_value()?;
                    *self.op = unquote(raw.get()).ok().and_then(|text| op_of(&text));
                    if self.op.is_none() {
                        let fault = Fault::new(DeadReason::UnknownOp, "'_op' holds no operation that is known");
                        self.fault.get_or_insert(fault);
                    }
                } else {
                    let _other_column: IgnoredAny = map.next_value()?;
                }
                continue;
            };
            let raw: &RawValue = map.next_value()?;
            if std::mem::replace(&mut self.object.seen[column], true) {
                let detail = format!("column '{name}' is in the record twice");
                self.fault.get_or_insert(Fault::new(DeadReason::DuplicateColumn, detail));
                if column == id {
                    // Which of the two it is, nobody knows.
                    self.writer.set_unchanged(column);
                }
            } else if (self.fault.is_none() || column == id)
                && let Err(fault) = (self.set)(self.writer, column, raw.get())
            {
                self.fault.get_or_insert(fault);
            }
        }
        Ok(())
    }
}

/// A key of an object, borrowed from the record where it holds no escape.
pub(super) struct Name<'de>(pub(super) Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor).map(Name)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
