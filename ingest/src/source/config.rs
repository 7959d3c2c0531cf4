//! The `[source]` section: where changes come from and how they are written there.
//!
//! One source stands in `[source]`, several in `[[source]]`, each with a `name`.

pub mod password;
pub mod postgres;
pub mod topic;

use std::path::PathBuf;
use std::sync::Arc;

use interdict_features::change::Op;
use interdict_features::config::{ConfigFile, Section};
use interdict_features::decode::TimeUnit;
use interdict_features::definition::Stream;
use interdict_features::value::ColumnType;

use crate::topic::broker;

use postgres::{OnLostSlot, PostgresConfig};
use topic::TopicConfig;

/// One source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceConfig {
    /// Its name: offsets and dead letters carry it. `source` where the only one has none.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
}

impl SourceConfig {
    /// Whether rows of a stream may come from it.
    fn feeds(&self, stream: &str) -> bool {
        let is_of = |named: Option<&String>| named.is_none_or(|named| named == stream);
        match &self.kind {
            SourceKind::File(file) => is_of(file.stream.as_ref()),
            SourceKind::Topic(topic) => is_of(topic.stream.as_ref()),
            SourceKind::Postgres(database) => database.tables.iter().any(|table| table.stream == stream),
        }
    }
}

/// The kinds of source.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SourceKind {
    /// A file, a folder of Parquet files, or standard input.
    File(FileConfig),
    /// Tables of a PostgreSQL database, by logical replication.
    Postgres(PostgresConfig),
    /// A topic of Kafka or Fluvio.
    Topic(TopicConfig),
}

/// A file or standard input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileConfig {
    /// Where the bytes come from.
    pub input: Input,
    /// How records are written.
    pub format: Format,
    /// The stream that rows belong to; `None` for Debezium that names its tables.
    pub stream: Option<String>,
    /// What happens at the end of the file.
    pub at_end: AtEnd,
    /// How values that formats leave open are read.
    pub reading: Reading,
}

/// Where bytes come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A file; for Parquet also a folder or a pattern with `*` and `?` in the file's name.
    Path(PathBuf),
    /// Standard input: it cannot be read again after a crash, so its offsets are not kept.
    Stdin,
}

/// How records are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Parquet with a column per column of the stream.
    Parquet,
    /// Comma-separated lines under a header.
    Csv,
    /// One JSON object per line, a key per column.
    Json,
    /// One Debezium change event per line.
    Debezium,
}

/// What happens at the end of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtEnd {
    /// The source ends.
    Stop,
    /// It waits for more lines.
    Follow,
}

/// How values that a format leaves open are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// What plain rows are taken as: [`Op::Insert`] is judged, [`Op::Snapshot`] only builds state.
    pub rows_as: Op,
    /// What numbers in timestamp columns count.
    pub time_units: TimeUnits,
    /// What a text in a decimal column is where no schema says it.
    pub decimals: DecimalText,
    /// What a declared column that a JSON row lacks is.
    pub missing: Missing,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            rows_as: Op::Insert,
            time_units: TimeUnits::default(),
            decimals: DecimalText::Digits,
            missing: Missing::DeadLetter,
        }
    }
}

/// Units of numbers in timestamp columns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimeUnits {
    /// For columns that are not named.
    pub default: Option<TimeUnit>,
    /// By column name.
    pub columns: Vec<(String, TimeUnit)>,
}

impl TimeUnits {
    /// The unit of a column, if it was named.
    #[must_use]
    pub fn of(&self, column: &str) -> Option<TimeUnit> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, unit)| *unit).or(self.default)
    }
}

/// What a text in a decimal column is where no schema says it: `"1234"` is a number of four digits and also base64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecimalText {
    /// Its digits (Debezium's `decimal.handling.mode = string`).
    Digits,
    /// Base64 of the unscaled integer in the column's declared scale (Debezium's default, `precise`).
    Precise,
}

/// What a declared column that a JSON row lacks is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// A mistake: the row is a dead letter. A misspelt column is found at once.
    DeadLetter,
    /// Null: for writers that leave nulls out.
    Null,
}

const FORMATS: [(&str, Format); 4] =
    [("parquet", Format::Parquet), ("csv", Format::Csv), ("json", Format::Json), ("debezium", Format::Debezium)];

/// The name of the log of requests and labels: its positions are kept like those of a source.
const RESERVED: &str = "input";

/// Reads every source of `file`, noting every mistake in it. Sources with mistakes are left out.
#[must_use]
pub fn read(file: &ConfigFile, streams: &[Arc<Stream>]) -> Vec<SourceConfig> {
    let mut sources: Vec<SourceConfig> = Vec::new();
    if !file.is_array("source") {
        if let Some(section) = file.section("source") {
            sources.extend(read_one(&section, streams, Some("source")));
            section.finish();
        }
        return sources;
    }
    let mut names: Vec<String> = Vec::new();
    let mut plain: Vec<(String, String)> = Vec::new();
    for section in file.array("source") {
        if let Some(name) = section.text("name") {
            if names.contains(&name) {
                section.report(
                    "name",
                    format!("two sources are called '{name}'"),
                    "give each a name of its own: its offset is kept under it",
                );
            }
            names.push(name);
        }
        let source = read_one(&section, streams, None);
        if let Some(fed) = source.as_ref().and_then(|source| plain_feed(&section, source, streams)) {
            check_versions(&section, fed, &mut plain);
        }
        sources.extend(source);
        section.finish();
    }
    check_recovered(file, &sources, streams);
    sources
}

/// What a lost slot leaves of a stream is what the database holds: rows of another source would be forgotten with it.
fn check_recovered(file: &ConfigFile, sources: &[SourceConfig], streams: &[Arc<Stream>]) {
    for section in file.array("source") {
        let name = section.text("name");
        let Some(source) = sources.iter().find(|source| Some(&source.name) == name.as_ref()) else { continue };
        let SourceKind::Postgres(database) = &source.kind else { continue };
        if database.on_lost_slot == OnLostSlot::Stop {
            continue;
        }
        let fed = |stream: &&Arc<Stream>| stream.follows_removals() && source.feeds(&stream.name);
        for stream in streams.iter().filter(fed) {
            let others = || sources.iter().filter(|other| other.name != source.name);
            if let Some(other) = others().find(|other| other.feeds(&stream.name)) {
                let (stream, other) = (&stream.name, &other.name);
                section.report(
                    "on_lost_slot",
                    format!("stream '{stream}' is fed by '{other}' too, and behind a lost slot it would hold what the database holds and no more"),
                    format!("write on_delete = \"ignore\" in [stream.{stream}], or on_lost_slot = \"stop\""),
                );
            }
        }
    }
}

/// The source and the stream it feeds, where its rows are numbered by their place and may be those of another source too.
fn plain_feed(section: &Section<'_>, source: &SourceConfig, streams: &[Arc<Stream>]) -> Option<(String, String)> {
    let SourceKind::File(file) = &source.kind else { return None };
    let is_disjoint = section.bool("disjoint") == Some(true);
    let stream = streams.iter().find(|stream| Some(&stream.name) == file.stream.as_ref())?;
    let is_keyed = !stream.append_only && stream.labels.is_none();
    let is_plain = file.format != Format::Debezium && is_keyed && !is_disjoint;
    is_plain.then(|| (source.name.clone(), stream.name.clone()))
}

/// Rows of two plain sources are numbered apart: an update in one would count as older than a row of the other that stands further behind.
fn check_versions(section: &Section<'_>, fed: (String, String), plain: &mut Vec<(String, String)>) {
    if let Some((other, stream)) = plain.iter().find(|(_, stream)| *stream == fed.1) {
        section.report(
            "stream",
            format!("stream '{stream}' is fed by '{other}' too, and rows of two files are numbered apart: which version of a row is newer cannot be told"),
            "write disjoint = true if no row stands in both, append_only = true in the stream if rows never change, or put both into one file",
        );
    }
    plain.push(fed);
}

fn read_one(section: &Section<'_>, streams: &[Arc<Stream>], name: Option<&str>) -> Option<SourceConfig> {
    if name.is_none() {
        section.require("name", "\"payments\"");
    }
    section.require("type", "\"file\"");
    let mistakes = section.file().problem_count();
    let name = section.text("name").or_else(|| name.map(str::to_owned));
    if name.as_deref() == Some(RESERVED) {
        section.report(
            "name",
            format!("'{RESERVED}' is the name of the log of requests and labels"),
            "give the source another name, for example \"payments\"",
        );
    }
    let [kafka, fluvio] = broker::TYPES;
    let kind = match section.choice("type", &["file", "stdin", "postgres", kafka, fluvio]) {
        Some(2) => postgres::read(section, streams).map(SourceKind::Postgres),
        Some(kind @ 3..) => topic::read(section, streams, kind - 3).map(SourceKind::Topic),
        kind => read_file(section, streams, kind).map(SourceKind::File),
    };
    let (name, kind) = (name?, kind?);
    (section.file().problem_count() == mistakes).then_some(SourceConfig { name, kind })
}

fn read_file(section: &Section<'_>, streams: &[Arc<Stream>], kind: Option<usize>) -> Option<FileConfig> {
    section.require("format", "\"parquet\"");
    let input = match kind {
        Some(0) => {
            section.require("path", "\"transactions.parquet\"");
            section.text("path").map(|path| Input::Path(PathBuf::from(path)))
        }
        Some(_) => {
            if section.text("path").is_some() {
                section.report("path", "standard input has no path", "remove it, or write type = \"file\"");
            }
            Some(Input::Stdin)
        }
        None => {
            let _marked_as_known = section.text("path");
            None
        }
    };
    let format = section.choice("format", &FORMATS.map(|(name, _)| name)).map(|index| FORMATS[index].1);
    let stream = read_stream(section, streams, format);
    let _known_where_there_are_several = section.bool("disjoint");
    let at_end = if section.bool("follow") == Some(true) { AtEnd::Follow } else { AtEnd::Stop };
    let reading = read_reading(section, streams, format);
    check_fit(section, input.as_ref(), format, at_end);
    Some(FileConfig { input: input?, format: format?, stream, at_end, reading })
}

fn check_fit(section: &Section<'_>, input: Option<&Input>, format: Option<Format>, at_end: AtEnd) {
    if format == Some(Format::Parquet) {
        if input == Some(&Input::Stdin) {
            section.report(
                "format",
                "Parquet cannot be read from standard input: its directory stands at its end",
                "write type = \"file\" and a path",
            );
        }
        if at_end == AtEnd::Follow {
            section.report(
                "follow",
                "a Parquet file cannot grow, so it cannot be followed",
                "remove follow, or have lines written (csv, json or debezium)",
            );
        }
    }
}

fn read_stream(section: &Section<'_>, streams: &[Arc<Stream>], format: Option<Format>) -> Option<String> {
    let stream = section.text("stream");
    let known: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    match (&stream, format) {
        (Some(name), _) if !streams.is_empty() && !known.contains(&name.as_str()) => {
            let help = interdict_features::config::suggestion(name, known.into_iter());
            section.report("stream", format!("no stream is called '{name}'"), help);
        }
        (None, Some(Format::Parquet | Format::Csv | Format::Json)) => {
            if let [only] = known.as_slice() {
                return Some((*only).to_owned());
            }
            section.require("stream", &format!("\"{}\"", known.first().unwrap_or(&"transactions")));
        }
        (None, Some(Format::Debezium)) => check_tables(section, streams),
        _ => {}
    }
    stream
}

/// A change belongs to one stream: two streams of one table would leave the second without any.
fn check_tables(section: &Section<'_>, streams: &[Arc<Stream>]) {
    let table = |stream: &Stream| stream.source_table.clone().unwrap_or_else(|| stream.name.clone());
    for (at, stream) in streams.iter().enumerate() {
        if let Some(other) = streams[..at].iter().find(|other| table(other) == table(stream)) {
            section.report(
                "format",
                format!("streams '{}' and '{}' are both fed from table '{}'", other.name, stream.name, table(stream)),
                "give each stream a table of its own, or name the one that this source feeds with stream = \"...\"",
            );
        }
    }
}

fn read_reading(section: &Section<'_>, streams: &[Arc<Stream>], format: Option<Format>) -> Reading {
    let mut reading = Reading::default();
    if section.choice("rows", &["insert", "snapshot"]) == Some(1) {
        reading.rows_as = Op::Snapshot;
    }
    if section.choice("decimals", &["digits", "precise"]) == Some(1) {
        reading.decimals = DecimalText::Precise;
    }
    if section.choice("missing", &["dead_letter", "null"]) == Some(1) {
        reading.missing = Missing::Null;
    }
    if reading.decimals == DecimalText::Precise && format.is_some_and(|format| format != Format::Debezium) {
        section.report("decimals", "only Debezium encodes decimals", "remove decimals, or write format = \"debezium\"");
    }
    reading.time_units = read_time_units(section, streams);
    reading
}

fn read_time_units(section: &Section<'_>, streams: &[Arc<Stream>]) -> TimeUnits {
    let mut units = TimeUnits::default();
    if !section.is_table("time_unit") {
        units.default = section.choice("time_unit", &TimeUnit::NAMES).map(|index| TimeUnit::ALL[index]);
        return units;
    }
    let Some(table) = section.section("time_unit") else {
        return units;
    };
    for key in table.keys() {
        let is_time = |stream: &Arc<Stream>| {
            stream.column(&key.value).is_some_and(|column| stream.columns[column].kind == ColumnType::Timestamp)
        };
        if !streams.is_empty() && !streams.iter().any(is_time) {
            table.report(
                &key.value,
                format!("no stream has a timestamp column '{}'", key.value),
                "name a column that is declared as timestamp",
            );
        }
        if let Some(index) = table.choice(&key.value, &TimeUnit::NAMES) {
            units.columns.push((key.value, TimeUnit::ALL[index]));
        }
    }
    table.finish();
    units
}
