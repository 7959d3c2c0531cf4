//! Output formats: what a change looks like as Parquet, CSV, plain JSON lines and Debezium JSON lines.
//!
//! Invariant: formats without operations hold the newest version of the row at each change; what they cannot
//! say (a deletion) is refused before anything is written.

mod columnar;
mod debezium;
mod text;

use std::io::{self, Write};

use super::changes::{Change, Row, What};

pub(crate) use debezium::{Decimals, Envelope, Schemas, Tombstones};

/// Where bytes go.
pub(crate) type Sink = Box<dyn Write + Send>;

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Apache Parquet, zstd.
    Parquet,
    /// Comma-separated with a head line.
    Csv,
    /// One JSON object per line.
    Json,
    /// One Debezium change event per line.
    Debezium,
}

impl Format {
    /// The format a file's name asks for.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        match lower.rsplit_once('.')?.1 {
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Which columns a row has besides those of the handbook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Device and coordinates.
    pub(crate) place: Place,
    /// The report time of the label.
    pub(crate) report: Report,
}

/// Whether rows say from which device and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// The handbook's columns alone.
    #[default]
    Absent,
    /// `device_id`, `latitude`, `longitude`.
    Present,
}

/// Whether rows say when their label was reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Report {
    /// They do not.
    #[default]
    Absent,
    /// `reported_at`.
    Present,
}

/// Writes changes of the table of transactions, or chargebacks, in one format.
pub(crate) enum Writer {
    Parquet(Box<columnar::Columnar>),
    Csv(text::Csv),
    Json(text::Json),
    Debezium(debezium::Debezium),
}

impl Writer {
    /// A writer of transactions.
    pub(crate) fn of_transactions(
        format: Format,
        columns: Columns,
        envelope: Envelope,
        sink: Sink,
    ) -> io::Result<Self> {
        Ok(match format {
            Format::Parquet => Self::Parquet(Box::new(columnar::Columnar::of_transactions(columns, sink)?)),
            Format::Csv => Self::Csv(text::Csv::of_transactions(columns, sink)?),
            Format::Json => Self::Json(text::Json::new(columns, sink)),
            Format::Debezium => Self::Debezium(debezium::Debezium::of_transactions(columns, envelope, sink)),
        })
    }

    /// A writer of chargebacks, which carry the transaction's id, the label and the report time.
    pub(crate) fn of_chargebacks(format: Format, envelope: Envelope, sink: Sink) -> io::Result<Self> {
        Ok(match format {
            Format::Parquet => Self::Parquet(Box::new(columnar::Columnar::of_chargebacks(sink)?)),
            Format::Csv => Self::Csv(text::Csv::of_chargebacks(sink)?),
            Format::Json => Self::Json(text::Json::new(Columns::default(), sink)),
            Format::Debezium => Self::Debezium(debezium::Debezium::of_chargebacks(envelope, sink)),
        })
    }

    /// Writes one change.
    pub(crate) fn write(&mut self, change: &Change) -> io::Result<()> {
        if let Self::Debezium(writer) = self {
            return writer.write(change);
        }
        match change.what {
            What::Insert(row) | What::Update { after: row, .. } => match self {
                Self::Parquet(writer) => writer.row(&row),
                Self::Csv(writer) => writer.row(&row),
                Self::Json(writer) => writer.row(&row),
                Self::Debezium(_) => Ok(()),
            },
            What::Chargeback(id) => match self {
                Self::Parquet(writer) => writer.chargeback(id, change.commit_micros),
                Self::Csv(writer) => writer.chargeback(id, change.commit_micros),
                Self::Json(writer) => writer.chargeback(id, change.commit_micros),
                Self::Debezium(_) => Ok(()),
            },
            What::Delete(_) => Err(io::Error::other("only the debezium format can say that a row was deleted")),
        }
    }

    /// Hands everything written so far to the operating system, where the format allows it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Parquet(_) => Ok(()),
            Self::Csv(writer) => writer.flush(),
            Self::Json(writer) => writer.flush(),
            Self::Debezium(writer) => writer.flush(),
        }
    }

    /// Completes the output.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Parquet(writer) => writer.finish(),
            Self::Csv(mut writer) => writer.flush(),
            Self::Json(mut writer) => writer.flush(),
            Self::Debezium(mut writer) => writer.flush(),
        }
    }
}

/// `2018-04-01T00:00:31.250000Z`.
fn instant(micros: i64) -> String {
    interdict_features::time::Timestamp::from_micros(micros).to_string()
}

/// Minor units as a decimal with two digits: exact.
pub(crate) fn decimal(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

/// When the label of `row` was reported, if it has one and says so.
fn reported(row: &Row) -> Option<i64> {
    row.transaction.reported_micros.filter(|_| row.is_fraud == Some(true))
}

fn device(device: u64) -> String {
    format!("{device:016x}")
}
