//! CSV under a header (RFC 4180). A record is a line: a quoted field may hold anything but a line break, so that one
//! stray quote costs one line and not the rest of the file. An empty field is null.

use std::path::Path;

use csv_core::{ReadRecordResult, Reader};
use interdict_features::change::{Change, ChangeBatch, Op, RowWriter};
use interdict_features::decode::{TimeUnit, set_text_value};
use interdict_features::definition::Stream;
use interdict_features::value::{CellError, ColumnType};

use crate::dead_letter::{DeadReason, Fault};
use crate::source::config::Reading;
use crate::source::error::SourceError;

use super::json::unit_unknown;
use super::{Outcome, Record, finish, op_of};

/// The most fields a line may have: far above any table's columns.
const FIELDS_MAX: usize = 4096;

pub(super) struct CsvRows {
    rows_as: Op,
    units: Vec<Option<TimeUnit>>,
    /// Where each column of the stream stands in a line; empty before the header.
    places: Vec<usize>,
    op: Option<usize>,
    fields: usize,
    line: Fields,
}

impl CsvRows {
    pub(super) fn new(stream: &Stream, reading: &Reading) -> Self {
        Self {
            rows_as: reading.rows_as,
            units: stream.columns.iter().map(|column| reading.time_units.of(&column.name)).collect(),
            places: Vec::new(),
            op: None,
            fields: 0,
            line: Fields::default(),
        }
    }

    pub(super) fn wants_header(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn set_header(&mut self, path: &Path, line: &[u8], stream: &Stream) -> Result<(), SourceError> {
        let wrong = |why: String| SourceError::Header { path: path.to_owned(), why };
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|_not_utf8| wrong("it is not UTF-8".to_owned()))?;
        self.line.split(text).map_err(|fault| wrong(fault.detail.into_owned()))?;
        let names: Vec<&str> = (0..self.line.len()).map(|field| self.line.get(field).trim()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(wrong(format!("it names '{}' twice", twice.1)));
        }
        let mut places = Vec::new();
        for column in &stream.columns {
            let Some(place) = names.iter().position(|name| *name == column.name) else {
                return Err(SourceError::MissingColumn {
                    path: path.to_owned(),
                    stream: stream.name.clone(),
                    column: column.name.clone(),
                    declared: column.kind,
                    found: names.iter().take(32).map(|name| (*name).to_owned()).collect(),
                });
            };
            places.push(place);
        }
        self.op = names.iter().position(|name| *name == "_op");
        self.fields = names.len();
        self.places = places;
        Ok(())
    }

    pub(super) fn decode(
        &mut self,
        text: &str,
        record: &Record<'_>,
        batch: &mut ChangeBatch,
    ) -> Result<Outcome, Fault> {
        self.line.split(text)?;
        if self.line.len() != self.fields {
            let detail = format!("{} fields under a header of {}", self.line.len(), self.fields);
            return Err(Fault::new(DeadReason::FieldCount, detail));
        }
        let op = match self.op.map(|field| self.line.get(field)) {
            None | Some("") => self.rows_as,
            Some(text) => op_of(text)
                .ok_or_else(|| Fault::new(DeadReason::UnknownOp, "'_op' holds no operation that is known"))?,
        };
        self.read_row(record.plain(op), batch).map_err(|fault| fault.of_op(op))
    }

    fn read_row(&self, change: Change, batch: &mut ChangeBatch) -> Result<Outcome, Fault> {
        let mut writer = batch.begin();
        for column in 0..self.places.len() {
            if let Err(fault) = self.set(&mut writer, column) {
                let id = writer.stream().id;
                let is_readable = self.set(&mut writer, id).is_ok();
                return Err(if is_readable { fault.of_row(&writer.row()) } else { fault });
            }
        }
        finish(writer, change)
    }

    fn set(&self, writer: &mut RowWriter<'_>, column: usize) -> Result<(), Fault> {
        let text = self.line.get(self.places[column]);
        set_text_value(writer, column, text, self.units[column]).map_err(|error| {
            let declared = &writer.stream().columns[column];
            let is_number = text.parse::<i64>().is_ok();
            match (declared.kind, error) {
                (ColumnType::Timestamp, CellError::WrongType) if is_number => unit_unknown(&declared.name),
                _ => Fault::of_cell(&declared.name, declared.kind, error),
            }
        })
    }
}

/// The fields of one line, unquoted into memory that is kept.
struct Fields {
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl Default for Fields {
    fn default() -> Self {
        Self { reader: Reader::new(), text: Vec::new(), ends: vec![0; FIELDS_MAX], count: 0 }
    }
}

impl Fields {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, field: usize) -> &str {
        let start = if field == 0 { 0 } else { self.ends[field - 1] };
        // Quotes and separators are ASCII, so that fields of valid UTF-8 are valid UTF-8.
        std::str::from_utf8(&self.text[start..self.ends[field]]).unwrap_or_default()
    }

    fn split(&mut self, line: &str) -> Result<(), Fault> {
        self.reader.reset();
        if self.text.len() < line.len() + 1 {
            self.text.resize(line.len() + 1, 0);
        }
        let (mut written, mut ends) = (0, 0);
        // The line break that the reader took off ends the record, unless a quoted field swallows it.
        for input in [line.as_bytes(), b"\n"] {
            let mut read = 0;
            while read < input.len() {
                let (result, used, filled, ended) =
                    self.reader.read_record(&input[read..], &mut self.text[written..], &mut self.ends[ends..]);
                (read, written, ends) = (read + used, written + filled, ends + ended);
                match result {
                    ReadRecordResult::InputEmpty => {}
                    ReadRecordResult::Record if input.len() == 1 || read == line.len() => {
                        self.count = ends;
                        return Ok(());
                    }
                    ReadRecordResult::OutputEndsFull => {
                        return Err(Fault::new(DeadReason::FieldCount, format!("more than {FIELDS_MAX} fields")));
                    }
                    ReadRecordResult::Record | ReadRecordResult::OutputFull | ReadRecordResult::End => {
                        return Err(Fault::new(DeadReason::FieldCount, "a line break within the line"));
                    }
                }
            }
        }
        Err(Fault::new(
            DeadReason::UnclosedQuote,
            "the line ends inside a quoted field; a quoted field may not hold a line break",
        ))
    }
}
