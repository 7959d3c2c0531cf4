//! `interdict simulate`: seeded transactions with known frauds, in every format that the sources read, or into a database.
//!
//! Invariant: the output is a function of the options alone; pacing and progress never change it. An unpaced file
//! appears whole under its name or not at all.

pub(crate) mod changes;
#[cfg(feature = "postgres")]
mod database;
mod format;
pub(crate) mod generator;
mod output;
mod pace;
mod summary;
#[cfg(test)]
mod tests;
mod writing;

use std::path::{Path, PathBuf};

use anyhow::bail;
use interdict_features::time::{Span, Timestamp};

use changes::{Changes, Disturbances, LabelAs};
use format::{Columns, Decimals, Envelope, Format, Place, Report, Schemas, Tombstones};
use generator::{Chargebacks, Config, FraudRates, Generator, Length};
use pace::Pace;
use writing::{Next, Writing};

/// Generate card transactions with known frauds, after the Fraud Detection Handbook.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Simulate {
    /// Everything drawn follows from this number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop after exactly so many transactions
    #[arg(long, value_name = "N", conflicts_with = "days")]
    transactions: Option<u64>,
    /// Stop after so many days [default: 183]
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// How many customers pay
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    customers: u32,
    /// How many terminals there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    terminals: u32,
    /// How far from home a customer pays, on a grid of 100 by 100
    #[arg(long, value_name = "UNITS", default_value_t = 5.0, value_parser = radius)]
    radius: f64,
    /// Where the first day begins: a date or RFC 3339 time, or 'now'
    #[arg(long, value_name = "TIME", default_value = "2018-04-01", value_parser = start)]
    start: i64,
    /// Identifier of the first transaction
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    first_id: i64,
    /// Only the handbook's own three fraud scenarios, without card testing and account takeover
    #[arg(long)]
    handbook: bool,

    /// Where to write; '-' is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Form of the output [default: by the file's name, json on standard output]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Debezium: whether each message brings its schema
    #[arg(long, value_enum, default_value_t)]
    schemas: Schemas,
    /// Debezium: decimal.handling.mode
    #[arg(long, value_enum, default_value_t)]
    decimals: Decimals,
    /// Debezium: follow each deletion with a line 'null'
    #[arg(long)]
    tombstones: bool,
    /// Add columns device_id, latitude and longitude
    #[arg(long)]
    rich: bool,

    /// How labels become known [default: update for debezium, known otherwise]
    #[arg(long, value_enum)]
    label_as: Option<LabelAs>,
    /// Where chargebacks are written with --label-as stream
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How long after its transaction a chargeback is reported
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = span)]
    label_delay: Span,
    /// How far a report may lie from that delay
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = span)]
    label_spread: Span,
    /// Share of frauds that nobody reports
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    unreported: f64,
    /// Write the truth: id, scenario and report time of every fraud, as CSV
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,

    /// Share of transactions that commit up to ten minutes late
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    disorder: f64,
    /// Share of changes delivered up to ten minutes after later ones
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    shuffle: f64,
    /// Share of changes delivered twice
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    duplicates: f64,
    /// Share of transactions whose amount is corrected later
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    updates: f64,
    /// Share of transactions deleted later (debezium only)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    deletes: f64,

    /// Write in time: 'real', or so many times faster ('x100'); ends with the last transaction
    #[arg(long, value_name = "PACE", value_parser = pace::parse)]
    pace: Option<Pace>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,

    #[cfg(feature = "postgres")]
    #[command(flatten)]
    target: database::Target,
}

impl Simulate {
    /// Generates and writes everything asked for, then prints the summary.
    ///
    /// # Errors
    /// [`Contradiction`] for options that exclude each other, before anything is written; otherwise what failed to be written.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let plan = self.plan()?;
        let generator = Generator::new(plan.config.clone());
        #[cfg(feature = "postgres")]
        if self.target.is_wanted() {
            return database::load(self, &plan, generator);
        }
        let mut writing = Writing::open(self, &plan, generator.expected())?;
        for change in Changes::new(generator, self.seed, plan.label_as, plan.disturbances) {
            if writing.write(&change)? == Next::Stop {
                break;
            }
        }
        let summary = writing.finish(self)?;
        match plan.config.length {
            Length::Transactions(count) if summary.transactions < count && !summary.reader_closed => {
                bail!("only {} of {count} transactions fit before the year 10000", summary.transactions)
            }
            _ => Ok(()),
        }
    }

    /// Everything the options mean, checked together.
    fn plan(&self) -> Result<Plan, Contradiction> {
        let format = self.format.or_else(|| Format::of_name(&self.output.to_string_lossy()));
        let format = match format {
            // A table has the operations of a database's log.
            _ if self.writes_tables() => Format::Debezium,
            Some(format) => format,
            None if self.output == Path::new("-") => Format::Json,
            None => return Err(Contradiction::UnknownFormat(self.output.clone())),
        };
        let default = if format == Format::Debezium { LabelAs::Update } else { LabelAs::Known };
        let label_as = self.label_as.unwrap_or(default);
        if self.deletes > 0.0 && format != Format::Debezium {
            return Err(Contradiction::DeletesWithoutOperations);
        }
        match (label_as, &self.labels) {
            (LabelAs::Stream, None) if !self.writes_tables() => return Err(Contradiction::StreamWithoutFile),
            (LabelAs::Stream, _) | (_, None) => {}
            (_, Some(_)) => return Err(Contradiction::FileWithoutStream),
        }
        let files: Vec<&Path> = [Some(&self.output), self.labels.as_ref(), self.truth.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        if let Some(twice) = files.iter().enumerate().find(|(index, file)| files[..*index].contains(file)) {
            return Err(Contradiction::SameFile(twice.1.to_path_buf()));
        }
        Ok(Plan {
            format,
            label_as,
            columns: Columns {
                place: if self.rich { Place::Present } else { Place::Absent },
                report: if label_as == LabelAs::Column { Report::Present } else { Report::Absent },
            },
            envelope: Envelope {
                schemas: self.schemas,
                decimals: self.decimals,
                tombstones: if self.tombstones { Tombstones::On } else { Tombstones::Off },
            },
            disturbances: Disturbances {
                late: self.disorder,
                shuffled: self.shuffle,
                duplicated: self.duplicates,
                corrected: self.updates,
                deleted: self.deletes,
            },
            config: self.config(),
        })
    }

    #[cfg(feature = "postgres")]
    fn writes_tables(&self) -> bool {
        self.target.is_wanted()
    }

    #[cfg(not(feature = "postgres"))]
    #[expect(clippy::unused_self, reason = "the other build has a target")]
    fn writes_tables(&self) -> bool {
        false
    }

    fn config(&self) -> Config {
        Config {
            seed: self.seed,
            customers: self.customers,
            terminals: self.terminals,
            radius: self.radius,
            start_micros: self.start,
            length: self.transactions.map_or(Length::Days(self.days.unwrap_or(183)), Length::Transactions),
            first_id: self.first_id,
            fraud: if self.handbook { FraudRates::HANDBOOK } else { FraudRates::default() },
            chargebacks: Chargebacks {
                delay_micros: self.label_delay.micros(),
                spread_micros: self.label_spread.micros(),
                unreported: self.unreported,
            },
        }
    }
}

/// What the options mean.
struct Plan {
    format: Format,
    label_as: LabelAs,
    columns: Columns,
    envelope: Envelope,
    disturbances: Disturbances,
    config: Config,
}

/// Options that exclude each other: a mistake of usage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// The name says nothing.
    #[error("cannot tell a format from the name {0}: add --format parquet, csv, json or debezium")]
    UnknownFormat(PathBuf),
    /// Only Debezium has operations.
    #[error("--deletes needs --format debezium: the other formats cannot say that a row was deleted")]
    DeletesWithoutOperations,
    /// Chargebacks need a place.
    #[error("--label-as stream needs --labels FILE, where the chargebacks go")]
    StreamWithoutFile,
    /// Nothing would be written there.
    #[error("--labels FILE needs --label-as stream: nothing would be written to it")]
    FileWithoutStream,
    /// One file cannot hold two outputs.
    #[error("{0} is named for two outputs: give each its own file")]
    SameFile(PathBuf),
}

fn span(text: &str) -> Result<Span, String> {
    Span::parse(text).ok_or_else(|| "write a whole number and a unit: 30s, 12h, 7d".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a share from 0 to 1".to_owned())
}

fn radius(text: &str) -> Result<f64, String> {
    let radius: Option<f64> = text.parse().ok().filter(|radius| (0.0..=1_000.0).contains(radius));
    radius.ok_or_else(|| "write a number from 0 to 1000".to_owned())
}

fn start(text: &str) -> Result<i64, String> {
    if text == "now" {
        return Ok(pace::now_micros());
    }
    let start = Timestamp::parse(text, &jiff::tz::TimeZone::UTC);
    start.map(Timestamp::micros).ok_or_else(|| "write a date (2018-04-01), an RFC 3339 time, or now".to_owned())
}
