//! Lines of CSV, JSON or Debezium as a source.

use std::sync::Arc;
use std::time::Duration;

use interdict_features::definition::Stream;

use crate::dead_letter::{DeadReason, Fault};
use crate::decoder::{LineDecoder, Outcome};

use super::config::{AtEnd, FileConfig, Format, Input};
use super::error::SourceError;
use super::lines::{LINE_BYTES_MAX, Line, LineReader, Look};
use super::stop::Stop;
use super::{Delivery, stream_called};

/// How often a followed file is looked at: well below the seconds that a decision may take, a system call each.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);

/// Records of a text file.
pub(super) struct TextSource {
    name: String,
    config: FileConfig,
    stop: Stop,
    reader: LineReader,
    decoder: LineDecoder,
    position: u64,
}

impl std::fmt::Debug for TextSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextSource").field("name", &self.name).field("position", &self.position).finish_non_exhaustive()
    }
}

impl TextSource {
    pub(super) fn open(
        name: &str,
        config: &FileConfig,
        streams: &[Arc<Stream>],
        stop: Stop,
    ) -> Result<Self, SourceError> {
        let decoder = match (config.format, &config.stream) {
            (Format::Debezium, None) => LineDecoder::debezium(streams, &config.reading),
            (Format::Debezium, Some(_)) => {
                LineDecoder::debezium(&[stream_called(name, config.stream.as_deref(), streams)?], &config.reading)
            }
            (Format::Csv, _) => {
                LineDecoder::csv(stream_called(name, config.stream.as_deref(), streams)?, &config.reading)
            }
            _ => LineDecoder::json(stream_called(name, config.stream.as_deref(), streams)?, &config.reading),
        };
        let reader = LineReader::open(&config.input, config.at_end)?;
        Ok(Self { name: name.to_owned(), config: config.clone(), stop, reader, decoder, position: 0 })
    }

    /// The first line that stands for the file; of CSV the header and the line after it.
    pub(super) fn identity(&self) -> Result<Option<Vec<u8>>, SourceError> {
        if self.config.input == Input::Stdin {
            return Ok(None);
        }
        let mut reader = LineReader::open(&self.config.input, self.config.at_end)?;
        let mut identity = Vec::new();
        let mut wanted = if self.config.format == Format::Csv { 2 } else { 1 };
        while wanted > 0 {
            match reader.next()? {
                Line::Whole(bytes) | Line::TooLong(bytes) => {
                    identity.extend_from_slice(bytes);
                    identity.push(b'\n');
                    wanted -= 1;
                }
                Line::End if self.config.at_end == AtEnd::Stop => break,
                Line::End => {
                    if self.stop.wait(FOLLOW_INTERVAL) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok((!identity.is_empty()).then_some(identity))
    }

    pub(super) fn resume(&mut self, position: u64) -> Result<(), SourceError> {
        if position == 0 {
            return Ok(());
        }
        if self.config.input == Input::Stdin {
            return Err(SourceError::NoResume { position });
        }
        if self.decoder.wants_header() {
            read_header(&mut self.reader, &mut self.decoder)?;
        }
        while self.position < position {
            match self.reader.next()? {
                Line::Whole(line) => self.decoder.pass_over(line, self.position + 1),
                Line::TooLong(_) => {}
                Line::End => {
                    let path = self.reader.path().to_owned();
                    return Err(SourceError::PositionBeyondEnd { path, records: self.position, position });
                }
            }
            self.position += 1;
        }
        Ok(())
    }

    pub(super) fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        let mut is_rotated = false;
        loop {
            if self.stop.is_stopped() {
                return Ok(None);
            }
            if let Some(delivery) = self.read(records_max)? {
                return Ok(Some(delivery));
            }
            if is_rotated {
                return Err(SourceError::Rotated { path: self.reader.path().to_owned(), records: self.position });
            }
            if self.config.at_end == AtEnd::Stop || self.config.input == Input::Stdin {
                return Ok(None);
            }
            if self.reader.look()? == Look::Rotated {
                // What was written between the last read and the rotation is still to be delivered.
                is_rotated = true;
                self.reader.end_at_end();
            } else if self.stop.wait(FOLLOW_INTERVAL) {
                return Ok(None);
            }
        }
    }

    /// The records that are there, `None` when there is none.
    fn read(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        if self.decoder.wants_header() && !read_header(&mut self.reader, &mut self.decoder)? {
            return Ok(None);
        }
        let (mut records, mut skipped, mut dead) = (0, 0, Vec::new());
        while records < records_max && (records == 0 || self.reader.is_ready()) {
            let (outcome, record) = match self.reader.next()? {
                Line::End => break,
                Line::Whole(line) => (self.decoder.decode(line, self.position + 1), line),
                Line::TooLong(beginning) => (Err(too_long()), beginning),
            };
            self.position += 1;
            records += 1;
            match outcome {
                Ok(Outcome::Row) => {}
                Ok(Outcome::Skipped) => skipped += 1,
                Err(fault) => dead.push(self.decoder.letter(&self.name, self.position, fault, record)),
            }
        }
        if records == 0 {
            return Ok(None);
        }
        let batches = self.decoder.take_batches();
        let (records, position) = (records as u64, self.position);
        Ok(Some(Delivery { batches, dead, skipped, records, partition: 0, position, left: Vec::new() }))
    }
}

fn too_long() -> Fault {
    Fault::new(DeadReason::LineTooLong, format!("line of more than {LINE_BYTES_MAX} bytes, skipped"))
}

/// Reads the header of a CSV file; says whether it is there yet.
fn read_header(reader: &mut LineReader, decoder: &mut LineDecoder) -> Result<bool, SourceError> {
    let path = reader.path().to_owned();
    match reader.next()? {
        Line::Whole(line) => decoder.set_header(&path, line).map(|()| true),
        Line::TooLong(_) => Err(SourceError::Header { path, why: "it is longer than a line may be".to_owned() }),
        Line::End => Ok(false),
    }
}
