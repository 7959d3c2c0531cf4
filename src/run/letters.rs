//! Dead letters of a running engine: kept, counted, and on disk before the offsets move past them.

use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::change::{ChangeBatch, Op};
use interdict_features::definition::OnTruncate;
use interdict_features::engine::{Outcome, Output, Refused};
use interdict_ingest::dead_letter::file::{DeadLetterError, DeadLetterFile};
use interdict_ingest::dead_letter::{DeadLetter, DeadReason};
use interdict_ingest::source::stop::Stop;
use interdict_store::port::{Append, Commit, LogName};

use super::patience::wait_to_retry;
use super::stats::Stats;

/// The dead letters of one engine.
#[derive(Debug)]
pub(crate) struct Letters {
    file: DeadLetterFile,
    stats: Arc<Stats>,
    stop: Stop,
    /// Some were written since the file was flushed.
    is_unflushed: bool,
    /// What sinks are to have of them and no commit holds yet; `None`: no sink takes any.
    waiting: Option<Vec<Append>>,
}

impl Letters {
    pub(crate) fn new(file: DeadLetterFile, stats: Arc<Stats>, stop: Stop) -> Self {
        Self { file, stats, stop, is_unflushed: false, waiting: None }
    }

    /// From now on letters go to the store's log too, for sinks.
    pub(crate) fn log(&mut self) {
        self.waiting.get_or_insert_default();
    }

    /// Adds to `commit` what sinks are to have.
    pub(crate) fn fill(&mut self, commit: &mut Commit) {
        if let Some(waiting) = &mut self.waiting {
            commit.appends.append(waiting);
        }
    }

    /// Keeps and counts letters. One that is kept already is not kept again.
    pub(crate) fn bury(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        self.keep(letters)?;
        self.count(letters);
        Ok(())
    }

    /// Keeps letters of what is not stored yet, and may come to be done again. One that is kept already is not kept again.
    pub(crate) fn keep(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        self.with_file(|file| file.write(letters))?;
        self.is_unflushed = true;
        if let Some(waiting) = &mut self.waiting {
            waiting.append(&mut appends(letters)?);
        }
        Ok(())
    }

    /// Counts letters whose records are stored, or go with the next checkpoint.
    pub(crate) fn count(&self, letters: &[DeadLetter]) {
        for letter in letters {
            self.stats.count_dead(letter.reason.code(), 1);
            tracing::debug!(position = letter.position, reason = letter.reason.code(), "dead letter");
        }
    }

    /// Puts on disk what was kept.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        if self.is_unflushed {
            self.with_file(DeadLetterFile::flush)?;
            self.is_unflushed = false;
        }
        Ok(())
    }

    /// Does something to the file, again and again while the disk refuses it.
    fn with_file<T>(
        &mut self,
        mut act: impl FnMut(&mut DeadLetterFile) -> Result<T, DeadLetterError>,
    ) -> anyhow::Result<T> {
        loop {
            match act(&mut self.file) {
                Ok(done) => return Ok(done),
                Err(error) => {
                    tracing::error!(%error, "a dead letter cannot be kept; intake waits");
                    wait_to_retry(&self.stop)?;
                }
            }
        }
    }
}

/// Letters as sinks are to have them.
pub(crate) fn appends(letters: &[DeadLetter]) -> anyhow::Result<Vec<Append>> {
    let append = |letter: &DeadLetter| {
        let bytes = serde_json::to_vec(letter).context("a dead letter")?;
        Ok(Append { log: LogName::DEAD_LETTERS, bytes: bytes.into() })
    };
    letters.iter().map(append).collect()
}

/// The letters of what state refused in a batch that came to `output`.
pub(crate) fn refused(source: &str, batch: &ChangeBatch, output: &Output) -> anyhow::Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for (index, outcome) in output.outcomes.iter().enumerate() {
        match outcome {
            Outcome::Applied | Outcome::Ignored(_) => {}
            Outcome::Refused(refused) => letters.push(letter(source, batch, index, *refused)),
            Outcome::Truncated if batch.get(index).0.op != Op::Truncate => anyhow::bail!(
                "changes of stream '{}' were lost up to position {} of {source}, and newer ones were applied before: fill a new namespace",
                batch.stream().name,
                batch.get(index).0.position
            ),
            Outcome::Truncated => anyhow::bail!(
                "the table of stream '{}' was truncated at position {} of {source}{}",
                batch.stream().name,
                batch.get(index).0.position,
                if batch.stream().on_truncate == OnTruncate::Clear {
                    ", and newer changes of it were applied before: fill a new namespace"
                } else {
                    "; set on_truncate = \"clear\" to forget what came of its rows, \"ignore\" to keep it, or fill a new namespace"
                }
            ),
        }
    }
    Ok(letters)
}

/// The letter of what state refuses of a batch.
pub(crate) fn letter(source: &str, batch: &ChangeBatch, index: usize, refused: Refused) -> DeadLetter {
    let (reason, detail) = match refused {
        Refused::NoId => (DeadReason::NullId, "the event has no id"),
        Refused::NoTime => (DeadReason::NullTime, "the event has no time"),
        Refused::Future => (DeadReason::FutureTime, "the event's time lies too far beyond its arrival"),
        Refused::AppendOnly => (DeadReason::Refused, "the stream is append_only, and this is no new row"),
        Refused::TooLate => (DeadReason::Refused, "the event is older than what is remembered of its entities"),
    };
    let (change, row) = batch.get(index);
    let is_sensitive = row.stream.columns.iter().any(|column| column.sensitive);
    DeadLetter {
        source: source.to_owned(),
        partition: batch.partition(),
        position: change.position,
        // Rows of one transaction share its position.
        row: (change.version.minor > 0).then_some(change.version.minor),
        stream: None,
        id: None,
        version: None,
        op: Some(change.op),
        reason,
        detail: detail.to_owned(),
        payload: if is_sensitive { None } else { row.event_id() },
    }
}

#[cfg(test)]
mod tests {
    use interdict_features::change::{Change, Version};
    use interdict_features::definition::{Column, Stream};
    use interdict_features::value::ColumnType;
    use interdict_ingest::dead_letter::file::Bounds;

    use super::*;

    #[test]
    fn refused_rows_of_one_transaction_have_letters_of_their_own() {
        let column = |name: &str, kind, sensitive| Column { name: name.to_owned(), kind, sensitive };
        let columns = vec![
            column("id", ColumnType::Int, false),
            column("at", ColumnType::Timestamp, false),
            column("card", ColumnType::Text, true),
        ];
        let stream = Arc::new(Stream::of_columns("payments", columns, 0, Some(1)));
        let mut batch = ChangeBatch::new(stream, 0);
        for minor in 1..=3 {
            let mut row = batch.begin();
            row.set_cell(0, i64::from(minor));
            row.set_cell(1, 5);
            row.finish(Change { op: Op::Insert, version: Version { major: 7, minor }, arrival: None, position: 7 });
        }
        let folder = tempfile::tempdir().unwrap();
        let mut file = DeadLetterFile::open(&folder.path().join("dead.jsonl"), Bounds::default()).unwrap();
        let letters: Vec<DeadLetter> = (0..3).map(|row| letter("bank", &batch, row, Refused::Future)).collect();
        assert_eq!(file.write(&letters).unwrap(), 3);
        assert_eq!(file.write(&letters).unwrap(), 0, "a replay writes none of them twice");
    }
}
