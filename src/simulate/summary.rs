//! Progress while writing and the summary at the end.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use interdict_features::time::Timestamp;
use serde_json::json;

use super::Simulate;
use super::changes::{Change, What};
use super::format::Sink;
use super::generator::{DAY_MICROS, Length, Scenario};
use super::pace;

/// The bar is moved once per so many transactions.
const ADVANCE_EVERY: u64 = 4_096;

/// A bar on a terminal, a line per tenth elsewhere.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    expected: u64,
    tenths: u64,
    began: Instant,
}

impl Progress {
    pub(super) fn begin(expected: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:32} {human_pos} of {human_len} transactions, {eta} left");
            ProgressBar::with_draw_target(Some(expected), ProgressDrawTarget::stderr())
                .with_style(style.unwrap_or_else(|_invalid| ProgressStyle::default_bar()))
        });
        Self { bar, expected, tenths: 0, began: pace::now() }
    }

    pub(super) fn advance(&mut self, transactions: u64) {
        match &self.bar {
            Some(bar) if transactions.is_multiple_of(ADVANCE_EVERY) => bar.set_position(transactions),
            Some(_) => {}
            None => {
                let tenths = transactions.saturating_mul(10) / self.expected.max(1);
                if tenths > self.tenths && tenths < 10 {
                    self.tenths = tenths;
                    eprintln!("simulate: {transactions} of about {} transactions", self.expected);
                }
            }
        }
    }

    pub(super) fn finish(&self, transactions: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(transactions);
            bar.finish_and_clear();
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        pace::now().duration_since(self.began)
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) transactions: u64,
    pub(super) reader_closed: bool,
    /// Payments that were not taken because the account is blocked.
    pub(super) refused: u64,
    changes: u64,
    updates: u64,
    deletes: u64,
    chargebacks: u64,
    repeated: u64,
    frauds: [u64; Scenario::ALL.len()],
    first_micros: Option<i64>,
    last_micros: i64,
}

impl Summary {
    pub(super) fn add(&mut self, change: &Change) {
        self.changes += 1;
        if change.repeated {
            self.repeated += 1;
            return;
        }
        match change.what {
            What::Insert(row) => {
                self.transactions += 1;
                let time = row.transaction.time_micros;
                self.first_micros = Some(self.first_micros.map_or(time, |first| first.min(time)));
                self.last_micros = self.last_micros.max(time);
                if let Some(scenario) = row.transaction.scenario {
                    self.frauds[usize::from(scenario.number()) - 1] += 1;
                }
            }
            What::Update { .. } => self.updates += 1,
            What::Delete(_) => self.deletes += 1,
            What::Chargeback(_) => self.chargebacks += 1,
        }
    }

    /// Whether no transaction is still to come at `micros`.
    pub(super) fn is_complete(&self, length: Length, micros: i64, midnight: i64) -> bool {
        match length {
            Length::Transactions(count) => self.transactions >= count,
            Length::Days(days) => micros >= midnight.saturating_add(i64::from(days).saturating_mul(DAY_MICROS)),
        }
    }

    /// Prints to standard output, or beside it where that holds the data.
    pub(super) fn print(&self, options: &Simulate, elapsed: Duration, standard: bool) {
        let text = if options.json { self.json(elapsed) } else { self.text(elapsed) };
        if standard {
            eprintln!("{text}");
        } else {
            let _closed = writeln!(io::stdout(), "{text}");
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
    fn rate(&self, elapsed: Duration) -> f64 {
        self.transactions as f64 / elapsed.as_secs_f64().max(1e-9)
    }

    fn json(&self, elapsed: Duration) -> String {
        let frauds: serde_json::Map<_, _> = Scenario::ALL
            .iter()
            .map(|scenario| (scenario.name().to_owned(), self.frauds[usize::from(scenario.number()) - 1].into()))
            .collect();
        json!({
            "transactions": self.transactions,
            "changes": self.changes,
            "updates": self.updates,
            "deletes": self.deletes,
            "chargebacks": self.chargebacks,
            "repeated": self.repeated,
            "refused": self.refused,
            "frauds": frauds,
            "first": self.first_micros.map(Timestamp::from_micros),
            "last": self.first_micros.map(|_| Timestamp::from_micros(self.last_micros)),
            "reader_closed": self.reader_closed,
            "seconds": elapsed.as_secs_f64(),
            "transactions_per_second": self.rate(elapsed),
        })
        .to_string()
    }

    fn text(&self, elapsed: Duration) -> String {
        let frauds: u64 = self.frauds.iter().sum();
        let kinds: Vec<String> = Scenario::ALL
            .iter()
            .map(|scenario| format!("{} {}", self.frauds[usize::from(scenario.number()) - 1], scenario.name()))
            .collect();
        let span = self.first_micros.map_or_else(String::new, |first| {
            format!(" from {} to {}", Timestamp::from_micros(first), Timestamp::from_micros(self.last_micros))
        });
        format!(
            "{} transactions{span}\n{frauds} frauds: {}\n{} changes: {} updates, {} deletes, {} chargebacks, {} repeated\n{:.2} s, {:.0} transactions/s{}{}",
            self.transactions,
            kinds.join(", "),
            self.changes,
            self.updates,
            self.deletes,
            self.chargebacks,
            self.repeated,
            elapsed.as_secs_f64(),
            self.rate(elapsed),
            if self.refused > 0 {
                format!("\n{} payments of blocked accounts were refused", self.refused)
            } else {
                String::new()
            },
            if self.reader_closed { "\nthe reader closed standard output before the end" } else { "" }
        )
    }
}

/// The first line of the truth.
pub(super) const TRUTH_HEAD: &str = "transaction_id,scenario,name,reported_at";

/// Adds a line for each fraud when it is inserted.
pub(super) fn write_truth(sink: &mut Sink, change: &Change) -> io::Result<()> {
    let What::Insert(row) = change.what else {
        return Ok(());
    };
    if change.repeated || !row.transaction.is_fraud() {
        return Ok(());
    }
    let Some(scenario) = row.transaction.scenario else {
        return Ok(());
    };
    let reported = row.transaction.reported_micros.map(|at| Timestamp::from_micros(at).to_string()).unwrap_or_default();
    writeln!(sink, "{},{},{},{reported}", row.transaction.id, scenario.number(), scenario.name())
}
