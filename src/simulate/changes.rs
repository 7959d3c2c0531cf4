//! Transactions as the changes of a table: inserts, late labels, corrections, deletions, in order of delivery.
//!
//! Invariant: every transaction is inserted exactly once (repeated deliveries are marked), before each of its other
//! changes in order of commit; the log sequence number ascends with the commit time and is the same in every delivery.
//! Invariant: memory holds the changes that are still to come of what was inserted, not the output.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::generator::{self, Transaction};

/// A late insert commits at most so long after its transaction.
const LATE_MICROS_MAX: i64 = 600_000_000;
/// A shuffled or repeated delivery comes at most so long after its commit.
const DELIVERY_MICROS_MAX: i64 = 600_000_000;
/// An amount is corrected at most so long after the insert.
const CORRECTION_MICROS_MAX: i64 = 3_600_000_000;
/// A row is deleted at most so long after the insert.
const DELETION_MICROS_MAX: i64 = 86_400_000_000;
/// Where log sequence numbers begin, and their distance.
const LSN_FIRST: u64 = 0x0160_0000;
const LSN_STEP: u64 = 0x38;

/// How the label of a transaction becomes known to a reader of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LabelAs {
    /// In the row from the beginning: history as it is exported later.
    Known,
    /// In the row from the beginning, with a column `reported_at`.
    Column,
    /// By an UPDATE of the row when the chargeback is reported.
    Update,
    /// By a chargeback record that carries only the id.
    Stream,
    /// Never.
    None,
}

/// Shares of what makes a stream hard to read, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Disturbances {
    /// Transactions that commit up to ten minutes after their time.
    pub(crate) late: f64,
    /// Changes delivered up to ten minutes after later ones.
    pub(crate) shuffled: f64,
    /// Changes delivered a second time.
    pub(crate) duplicated: f64,
    /// Transactions whose amount is corrected.
    pub(crate) corrected: f64,
    /// Transactions whose row is deleted.
    pub(crate) deleted: f64,
}

impl Disturbances {
    fn are_any(&self) -> bool {
        [self.late, self.shuffled, self.duplicated, self.corrected, self.deleted].iter().any(|share| *share > 0.0)
    }
}

/// One version of a transaction's row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    /// The columns.
    pub(crate) transaction: Transaction,
    /// The label column: null until known.
    pub(crate) is_fraud: Option<bool>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    /// The row came into being.
    Insert(Row),
    /// The row changed.
    Update {
        /// As it was.
        before: Row,
        /// As it is.
        after: Row,
    },
    /// The row is gone; it was this.
    Delete(Row),
    /// A chargeback was reported for the transaction with this id.
    Chargeback(i64),
}

/// One committed change as it is delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// What happened.
    pub(crate) what: What,
    /// When it was committed.
    pub(crate) commit_micros: i64,
    /// When it is delivered; the order of the output.
    pub(crate) delivered_micros: i64,
    /// Its place in the database's log.
    pub(crate) lsn: u64,
    /// Whether it was delivered before.
    pub(crate) repeated: bool,
}

/// Turns transactions into changes in order of delivery.
#[derive(Debug)]
pub(crate) struct Changes<I: Iterator<Item = Transaction>> {
    transactions: Peekable<I>,
    seed: u64,
    label_as: LabelAs,
    disturbances: Disturbances,
    next: Option<(i64, What)>,
    uncommitted: BinaryHeap<Reverse<Due<What>>>,
    undelivered: BinaryHeap<Reverse<Due<Change>>>,
    sequence: u64,
    commits: u64,
}

/// Something that is due at a time; equal times keep the order in which they were planned.
#[derive(Debug)]
struct Due<T> {
    at: i64,
    sequence: u64,
    item: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl<I: Iterator<Item = Transaction>> Changes<I> {
    /// Takes `transactions` in order of time.
    pub(crate) fn new(transactions: I, seed: u64, label_as: LabelAs, disturbances: Disturbances) -> Self {
        Self {
            transactions: transactions.peekable(),
            seed,
            label_as,
            disturbances,
            next: None,
            uncommitted: BinaryHeap::new(),
            undelivered: BinaryHeap::new(),
            sequence: 0,
            commits: 0,
        }
    }

    fn plan(&mut self, at: i64, what: What) {
        self.sequence += 1;
        self.uncommitted.push(Reverse(Due { at, sequence: self.sequence, item: what }));
    }

    /// Plans the later life of a transaction and returns its insert, unless that is late too.
    fn begin(&mut self, transaction: Transaction) -> Option<(i64, What)> {
        let mut random = self.disturbances.are_any().then(|| generator::disturbance_stream(self.seed, transaction.id));
        let label = match self.label_as {
            LabelAs::Known | LabelAs::Column => Some(transaction.reported_micros.is_some()),
            LabelAs::Update | LabelAs::Stream | LabelAs::None => None,
        };
        let mut row = Row { transaction, is_fraud: label };
        let late = delay(&mut random, self.disturbances.late, LATE_MICROS_MAX);
        let committed = transaction.time_micros + late.unwrap_or(0);
        if late.is_some() {
            self.plan(committed, What::Insert(row));
        }
        let insert = late.is_none().then_some((committed, What::Insert(row)));

        let correction = delay(&mut random, self.disturbances.corrected, CORRECTION_MICROS_MAX);
        let deletion = delay(&mut random, self.disturbances.deleted, DELETION_MICROS_MAX);
        let deletion = deletion.map(|after| committed + after);
        let correction = correction.map(|after| committed + after).filter(|at| deletion.is_none_or(|end| *at < end));
        if let Some(at) = correction {
            let before = row;
            row.transaction.amount_minor += random.as_mut().map_or(0, |random| random.random_range(1..=500));
            self.plan(at, What::Update { before, after: row });
        }
        self.plan_label(correction.unwrap_or(committed), row, deletion);
        insert
    }

    /// Plans the label, never before the row is what it says it was, then the deletion: a deleted row gets no label.
    fn plan_label(&mut self, earliest: i64, row: Row, deletion: Option<i64>) {
        let mut last = row;
        if let Some(reported) = row.transaction.reported_micros.map(|at| at.max(earliest)) {
            match self.label_as {
                LabelAs::Update if deletion.is_none_or(|end| reported < end) => {
                    last.is_fraud = Some(true);
                    self.plan(reported, What::Update { before: row, after: last });
                }
                LabelAs::Stream => self.plan(reported, What::Chargeback(row.transaction.id)),
                _ => {}
            }
        }
        if let Some(end) = deletion {
            self.plan(end, What::Delete(last));
        }
    }

    fn next_commit(&mut self) -> Option<(i64, What)> {
        loop {
            let planned = self.uncommitted.peek().map(|due| due.0.at);
            let next = self.transactions.peek().map(|transaction| transaction.time_micros);
            match (planned, next) {
                (Some(at), Some(time)) if at <= time => {}
                (Some(_), None) => {}
                (_, Some(_)) => {
                    let transaction = self.transactions.next()?;
                    if let Some(insert) = self.begin(transaction) {
                        return Some(insert);
                    }
                    continue;
                }
                (None, None) => return None,
            }
            return self.uncommitted.pop().map(|Reverse(due)| (due.at, due.item));
        }
    }

    fn deliver_later(&mut self, after: i64, mut change: Change) {
        self.sequence += 1;
        change.delivered_micros = change.commit_micros + after;
        self.undelivered.push(Reverse(Due { at: change.delivered_micros, sequence: self.sequence, item: change }));
    }
}

impl<I: Iterator<Item = Transaction>> Iterator for Changes<I> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        loop {
            let next = self.next.take().or_else(|| self.next_commit());
            let until = next.as_ref().map_or(i64::MAX, |(at, _)| *at);
            if self.undelivered.peek().is_some_and(|due| due.0.at <= until) {
                self.next = next;
                return self.undelivered.pop().map(|Reverse(due)| due.item);
            }
            let (commit_micros, what) = next?;
            self.commits += 1;
            let lsn = LSN_FIRST + self.commits * LSN_STEP;
            let change = Change { what, commit_micros, delivered_micros: commit_micros, lsn, repeated: false };
            if self.disturbances.shuffled <= 0.0 && self.disturbances.duplicated <= 0.0 {
                return Some(change);
            }
            let mut random = Some(generator::delivery_stream(self.seed, self.commits));
            let shuffled = delay(&mut random, self.disturbances.shuffled, DELIVERY_MICROS_MAX);
            if let Some(after) = delay(&mut random, self.disturbances.duplicated, DELIVERY_MICROS_MAX) {
                self.deliver_later(shuffled.unwrap_or(0) + after, Change { repeated: true, ..change });
            }
            match shuffled {
                Some(after) => self.deliver_later(after, change),
                None => return Some(change),
            }
        }
    }
}

/// A delay of up to `most`, as often as `share` says.
fn delay(random: &mut Option<ChaCha8Rng>, share: f64, most: i64) -> Option<i64> {
    let random = random.as_mut()?;
    let hit = random.random::<f64>() < share;
    let after = random.random_range(1..=most);
    hit.then_some(after)
}
