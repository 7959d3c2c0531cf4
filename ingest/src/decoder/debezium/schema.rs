//! What the schema beside an envelope says of each column, kept as long as the schema stays the same.

use std::collections::HashMap;

use interdict_features::decode::TimeUnit;
use interdict_features::definition::Stream;

use crate::dead_letter::{DeadReason, Fault};

/// How many schemas are kept: a source has one or two per table, and one more after each change of a table.
const SCHEMAS_MAX: usize = 32;

/// How a column's values are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Encoding {
    /// No schema says.
    #[default]
    Unknown,
    /// As JSON shows it: numbers, text, bools.
    Plain,
    /// Base64 of an unscaled integer.
    Decimal {
        /// Digits after the point.
        scale: u32,
    },
    /// A number of units since the epoch on the database's wall clock.
    Time(TimeUnit),
}

/// Which part of a message a schema describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// The envelope: the row's columns stand under `after`, or `before`.
    Row,
    /// The key: its columns stand at the top.
    Key,
}

/// Encodings by column of the stream.
#[derive(Debug, Default)]
pub(super) struct Encodings(Vec<Encoding>);

impl Encodings {
    /// The encoding of a column.
    pub(super) fn of(&self, column: usize) -> Encoding {
        self.0.get(column).copied().unwrap_or_default()
    }
}

/// The schemas seen last.
#[derive(Default)]
pub(super) struct SchemaCache {
    none: Encodings,
    kept: Vec<Kept>,
    last: usize,
}

struct Kept {
    stream: usize,
    part: Part,
    text: Box<str>,
    encodings: Encodings,
}

impl SchemaCache {
    /// What `schema` says of the columns of `stream`.
    pub(super) fn of(&mut self, schema: Option<&str>, stream: &Stream, part: Part) -> Result<&Encodings, Fault> {
        let Some(text) = schema else {
            return Ok(&self.none);
        };
        let is_it = |kept: &Kept| kept.stream == stream.index && kept.part == part && *kept.text == *text;
        if !self.kept.get(self.last).is_some_and(is_it) {
            self.last = match self.kept.iter().position(is_it) {
                Some(found) => found,
                None => self.keep(text, stream, part)?,
            };
        }
        Ok(&self.kept[self.last].encodings)
    }

    fn keep(&mut self, text: &str, stream: &Stream, part: Part) -> Result<usize, Fault> {
        let root: Node = serde_json::from_str(text).map_err(|error| {
            Fault::new(DeadReason::BadJson, format!("'schema' is no Connect schema (byte {})", error.column()))
        })?;
        let encodings = encodings_of(&root, stream, part);
        if self.kept.len() == SCHEMAS_MAX {
            self.kept.remove(0);
        }
        self.kept.push(Kept { stream: stream.index, part, text: text.into(), encodings });
        Ok(self.kept.len() - 1)
    }
}

#[derive(serde::Deserialize)]
struct Node {
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    fields: Vec<Node>,
    #[serde(default)]
    parameters: HashMap<String, String>,
}

fn encodings_of(root: &Node, stream: &Stream, part: Part) -> Encodings {
    let child = |name: &str| root.fields.iter().find(|node| node.field.as_deref() == Some(name));
    let row = match part {
        Part::Row => child("after").or_else(|| child("before")),
        Part::Key => Some(root),
    };
    let Some(row) = row else {
        return Encodings::default();
    };
    let of_column = |name: &String| {
        row.fields.iter().find(|node| node.field.as_ref() == Some(name)).map_or(Encoding::Unknown, encoding_of)
    };
    Encodings(stream.columns.iter().map(|column| of_column(&column.name)).collect())
}

fn encoding_of(node: &Node) -> Encoding {
    match node.name.as_deref() {
        Some("org.apache.kafka.connect.data.Decimal") => {
            match node.parameters.get("scale").and_then(|scale| scale.parse().ok()) {
                Some(scale @ 0..=38) => Encoding::Decimal { scale },
                _ => Encoding::Unknown,
            }
        }
        Some("io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp") => {
            Encoding::Time(TimeUnit::Millis)
        }
        Some("io.debezium.time.MicroTimestamp") => Encoding::Time(TimeUnit::Micros),
        Some("io.debezium.time.NanoTimestamp") => Encoding::Time(TimeUnit::Nanos),
        Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => Encoding::Time(TimeUnit::Days),
        _ => Encoding::Plain,
    }
}
