//! Records of a topic as deliveries.

use std::sync::Arc;

use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;

use crate::dead_letter::{DeadLetter, DeadReason, Fault};
use crate::decoder::{LineDecoder, Outcome, Record};
use crate::source::config::Format;
use crate::source::config::topic::TopicConfig;
use crate::source::error::SourceError;
use crate::source::lines::LINE_BYTES_MAX;
use crate::source::{Delivery, stream_called};

/// One record of a topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicRecord<'a> {
    /// Its offset.
    pub offset: u64,
    /// The broker's timestamp.
    pub timestamp: Option<Timestamp>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None`: a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Gathers the records of one partition after the other into deliveries.
pub struct TopicDecoder {
    name: String,
    decoder: LineDecoder,
    partition: u32,
    dead: Vec<DeadLetter>,
    skipped: u64,
    records: u64,
    position: u64,
}

impl std::fmt::Debug for TopicDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicDecoder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TopicDecoder {
    /// A decoder for the source called `name`.
    ///
    /// # Errors
    /// The configured stream does not exist.
    pub fn new(name: &str, config: &TopicConfig, streams: &[Arc<Stream>]) -> Result<Self, SourceError> {
        let decoder = match (config.format, config.stream.as_deref()) {
            (Format::Debezium, None) if !config.tables.is_empty() => {
                let tables = config.tables.iter().map(|table| {
                    Ok((
                        format!("{}.{}", table.schema, table.table),
                        stream_called(name, Some(&table.stream), streams)?,
                    ))
                });
                LineDecoder::debezium_of(tables.collect::<Result<_, SourceError>>()?, &config.reading)
            }
            (Format::Debezium, None) => LineDecoder::debezium(streams, &config.reading),
            (Format::Debezium, wanted) => {
                LineDecoder::debezium(&[stream_called(name, wanted, streams)?], &config.reading)
            }
            (_, wanted) => LineDecoder::json(stream_called(name, wanted, streams)?, &config.reading),
        };
        let name = name.to_owned();
        Ok(Self { name, decoder, partition: 0, dead: Vec::new(), skipped: 0, records: 0, position: 0 })
    }

    /// Adds a record of `partition`; all of one delivery are of the same.
    pub fn push(&mut self, partition: u32, record: &TopicRecord<'_>) {
        if self.records == 0 {
            self.partition = partition;
            self.decoder.set_partition(partition);
        }
        debug_assert_eq!(self.partition, partition, "a delivery holds one partition");
        self.records += 1;
        self.position = record.offset;
        let Some(value) = record.value else {
            self.skipped += 1;
            return;
        };
        match self.decode(record, value) {
            Ok(Outcome::Row) => {}
            Ok(Outcome::Skipped) => self.skipped += 1,
            Err(fault) => self.dead.push(self.decoder.letter(&self.name, record.offset, fault, value)),
        }
    }

    fn decode(&mut self, record: &TopicRecord<'_>, value: &[u8]) -> Result<Outcome, Fault> {
        if value.len() > LINE_BYTES_MAX {
            let detail = format!("record of more than {LINE_BYTES_MAX} bytes, skipped");
            return Err(Fault::new(DeadReason::LineTooLong, detail));
        }
        self.decoder.decode_record(&Record {
            position: record.offset,
            ordinal: record.offset + 1,
            key: record.key,
            value,
            arrival: record.timestamp,
        })
    }

    /// How many records were pushed since the last delivery.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.records).unwrap_or(usize::MAX)
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The records pushed since the last call.
    pub fn take(&mut self) -> Delivery {
        Delivery {
            batches: self.decoder.take_batches(),
            dead: std::mem::take(&mut self.dead),
            skipped: std::mem::take(&mut self.skipped),
            records: std::mem::take(&mut self.records),
            partition: self.partition,
            position: self.position,
            left: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
