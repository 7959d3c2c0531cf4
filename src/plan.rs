//! `interdict plan`: what the definitions of a configuration cost in memory and on disk.

use std::path::PathBuf;

use anyhow::Context as _;
use interdict_features::definition::{Definitions, GroupKind, Stream};
use interdict_features::engine::{Plan as Compiled, StreamPlan};
use interdict_features::expression::Type;
use interdict_features::state::Program;
use interdict_features::time::Span;
use interdict_features::value::ColumnType;

use crate::setup::Setup;

/// Print what the configured groups and streams cost: retention, state size, tiles, row records, features.
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "interdict.toml")]
    config: PathBuf,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    /// Identity of all definitions together.
    schema: String,
    /// The longest that a windowed state keeps an event, seconds.
    retention_seconds: i64,
    groups: Vec<GroupCost>,
    derived: Vec<DerivedIdentity>,
    streams: Vec<StreamCost>,
    features: Vec<Feature>,
}

#[derive(serde::Serialize)]
struct DerivedIdentity {
    name: String,
    stream: String,
    /// Identity of the definition, that of all it is computed from included.
    hash: String,
}

#[derive(serde::Serialize)]
struct GroupCost {
    name: String,
    entity: String,
    stream: String,
    /// Identity of the definition.
    hash: String,
    /// `None`: the latest row, kept for ever.
    retention_seconds: Option<i64>,
    slot_bytes: usize,
    raw_events_max: usize,
    tiled_bytes_max: usize,
    windows: Vec<Window>,
}

#[derive(serde::Serialize)]
struct Window {
    window_seconds: i64,
    tile_seconds: f64,
}

#[derive(serde::Serialize)]
struct StreamCost {
    name: String,
    row_records: bool,
    /// Columns that a row record keeps.
    columns: Vec<String>,
    /// About: integers and texts take as many bytes as they need.
    bytes_per_row: usize,
    /// `None`: for ever.
    retention_seconds: Option<i64>,
}

#[derive(serde::Serialize)]
struct Feature {
    name: String,
    column: String,
    #[serde(rename = "type")]
    kind: Type,
}

impl Plan {
    /// Prints the plan.
    ///
    /// # Errors
    /// The configuration cannot be read or has mistakes.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let setup = Setup::load(&self.config)?;
        let report = Report::of(&Compiled::compile(setup.definitions));
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report).context("the plan cannot be written")?);
        } else {
            report.print();
        }
        Ok(())
    }
}

impl Report {
    fn of(plan: &Compiled) -> Self {
        let definitions = &plan.definitions;
        let groups = definitions.groups.iter().zip(&plan.programs);
        let features = definitions.features.iter().map(|feature| Feature {
            name: feature.name.to_string(),
            column: feature.column_name(),
            kind: feature.kind,
        });
        let derived = definitions.derived.iter().map(|derived| DerivedIdentity {
            name: derived.name.clone(),
            stream: definitions.streams[derived.stream].name.clone(),
            hash: format!("{:016x}", derived.hash),
        });
        let records = definitions.streams.iter().zip(&plan.streams).filter(|(stream, _)| stream.labels.is_none());
        Self {
            schema: definitions.schema_hash(),
            retention_seconds: seconds(plan.retention()),
            groups: groups.map(|(group, program)| GroupCost::of(definitions, group, program)).collect(),
            derived: derived.collect(),
            streams: records.map(|(stream, compiled)| StreamCost::of(stream, compiled)).collect(),
            features: features.collect(),
        }
    }

    fn print(&self) {
        say!("definitions {}", self.schema);
        for group in &self.groups {
            let kept = group.retention_seconds.map_or_else(|| "for ever".to_owned(), shown);
            say!("\ngroup {} of {} from {}, hash {}", group.name, group.entity, group.stream, group.hash);
            say!("  events are kept        {kept} beyond the newest of their key");
            say!(
                "  an event takes at most {} bytes, texts apart; {} events fit before tiles begin",
                group.slot_bytes,
                group.raw_events_max
            );
            if !group.windows.is_empty() {
                let tiles = group
                    .windows
                    .iter()
                    .map(|window| format!("{} s in {} s", window.tile_seconds, window.window_seconds));
                say!("  tiles of hot keys      {}", tiles.collect::<Vec<_>>().join(", "));
                say!("  a hot key takes        {} bytes at most", group.tiled_bytes_max);
            }
        }
        for derived in &self.derived {
            say!("\nderived {} from {}, hash {}", derived.name, derived.stream, derived.hash);
        }
        for stream in &self.streams {
            say!("\nstream {}", stream.name);
            if stream.row_records {
                let kept = stream.retention_seconds.map_or_else(|| "for ever".to_owned(), shown);
                say!("  a row record takes     about {} bytes, kept {kept}", stream.bytes_per_row);
                say!("  with the columns       {}", stream.columns.join(", "));
            } else {
                say!("  no row records: rows never change");
            }
        }
        say!("\nfeatures");
        for feature in &self.features {
            say!("  {:<44} {}", feature.name, type_name(feature.kind));
        }
    }
}

impl GroupCost {
    fn of(definitions: &Definitions, group: &interdict_features::definition::Group, program: &Program) -> Self {
        let windows = match &group.kind {
            GroupKind::Windowed { windows, .. } => windows
                .iter()
                .zip(program.tile_widths())
                .map(|(window, tile)| Window { window_seconds: seconds(*window), tile_seconds: fraction(tile) })
                .collect(),
            GroupKind::Table { .. } => Vec::new(),
        };
        Self {
            name: group.name.clone(),
            entity: definitions.entities[group.entity].name.clone(),
            stream: definitions.streams[group.stream].name.clone(),
            hash: format!("{:016x}", group.hash),
            retention_seconds: program.retention().map(seconds),
            slot_bytes: program.slot_bytes(),
            raw_events_max: program.raw_events_max(),
            tiled_bytes_max: program.tiled_bytes_max(),
            windows,
        }
    }
}

impl StreamCost {
    fn of(stream: &Stream, compiled: &StreamPlan) -> Self {
        let columns: Vec<String> = compiled.needed.iter().map(|&column| stream.columns[column].name.clone()).collect();
        let cells: usize = compiled.needed.iter().map(|&column| cell_bytes(stream.columns[column].kind)).sum();
        let is_table = compiled.retention > Span::from_micros(i64::MAX / 16);
        Self {
            name: stream.name.clone(),
            row_records: compiled.keeps_records,
            bytes_per_row: if compiled.keeps_records {
                RECORD_HEAD_BYTES + columns.len().div_ceil(8) + cells
            } else {
                0
            },
            columns: if compiled.keeps_records { columns } else { Vec::new() },
            retention_seconds: (!is_table).then(|| seconds(compiled.retention)),
        }
    }
}

/// Format, flags, three versions of about five bytes, judgements, and one report of a label.
const RECORD_HEAD_BYTES: usize = 2 + 3 * 6 + 1 + 8;

/// About what a cell takes in a row record.
const fn cell_bytes(kind: ColumnType) -> usize {
    match kind {
        ColumnType::Bool => 1,
        ColumnType::Decimal { .. } => 3,
        ColumnType::Int => 4,
        ColumnType::Double | ColumnType::Timestamp => 8,
        ColumnType::Text => 17,
        ColumnType::Uuid => 37,
    }
}

fn seconds(span: Span) -> i64 {
    span.micros() / 1_000_000
}

#[expect(clippy::cast_precision_loss, reason = "widths of tiles are far below 2^53 microseconds")]
fn fraction(span: Span) -> f64 {
    span.micros() as f64 / 1e6
}

fn shown(seconds: i64) -> String {
    Span::from_micros(seconds * 1_000_000).to_string()
}

const fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Int => "integer",
        Type::Double => "double",
        Type::Bool => "bool",
        Type::Text => "text",
        Type::Timestamp => "timestamp",
    }
}
