//! The simulated source: history as fast as it is taken, then live changes, each handed over when it is due.
//!
//! Positions count changes from 1, so that a kept folder is taken up where its store stands. What commits before [`live_start`] is history:
//! it builds state and is not judged.
//!
//! Invariant: nothing waits for company; a delivery holds what is due.

use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{IntoIter, Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use interdict_features::change::{Change as Applied, ChangeBatch, Op, Version};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use interdict_ingest::source::Delivery;
use interdict_ingest::source::stop::Stop;

use crate::run::clock;
use crate::run::sources::{DELIVERY, Intaker};
use crate::simulate::changes::{Change, Changes, Disturbances, LabelAs, What};
use crate::simulate::generator::{Config, DAY_MICROS, Generator, Length};

use super::tally::Tally;

/// The source's name in offsets and records.
pub(super) const SOURCE: &str = "simulation";
/// Simulated days that are learned before the first decision: past the widest window and its delay.
pub(super) const HISTORY_DAYS: u32 = 40;
/// Changes simulated ahead, so that drawing a day holds up nothing that is due.
const AHEAD: usize = 32_768;
/// A century: no demo gets there.
const DAYS_MAX: u32 = 36_500;

/// How far history is.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// Position of the last change handed over.
    pub(super) position: AtomicU64,
    /// Whether all of history is handed over.
    pub(super) is_fed: AtomicBool,
}

/// The source.
#[derive(Debug)]
pub(super) struct Traffic {
    seed: u64,
    speed: u32,
    stream: Arc<Stream>,
    columns: Columns,
    tally: Arc<Mutex<Tally>>,
    learning: Arc<Learning>,
    /// Live traffic begins when it yields; ends the source when the sender is gone.
    ready: Receiver<()>,
}

/// Where the stream has its columns.
#[derive(Clone, Copy, Debug)]
struct Columns {
    id: usize,
    time: usize,
    customer: usize,
    terminal: usize,
    amount: usize,
    label: usize,
}

type Numbered = Peekable<IntoIter<(u64, Change)>>;

/// The identity of the simulation: what depends on other options is another source.
pub(super) fn incarnation(seed: u64) -> String {
    format!("seed-{seed}-history-{HISTORY_DAYS}d")
}

fn config(seed: u64) -> Config {
    Config { seed, length: Length::Days(DAYS_MAX), ..Config::default() }
}

fn live_start(config: &Config) -> i64 {
    config.first_midnight() + i64::from(HISTORY_DAYS) * DAY_MICROS
}

impl Traffic {
    /// A source for `stream`, which must have the handbook's columns.
    pub(super) fn new(
        seed: u64,
        speed: u32,
        stream: &Arc<Stream>,
        tally: &Arc<Mutex<Tally>>,
        learning: &Arc<Learning>,
        ready: Receiver<()>,
    ) -> anyhow::Result<Self> {
        let column =
            |name: &str| stream.column(name).with_context(|| format!("stream '{}' has no '{name}'", stream.name));
        let columns = Columns {
            id: column("transaction_id")?,
            time: column("tx_datetime")?,
            customer: column("customer_id")?,
            terminal: column("terminal_id")?,
            amount: column("amount")?,
            label: column("is_fraud")?,
        };
        let (stream, tally, learning) = (Arc::clone(stream), Arc::clone(tally), Arc::clone(learning));
        Ok(Self { seed, speed, stream, columns, tally, learning, ready })
    }

    pub(super) fn incarnation(&self) -> String {
        incarnation(self.seed)
    }

    /// Hands over everything after `position` until stopped.
    pub(super) fn run(&self, intaker: &Intaker, stop: &Stop, position: Option<u64>) -> anyhow::Result<()> {
        let config = config(self.seed);
        let live_start = live_start(&config);
        let mut changes = simulate(config)?;
        let position = position.unwrap_or(0);
        while changes.next_if(|(at, _)| *at <= position).is_some() {
            if stop.is_stopped() {
                return Ok(());
            }
        }
        if self.learn(&mut changes, live_start, intaker, stop) == Next::Go && self.ready.recv().is_ok() {
            self.flow(&mut changes, intaker, stop);
        }
        Ok(())
    }

    fn learn(&self, changes: &mut Numbered, live_start: i64, intaker: &Intaker, stop: &Stop) -> Next {
        loop {
            let mut batch = ChangeBatch::new(Arc::clone(&self.stream), 0);
            while batch.len() < DELIVERY
                && let Some((position, change)) = changes.next_if(|(_, change)| change.commit_micros < live_start)
            {
                self.push(&mut batch, position, &change, Op::Snapshot);
            }
            let Some(delivery) = delivery(batch) else { break };
            let position = delivery.position;
            if stop.is_stopped() || !intaker.give(delivery) {
                return Next::End;
            }
            self.learning.position.store(position, Ordering::Release);
        }
        self.learning.is_fed.store(true, Ordering::Release);
        Next::Go
    }

    /// The n-th change (from 0) is due n/speed seconds after the beginning, whatever became of those before it.
    fn flow(&self, changes: &mut Numbered, intaker: &Intaker, stop: &Stop) {
        let began = clock::instant();
        let mut sent: u64 = 0;
        // Asked before anything is taken: what is counted as handed over is handed over.
        while !stop.is_stopped() {
            let now = clock::instant();
            let due = self.due_after(now - began).saturating_sub(sent);
            if due == 0 {
                if stop.wait((began + self.offset(sent)).saturating_duration_since(now)) {
                    return;
                }
                continue;
            }
            let mut batch = ChangeBatch::new(Arc::clone(&self.stream), 0);
            let mut payments = Vec::new();
            for (position, change) in changes.by_ref().take(usize::try_from(due).unwrap_or(DELIVERY).min(DELIVERY)) {
                if let What::Insert(row) = change.what {
                    payments.push((row.transaction, began + self.offset(sent)));
                }
                self.push(&mut batch, position, &change, Op::Insert);
                sent += 1;
            }
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).handed(payments);
            let Some(delivery) = delivery(batch) else { return };
            if !intaker.give(delivery) {
                return;
            }
        }
    }

    fn offset(&self, count: u64) -> Duration {
        Duration::from_nanos(count.saturating_mul(1_000_000_000) / u64::from(self.speed))
    }

    fn due_after(&self, elapsed: Duration) -> u64 {
        let whole = elapsed.as_nanos() * u128::from(self.speed) / 1_000_000_000;
        u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn push(&self, batch: &mut ChangeBatch, position: u64, change: &Change, insert: Op) {
        let (op, row) = match change.what {
            What::Insert(row) => (insert, row),
            What::Update { after, .. } => (Op::Update, after),
            What::Delete(row) => (Op::Delete, row),
            What::Chargeback(_) => unreachable!("labels come as updates of their rows"),
        };
        let columns = self.columns;
        let mut writer = batch.begin();
        writer.set_cell(columns.id, row.transaction.id);
        writer.set_cell(columns.time, row.transaction.time_micros);
        writer.set_cell(columns.customer, row.transaction.customer);
        writer.set_cell(columns.terminal, row.transaction.terminal);
        writer.set_cell(columns.amount, row.transaction.amount_minor);
        if let Some(is_fraud) = row.is_fraud {
            writer.set_cell(columns.label, i64::from(is_fraud));
        }
        let arrival = Some(Timestamp::from_micros(change.commit_micros));
        writer.finish(Applied { op, version: Version::new(change.lsn), arrival, position });
    }
}

/// All changes in order, drawn on a thread of their own that ends when nobody takes them.
fn simulate(config: Config) -> std::io::Result<Numbered> {
    let (ahead, changes) = sync_channel(AHEAD);
    let draw = move || {
        let seed = config.seed;
        let changes = Changes::new(Generator::new(config), seed, LabelAs::Update, Disturbances::default());
        for numbered in (1..).zip(changes) {
            if ahead.send(numbered).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("simulation-days".to_owned()).spawn(draw)?;
    Ok(changes.into_iter().peekable())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

/// The batch as it is handed over; `None` when it is empty.
fn delivery(batch: ChangeBatch) -> Option<Delivery> {
    let last = batch.len().checked_sub(1)?;
    let (position, records) = (batch.get(last).0.position, batch.len() as u64);
    Some(Delivery {
        batches: vec![batch],
        dead: Vec::new(),
        skipped: 0,
        records,
        partition: 0,
        position,
        left: Vec::new(),
    })
}
