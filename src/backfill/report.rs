//! What a backfill came to.

use anyhow::Context as _;

/// Counts and times of one backfill.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) output: String,
    /// Rows of the input.
    pub(crate) rows: u64,
    /// Rows of the output.
    pub(crate) events: usize,
    /// Rows that gave way to a newer version of their id.
    pub(crate) superseded: usize,
    /// Rows of ids that were deleted in the end.
    pub(crate) deleted: usize,
    /// Reports of labels that named a row.
    pub(crate) labelled: usize,
    /// Reports of labels that named none.
    pub(crate) unmatched_labels: usize,
    /// Rows that cannot be read.
    pub(crate) dead_letters: usize,
    /// Columns that were added.
    pub(crate) columns: usize,
    pub(crate) read_seconds: f64,
    pub(crate) evaluate_seconds: f64,
    pub(crate) write_seconds: f64,
    /// Making the output durable under its name.
    pub(crate) sync_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fill_seconds: Option<f64>,
}

impl Report {
    /// Rows per second of reading, evaluating and writing together.
    #[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
    pub(crate) fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds().max(1e-9)
    }

    /// Reading, evaluating and writing together.
    pub(crate) fn seconds(&self) -> f64 {
        self.read_seconds + self.evaluate_seconds + self.write_seconds
    }

    /// Prints to standard output.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            let mut value = serde_json::to_value(self).context("the report cannot be written")?;
            value["rows_per_second"] = self.rate().into();
            say!("{value}");
            return Ok(());
        }
        say!("{} events of {} rows, {} columns added: {}", self.events, self.rows, self.columns, self.output);
        let counts = [
            (self.superseded, "rows gave way to a newer version of their id"),
            (self.deleted, "rows of deleted ids"),
            (self.labelled, "labels matched"),
            (self.unmatched_labels, "labels named no row"),
            (self.dead_letters, "dead letters"),
        ];
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            say!("{count} {what}");
        }
        say!(
            "read {:.2} s, evaluate {:.2} s, write {:.2} s: {:.0} rows/s; made durable in {:.2} s",
            self.read_seconds,
            self.evaluate_seconds,
            self.write_seconds,
            self.rate(),
            self.sync_seconds
        );
        if let Some(seconds) = self.fill_seconds {
            say!("store filled in {seconds:.2} s");
        }
        Ok(())
    }
}
