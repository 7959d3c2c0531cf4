//! Deliveries as records of the topic: envelopes, and where each goes.

use std::collections::HashMap;
use std::ops::Range;

use interdict_features::change::{Change, ChangeBatch, Op, Row};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;

use crate::source::config::postgres::{PostgresConfig, TableOfStream};
use crate::source::{Delivery, LeftKey};
use crate::topic::sink::Produced;

use super::envelope::{Origin, Table};
use super::key_of;

/// Turns the deliveries of one database into records.
#[derive(Debug)]
pub struct Envelopes {
    source: String,
    database: String,
    tables: Vec<TableOfStream>,
    /// By stream's name.
    known: HashMap<String, Table>,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

#[derive(Debug)]
struct Record {
    key: String,
    value: Range<usize>,
    partition: Option<u32>,
}

/// The key under which a change that goes to every partition travels.
const EVERYWHERE: &str = "";

impl Envelopes {
    /// For the source called `source`, which captures as `config` says.
    #[must_use]
    pub fn new(source: &str, config: &PostgresConfig) -> Self {
        Self {
            source: source.to_owned(),
            database: config.address.database.clone(),
            tables: config.tables.clone(),
            known: HashMap::new(),
            bytes: Vec::new(),
            records: Vec::new(),
        }
    }

    /// The records of a delivery, in its order, for a topic of so many partitions. `now` is when they are handed on.
    pub fn records(&mut self, delivery: &Delivery, partitions: u32, now: Timestamp) -> Vec<Produced<'_>> {
        self.bytes.clear();
        self.records.clear();
        let mut left = delivery.left.iter().peekable();
        for (at, batch) in delivery.batches.iter().enumerate() {
            self.add(at, batch, &mut left, (partitions, now));
        }
        let produced = |record: &Record| Produced {
            key: record.key.clone(),
            value: &self.bytes[record.value.clone()],
            headers: Vec::new(),
            partition: record.partition,
        };
        self.records.iter().map(produced).collect()
    }

    fn add<'a>(
        &mut self,
        at: usize,
        batch: &ChangeBatch,
        left: &mut std::iter::Peekable<impl Iterator<Item = &'a LeftKey>>,
        (partitions, now): (u32, Timestamp),
    ) {
        let stream = batch.stream();
        let table = self.known.entry(stream.name.clone()).or_insert_with(|| {
            let named = self.tables.iter().find(|table| table.stream == stream.name);
            let (schema, table) = named.map_or(("public", &*stream.name), |table| (&*table.schema, &*table.table));
            Table::new(Origin { source: &self.source, database: &self.database, schema, table }, stream)
        });
        for (place, (change, row)) in batch.iter().enumerate() {
            let left = left.next_if(|left| left.change == (at, place)).map(|left| left.key.clone());
            let from = self.bytes.len();
            table.write(change, row, now, &mut self.bytes);
            let value = from..self.bytes.len();
            for (key, partition) in whither(change, row, left, partitions) {
                self.records.push(Record { key, value: value.clone(), partition });
            }
        }
    }
}

/// Under which keys, or to which partitions, a change goes.
fn whither(change: &Change, row: Row<'_>, left: Option<String>, partitions: u32) -> Vec<(String, Option<u32>)> {
    let partition_by = row.stream.partition_by;
    let is_known = match change.op {
        _ if change.op.is_mark() => false,
        Op::Delete => partition_by.is_none() || left.is_some(),
        _ => partition_by.is_none_or(|column| row.cells[column] != UNCHANGED),
    };
    if !is_known {
        let everywhere = (0..partitions).map(|partition| (EVERYWHERE.to_owned(), Some(partition)));
        return everywhere.collect();
    }
    let own = (change.op != Op::Delete || left.is_none()).then(|| key_of(row));
    left.into_iter().chain(own).map(|key| (key, None)).collect()
}
